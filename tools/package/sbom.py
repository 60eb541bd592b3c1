#!/usr/bin/env python3
"""Writes FOLDER/engine.spdx.json: what a bundle contains, as SPDX 2.3, with versions and licences
as dpkg and the packages' copyright files say."""

import argparse
import datetime
import hashlib
import json
import os
import subprocess
import uuid
from pathlib import Path
from typing import Any, Dict, List

from debian_copyright import licences_of

SELF = "SPDXRef-Package-engine"


def identifier(kind: str, name: str) -> str:
    """SPDX allows letters, digits, dots and dashes; bytes of others stand as two digits each."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in ".-") else
                    "".join(f"-{byte:02x}-" for byte in c.encode()) for c in name)
    return f"SPDXRef-{kind}-{plain}"


def debian_package(name: str, references: Dict[str, Dict[str, str]]) -> Dict[str, Any]:
    """A package as installed here. New licences go into `references`."""
    fields = subprocess.run(
        ["dpkg-query", "--show", "--showformat",
         "${Version}\n${Architecture}\n${source:Package}\n${source:Version}\n${Homepage}\n", name],
        check=True, stdout=subprocess.PIPE, universal_newlines=True).stdout.split("\n")
    version, architecture, source, source_version, homepage = fields[:5]
    package: Dict[str, Any] = {
        "SPDXID": identifier("Package", name), "name": name, "versionInfo": version,
        "supplier": "Organization: Debian", "downloadLocation": "NOASSERTION",
        "filesAnalyzed": False, "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION", "copyrightText": "NOASSERTION",
        "sourceInfo": f"built by Debian from {source} {source_version}",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl",
            "referenceLocator": f"pkg:deb/debian/{name}@{version.replace('+', '%2B')}"
                                f"?arch={architecture}"}]}
    if homepage:
        package["homepage"] = homepage
    copyright_file = Path("/usr/share/doc") / name / "copyright"
    if copyright_file.exists():
        licences = licences_of(name, copyright_file)
        package.update(licenseDeclared=licences.expression, copyrightText=licences.copyright)
        for reference, text in licences.texts.items():
            references[reference] = {"licenseId": reference, "extractedText": text,
                                     "name": reference[len("LicenseRef-"):]}
    return package


def cuda_package(version: str, references: Dict[str, Dict[str, str]]) -> Dict[str, Any]:
    """The CUDA run time, a static library of NVIDIA's."""
    reference = "LicenseRef-NVIDIA-CUDA-EULA"
    references[reference] = {
        "licenseId": reference, "name": "NVIDIA CUDA Toolkit End User License Agreement",
        "extractedText": "The CUDA run time may be distributed with an application under the terms "
                         "of NVIDIA's agreement: https://docs.nvidia.com/cuda/eula/",
        "seeAlsos": ["https://docs.nvidia.com/cuda/eula/"]}
    return {"SPDXID": "SPDXRef-Package-cudart-static", "name": "cudart_static",
            "versionInfo": version, "supplier": "Organization: NVIDIA Corporation",
            "downloadLocation": "NOASSERTION", "filesAnalyzed": False,
            "licenseConcluded": "NOASSERTION", "licenseDeclared": reference,
            "copyrightText": "NVIDIA Corporation"}


def file_entry(folder: Path, path: Path) -> Dict[str, Any]:
    data = path.read_bytes()
    name = path.relative_to(folder).as_posix()
    kind = "BINARY" if data[:4] == b"\x7fELF" else "OTHER"
    if path.suffix in (".md", ".html", ".txt"):
        kind = "DOCUMENTATION"
    elif path.suffix in (".py", ".fish") or data[:2] == b"#!":
        kind = "SOURCE"
    return {"SPDXID": identifier("File", name), "fileName": f"./{name}", "fileTypes": [kind],
            "checksums": [{"algorithm": algorithm.upper(),
                           "checksumValue": hashlib.new(algorithm, data).hexdigest()}
                          for algorithm in ("sha1", "sha256")],
            "licenseConcluded": "NOASSERTION", "copyrightText": "NOASSERTION"}


def now() -> datetime.datetime:
    """$SOURCE_DATE_EPOCH, if it is set, for bundles that are made again."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    utc = datetime.timezone.utc
    return datetime.datetime.fromtimestamp(int(epoch), utc) if epoch else datetime.datetime.now(utc)


def document(options: argparse.Namespace) -> Dict[str, Any]:
    folder: Path = options.folder
    files = [file_entry(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
    # The identity of all files of the package, as SPDX defines it.
    digests = sorted(entry["checksums"][0]["checksumValue"] for entry in files)
    code = hashlib.sha1("".join(digests).encode()).hexdigest()
    licence = (folder / "LICENSE").read_text(encoding="utf-8")
    owner = next(line for line in licence.split("\n") if line.startswith("Copyright"))
    packages: List[Dict[str, Any]] = [{
        "SPDXID": SELF, "name": "engine", "versionInfo": options.version,
        "downloadLocation": "NOASSERTION", "filesAnalyzed": True,
        "packageVerificationCode": {"packageVerificationCodeValue": code},
        "licenseConcluded": "NOASSERTION", "licenseDeclared": "MIT",
        "licenseInfoFromFiles": ["NOASSERTION"], "copyrightText": owner,
        "sourceInfo": f"commit {options.commit}"}]
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", SELF)]
    references: Dict[str, Dict[str, str]] = {}
    known = set()

    def add(name: str) -> str:
        if name not in known:
            known.add(name)
            packages.append(debian_package(name, references))
        return identifier("Package", name)

    for name, package in options.library:
        relations += [(SELF, "DYNAMIC_LINK", add(package)),
                      (identifier("File", name), "COPY_OF", add(package))]
    for package in options.compiled_in:
        relations.append((SELF, "STATIC_LINK", add(package)))
    for name, package in options.file_of:
        relations.append((identifier("File", name), "COPY_OF", add(package)))
    if options.cuda:
        packages.append(cuda_package(options.cuda, references))
        relations.append((SELF, "STATIC_LINK", packages[-1]["SPDXID"]))
    relations += [(SELF, "CONTAINS", entry["SPDXID"]) for entry in files]
    named = uuid.uuid5(uuid.NAMESPACE_URL, f"engine {options.version} {options.commit} {code}")
    return {
        "spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"engine-{options.version}", "documentNamespace": f"urn:uuid:{named}",
        "creationInfo": {"created": now().strftime("%Y-%m-%dT%H:%M:%SZ"),
                         "creators": [f"Tool: engine-sbom-{options.version}"]},
        "packages": packages, "files": files,
        "hasExtractedLicensingInfos": [references[name] for name in sorted(references)],
        "relationships": [{"spdxElementId": a, "relationshipType": kind, "relatedSpdxElement": b}
                          for a, kind, b in dict.fromkeys(relations)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of a bundle")
    parser.add_argument("--version", required=True)
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--library", nargs=2, action="append", default=[],
                        metavar=("FILE", "PACKAGE"), help="a library, and what it was copied from")
    parser.add_argument("--file-of", nargs=2, action="append", default=[],
                        metavar=("FILE", "PACKAGE"), help="another file that was copied")
    parser.add_argument("--compiled-in", action="append", default=[], metavar="PACKAGE",
                        help="a package whose headers are compiled in")
    parser.add_argument("--cuda", metavar="VERSION", help="CUDA's run time is linked in")
    options = parser.parse_args()
    out = options.folder / "engine.spdx.json"
    out.unlink(missing_ok=True)
    out.write_text(json.dumps(document(options), indent=1, ensure_ascii=False) + "\n",
                   encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
