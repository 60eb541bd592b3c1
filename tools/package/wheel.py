#!/usr/bin/env python3
"""Makes a wheel, py3-none-manylinux_2_N_x86_64, of the bundle and the Python package beside this
file. The tag follows from the symbols that the bundle's binaries need. Needs readelf, and patchelf
where the bundle has the CUDA module."""

import argparse
import base64
import csv
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Dict, Iterable, List, Tuple

HERE = Path(__file__).parent

# The first glibc 2.N that a distribution had beside the libstdc++ with this version of its symbols
# (CentOS Stream 9, Ubuntu 22.04, Fedora 38, Ubuntu 24.04): what is older came with 2.31 at most.
GLIBC_OF_GLIBCXX = {29: 34, 30: 35, 31: 37, 32: 38, 33: 39}
GLIBC_OF_CXXABI = {13: 34, 14: 37, 15: 39}

# By extra. CUDA's minor versions are compatible upwards: the least is what this was built with.
EXTRAS = {
    "cuda13": ["nvidia-cudnn-cu13>=9.19,<10", "nvidia-cublas>=13.1,<14",
               "nvidia-nccl-cu13>=2.28,<3", "nvidia-cuda-runtime>=13.0,<14",
               "nvidia-cuda-nvrtc>=13.0,<14", "nvidia-cuda-cupti>=13.0,<14"],
    "plots": ["matplotlib>=3.5", "numpy", "pillow"],
    "frames": ["pandas"],
}
# Where the wheels of "cuda13" put their libraries, from site-packages.
CUDA_FOLDERS = ("nvidia/cudnn/lib", "nvidia/cu13/lib", "nvidia/nccl/lib")

SCRIPTS = {"engine": "engine", "engine-report": "report", "engine-plot": "plot"}

# Files of share/ that belong in the environment's own, where shells and man look for them.
FOR_ENVIRONMENT = ("bash-completion", "zsh", "fish", "man")


def needed_versions(binary: Path) -> Dict[str, List[Tuple[int, ...]]]:
    """The versions of symbols that a binary needs: {"GLIBC": [(2, 34), …], "GLIBCXX": …}."""
    text = subprocess.run(["readelf", "--version-info", "--wide", str(binary)], check=True,
                          stdout=subprocess.PIPE, universal_newlines=True,
                          env={**os.environ, "LC_ALL": "C"}).stdout
    needs = text.partition("Version needs section")[2]
    found: Dict[str, List[Tuple[int, ...]]] = {}
    for kind, version in re.findall(r"Name: (GLIBC|GLIBCXX|CXXABI)_([0-9.]+) ", needs):
        found.setdefault(kind, []).append(tuple(map(int, version.split("."))))
    return found


def is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def glibc_floor(binaries: Iterable[Path]) -> Tuple[int, Path]:
    """The least N of glibc 2.N on whose distributions all of them run, and the binary that asks for
    it."""
    floor, whose = 17, Path()
    for binary in binaries:
        needs = needed_versions(binary)
        least = [version[1] for version in needs.get("GLIBC", [])]
        for kind, first, known in (("GLIBCXX", (3, 4), GLIBC_OF_GLIBCXX),
                                   ("CXXABI", (1, 3), GLIBC_OF_CXXABI)):
            for version in needs.get(kind, []):
                if version[:2] != first or (version[2:] or (0,))[0] > max(known):
                    raise SystemExit(f"{binary}: {kind}_{'.'.join(map(str, version))} is newer "
                                     "than what this script knows")
                least.append(known.get((version[2:] or (0,))[0], 31))
        if max(least, default=0) > floor:
            floor, whose = max(least), binary
    return floor, whose


def check_machine(binary: Path) -> None:
    with binary.open("rb") as file:
        header = file.read(20)
    if header[4] != 2 or int.from_bytes(header[18:20], "little") != 62:
        raise SystemExit(f"{binary}: not for x86-64")


def metadata(version: str) -> str:
    lines = ["Metadata-Version: 2.1", "Name: engine", f"Version: {version}",
             "Summary: Trains image classifiers on NVIDIA GPUs and CPUs, without a deep-learning "
             "framework",
             "License: MIT", "Requires-Python: >=3.9",
             "Classifier: License :: OSI Approved :: MIT License",
             "Classifier: Operating System :: POSIX :: Linux",
             "Classifier: Programming Language :: Python :: 3",
             "Classifier: Topic :: Scientific/Engineering :: Artificial Intelligence"]
    for extra, packages in EXTRAS.items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {package}; extra == "{extra}"' for package in packages]
    lines.append("Description-Content-Type: text/markdown")
    text = (HERE / "engine" / "README.md").read_text(encoding="utf-8")
    return "\n".join(lines) + "\n\n" + text


class Wheel:
    """A zip file with a RECORD of what is in it; times are fixed, so that the same files make the
    same wheel."""

    def __init__(self, path: Path, info: str):
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self.info = info
        self.record: List[Tuple[str, str, str]] = []

    def add(self, name: str, data: bytes, executable: bool = False) -> None:
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.external_attr = (0o100755 if executable else 0o100644) << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        self.zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self.record.append((name, f"sha256={digest}", str(len(data))))

    def add_file(self, name: str, path: Path) -> None:
        self.add(name, path.read_bytes(), os.access(path, os.X_OK))

    def close(self) -> None:
        text = io.StringIO()
        name = f"{self.info}/RECORD"
        csv.writer(text, lineterminator="\n").writerows([*self.record, (name, "", "")])
        self.add(name, text.getvalue().encode())
        self.zip.close()


def files_below(folder: Path) -> List[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def find_cuda(bundle: Path) -> None:
    """Lets the CUDA module find the libraries of the extra "cuda13" beside this package."""
    module = bundle / "lib" / "libengine_cuda.so"
    if not module.exists():
        return
    if not shutil.which("patchelf"):
        raise SystemExit("the wheel needs patchelf: apt-get install patchelf")
    above = "$ORIGIN/" + "../" * 3  # lib, bundle, engine
    folders = ":".join(["$ORIGIN", *(above + folder for folder in CUDA_FOLDERS)])
    subprocess.run(["patchelf", "--set-rpath", folders, str(module)], check=True)


def make_wheel(bundle: Path, version: str, out: Path) -> Path:
    """`bundle` is the bundle's folder, which is changed. Returns the wheel."""
    find_cuda(bundle)
    binaries = [path for path in files_below(bundle) if is_elf(path)]
    for binary in binaries:
        check_machine(binary)
    floor, whose = glibc_floor(binaries)
    tag = f"py3-none-manylinux_2_{floor}_x86_64"
    path = out / f"engine-{version}-{tag}.whl"
    out.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    info = f"engine-{version}.dist-info"
    wheel = Wheel(temporary, info)
    for file in files_below(HERE / "engine"):
        if file.suffix == ".py":
            wheel.add_file(f"engine/{file.name}", file)
    wheel.add("engine/py.typed", b"")
    for file in files_below(bundle):
        name = file.relative_to(bundle)
        top = name.parts[:2]
        if top[0] in ("bin", "lib", "share") and top != ("share", "doc"):
            if top[0] == "share" and top[1] in FOR_ENVIRONMENT:
                wheel.add_file(f"engine-{version}.data/data/{name}", file)
            elif name.name not in ("engine-report", "engine-plot"):  # console scripts here
                wheel.add_file(f"engine/bundle/{name}", file)
    wheel.add_file(f"{info}/LICENSE", bundle / "LICENSE")
    for file in bundle.glob("*.spdx.json"):
        wheel.add_file(f"{info}/sboms/{file.name}", file)
    wheel.add(f"{info}/METADATA", metadata(version).encode())
    wheel.add(f"{info}/WHEEL", ("Wheel-Version: 1.0\nGenerator: tools/package/wheel.py\n"
                                f"Root-Is-Purelib: false\nTag: {tag}\n").encode())
    entries = "".join(f"{name} = engine.scripts:{function}\n" for name, function in SCRIPTS.items())
    wheel.add(f"{info}/entry_points.txt", f"[console_scripts]\n{entries}".encode())
    wheel.close()
    temporary.replace(path)
    print(f"{path}: {path.stat().st_size >> 20} MiB; glibc 2.{floor}, which "
          f"{whose.name or 'nothing newer'} asks for")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path,
                        help="engine-VERSION-linux-x86_64.tar.gz, of the target bundle")
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder (default: dist)")
    options = parser.parse_args()
    named = re.fullmatch(r"engine-(\d+\.\d+\.\d+)-linux-x86_64\.tar\.gz", options.bundle.name)
    if not named:
        raise SystemExit(f"{options.bundle}: its name is not engine-VERSION-linux-x86_64.tar.gz")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(options.bundle) as tar:
            if sys.version_info >= (3, 12):
                tar.extractall(folder, filter="data")
            else:
                tar.extractall(folder)
        make_wheel(Path(folder) / options.bundle.name[:-len(".tar.gz")], named[1], options.out)


if __name__ == "__main__":
    main()
