"""Licences and copyright of a Debian package, from its machine-readable copyright file (DEP-5), as
SPDX expressions."""

import re
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional

# Debian's short names, in lower case, that differ from SPDX's identifiers.
SPDX_OF_DEBIAN = {
    "expat": "MIT", "mit": "MIT", "mit/x11": "X11", "x11": "X11",
    "zlib": "Zlib", "apache-2": "Apache-2.0", "apache-2.0": "Apache-2.0",
    "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "isc": "ISC", "curl": "curl", "ftl": "FTL", "libpng": "Libpng", "openssl": "OpenSSL",
    "bsl-1.0": "BSL-1.0", "boost-1.0": "BSL-1.0", "cc0-1.0": "CC0-1.0", "cc0": "CC0-1.0",
    "mpl-2.0": "MPL-2.0", "mpl-1.1": "MPL-1.1", "unlicense": "Unlicense", "0bsd": "0BSD",
    "artistic": "Artistic-1.0-Perl", "unicode-dfs-2016": "Unicode-DFS-2016", "ijg": "IJG",
    "gfdl-1.3": "GFDL-1.3-only", "gfdl-1.3+": "GFDL-1.3-or-later",
}
for family, versions in (("gpl", "1 2 3"), ("lgpl", "2 2.1 3"), ("agpl", "3")):
    for version in versions.split():
        full = f"{family.upper()}-{version if '.' in version else version + '.0'}"
        for written in {version, version if "." in version else f"{version}.0"}:
            SPDX_OF_DEBIAN[f"{family}-{written}"] = f"{full}-only"
            SPDX_OF_DEBIAN[f"{family}-{written}+"] = f"{full}-or-later"


class Licences(NamedTuple):
    expression: str  # of SPDX
    texts: Dict[str, str]  # of each LicenseRef-… in the expression
    copyright: str


def paragraphs(text: str) -> List[Dict[str, str]]:
    """The paragraphs of a control file: {"files": …, "license": …}, lines of values kept."""
    found = []
    for block in re.split(r"\n[ \t]*\n", text):
        fields: Dict[str, str] = {}
        name: Optional[str] = None
        for line in block.split("\n"):
            if name and line[:1] in (" ", "\t"):
                fields[name] += "\n" + line[1:]
            elif ":" in line and not line.startswith("#"):
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if fields:
            found.append(fields)
    return found


def reference(package: str, name: str) -> str:
    return "LicenseRef-" + re.sub(r"[^A-Za-z0-9.-]+", "-", f"{package}-{name}").strip("-")


def spdx_of(package: str, synopsis: str, references: Dict[str, str]) -> str:
    """ "Expat and (GPL-2+ or Artistic)" by SPDX's identifiers; what SPDX does not know becomes a
    reference, by its Debian name in `references`."""
    words = re.split(r"\s+(and|or)\s+|([(),])", synopsis.replace(", and ", " and ")
                     .replace(", or ", " or "), flags=re.IGNORECASE)
    parts = []
    for word in (w.strip() for w in words if w and w.strip()):
        if word.lower() in ("and", "or"):
            parts.append(word.upper())
        elif word in ("(", ")"):
            parts.append(word)
        elif word == ",":
            parts.append("AND")
        elif word.lower() in SPDX_OF_DEBIAN:
            parts.append(SPDX_OF_DEBIAN[word.lower()])
        else:
            parts.append(reference(package, word))
            references[word] = parts[-1]
    expression = " ".join(parts).replace("( ", "(").replace(" )", ")")
    joined = {"AND", "OR"} & set(parts)
    # In Debian's text a comma binds less than both; brackets say how it was meant here.
    return f"({expression})" if joined and not expression.startswith("(") else expression


def licences_of(package: str, file: Path) -> Licences:
    """What the files of a package are under, those of its packaging left out. A file of no such
    form is a licence of its own: its whole text."""
    text = file.read_text(encoding="utf-8", errors="replace")
    stanzas = paragraphs(text)
    if not stanzas or "format" not in stanzas[0]:
        name = reference(package, "copyright")
        return Licences(name, {name: text}, "NOASSERTION")
    texts = {}  # Debian name → text
    for stanza in stanzas:
        synopsis, _, body = stanza.get("license", "").partition("\n")
        if body.strip():
            texts.setdefault(synopsis.strip(), body.strip())
    expressions: List[str] = []
    owners: List[str] = []
    references: Dict[str, str] = {}
    for stanza in stanzas:
        if "files" not in stanza or "license" not in stanza:
            continue
        if all(pattern.startswith("debian/") for pattern in stanza["files"].split()):
            continue
        synopsis = stanza["license"].partition("\n")[0].strip()
        expression = spdx_of(package, synopsis, references)
        if expression and expression not in expressions:
            expressions.append(expression)
        owners += [line.strip() for line in stanza.get("copyright", "").split("\n")
                   if line.strip() and line.strip() not in owners]
    if not expressions:
        name = reference(package, "copyright")
        return Licences(name, {name: text}, "NOASSERTION")
    extracted = {ref: texts.get(name) or f"{name}: see the whole file\n\n{text}"
                 for name, ref in references.items()}
    return Licences(" AND ".join(expressions), extracted, "\n".join(owners) or "NOASSERTION")
