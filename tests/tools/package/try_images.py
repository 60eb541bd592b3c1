"""Tries tools/package/Containerfile and engine.def where neither Docker nor Apptainer is: every
stage is a bare root of Debian 12 made by debootstrap, RUN lines and %post sections run in it by
chroot, as root. What it shows is that the lines work and the program runs; images, layers and users
are not made. The way to Debian's packages is that of this machine's apt, to PyPI that of its pip.

    try_images.py [Containerfile] [engine.def] [--folder DIR]
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, Optional, Tuple

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "tools" / "package"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def shell(lines: str, *arguments: str) -> None:
    """Runs lines of bash that know setup.sh and bare_root.sh."""
    script = f"cd {shlex.quote(str(ROOT))}; . tools/setup.sh; . tests/bare_root.sh; {lines}"
    subprocess.run(["bash", "-euo", "pipefail", "-c", script, "try_images", *arguments], check=True)


class Stage:
    """A root, and what a definition has said of it."""

    def __init__(self, folder: Path, bare: Path):
        self.folder = folder
        self.workdir = "/"
        self.environment = {"HOME": "/root", "PATH": PATH}
        self.arguments: Dict[str, str] = {}
        subprocess.run(["cp", "-a", str(bare), str(folder)], check=True)
        self.shared = [os.environ["CCACHE_DIR"]] if "CCACHE_DIR" in os.environ else []
        shell('enter_bare_root "$@"', str(folder), *self.shared)

    def leave(self) -> None:
        shell('leave_bare_root "$@"', str(self.folder), *self.shared)

    def run(self, lines: str, interpreter: Tuple[str, ...] = ("/bin/bash", "-c")) -> None:
        """With the environment of the definition, and this machine's way to PyPI and ccache."""
        outside = {name: value for name, value in os.environ.items()
                   if name.startswith(("PIP_", "CCACHE_")) or name == "CMAKE_CXX_COMPILER_LAUNCHER"}
        if "PIP_CERT" in outside:
            shutil.copy(outside["PIP_CERT"], self.folder / "etc" / "pip-certificates.crt")
            outside["PIP_CERT"] = "/etc/pip-certificates.crt"
        outside.pop("PIP_FIND_LINKS", None)
        if "CCACHE_BASEDIR" in outside:
            outside["CCACHE_BASEDIR"] = "/src"
        print("+", lines, flush=True)
        subprocess.run(["chroot", str(self.folder), *interpreter,
                        f"cd {shlex.quote(self.workdir)}\n{lines}"], check=True,
                       env={**self.environment, **self.arguments, **outside})

    def copy(self, pattern: str, to: str, of: Optional["Stage"]) -> None:
        """Of the context, whose last commit is enough, or of another stage."""
        target = self.folder / to.lstrip("/")
        if of is None:
            subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(target)],
                           check=True)
            return
        found = sorted(of.folder.glob(pattern.lstrip("/")))
        assert found, pattern
        target.mkdir(parents=True, exist_ok=True)
        for path in found:
            if path.is_dir():
                shutil.copytree(path, target, dirs_exist_ok=True)
            else:
                shutil.copy(path, target)


def instructions(text: str) -> List[Tuple[str, str]]:
    """[("RUN", "…"), …] of a Containerfile, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.M).replace("\\\n", "")
    found = []
    for line in text.split("\n"):
        if line.strip():
            word, _, rest = line.strip().partition(" ")
            found.append((word, rest.strip()))
    return found


def try_containerfile(folder: Path, bare: Path, stages: List[Stage]) -> None:
    named: Dict[str, Stage] = {}
    stage: Optional[Stage] = None
    interpreter: Tuple[str, ...] = ("/bin/sh", "-c")
    for word, rest in instructions((PACKAGE / "Containerfile").read_text()):
        if word == "FROM":
            assert rest.startswith("${DEBIAN}"), rest
            stage = Stage(folder / f"stage{len(stages)}", bare)
            stages.append(stage)
            if " AS " in rest:
                named[rest.split(" AS ")[1]] = stage
            interpreter = ("/bin/sh", "-c")
        elif stage is None:
            assert word == "ARG", word
        elif word == "ARG":
            name, _, value = rest.partition("=")
            stage.arguments[name] = value
        elif word == "ENV":
            name, _, value = rest.partition("=")
            stage.environment[name] = value
        elif word == "SHELL":
            interpreter = tuple(re.findall(r'"([^"]*)"', rest))
        elif word == "WORKDIR":
            stage.workdir = rest
            (stage.folder / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif word == "RUN":
            stage.run(rest, interpreter)
        elif word == "COPY":
            of = re.match(r"--from=(\w+)\s+(.*)", rest)
            source, to = (of[2] if of else rest).split()
            stage.copy(source, to, named[of[1]] if of else None)
        else:
            assert word in ("ENTRYPOINT", "CMD"), word
    try_program(stage, 'exec engine "$@"')


def try_definition(folder: Path, bare: Path, stages: List[Stage]) -> None:
    text = re.sub(r"^#.*\n", "", (PACKAGE / "engine.def").read_text(), flags=re.M)
    named: Dict[str, Stage] = {}
    for part in text.split("Bootstrap: docker\n")[1:]:
        head, *sections = re.split(r"^%", part, flags=re.M)
        keys = dict(line.split(": ") for line in head.split("\n") if line)
        assert keys["From"] == "debian:bookworm", keys
        stage = named[keys["Stage"]] = Stage(folder / f"stage{len(stages)}", bare)
        stages.append(stage)
        script = ""
        for section in sections:
            title, _, body = section.partition("\n")
            lines = [line.strip() for line in body.split("\n") if line.strip()]
            if title == "arguments":
                stage.arguments = dict(line.split("=") for line in lines)
            elif title.startswith("files"):
                of = named[title.split(" from ")[1]] if " from " in title else None
                for line in lines:
                    stage.copy(*line.split(), of)
            elif title == "post -c /bin/bash":
                for name, value in stage.arguments.items():
                    body = body.replace("{{ " + name + " }}", value)
                stage.run(body)
            elif title == "environment":
                script = "\n".join(lines) + "\n"
            elif title == "runscript":
                script += body
            else:
                raise AssertionError(title)
    try_program(stage, script)


def try_program(stage: Stage, script: str) -> None:
    """What starts the program, with the arguments of a short training."""
    stage.workdir = "/root"
    for arguments in ("version", "draw digits --out digits --train 8 --val 2",
                      "train --data digits --model mnist_cnn --device cpu --epochs 1 --out run",
                      "predict --weights run/weights/best.safetensors digits/val/7"):
        stage.run(f"set -- {arguments}\n{script}")
    stage.run(script.replace('exec engine "$@"', "engine-report run"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("files", nargs="*", default=["Containerfile", "engine.def"])
    parser.add_argument("--folder", type=Path, help="keeps the roots there")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    bare = folder / "bare"
    stages: List[Stage] = []
    try:
        if not bare.exists():
            shell('make_bare_root "$@"', str(bare), "ccache" if "CCACHE_DIR" in os.environ else "")
        for file in options.files:
            {"Containerfile": try_containerfile, "engine.def": try_definition}[file](
                folder, bare, stages)
            print(f"{file}: works", flush=True)
    finally:
        for stage in stages:
            stage.leave()
        if not options.folder:
            subprocess.run(["rm", "-rf", "--one-file-system", str(folder)], check=True)


if __name__ == "__main__":
    main()
