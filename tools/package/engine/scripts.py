"""The console scripts: engine, engine-report and engine-plot."""

import os
import runpy
import sys
from typing import List

from .pictures import folder
from .program import program


def engine() -> None:
    """The program itself takes this process over."""
    path = str(program())
    # Whose modules the report needs: those of the environment that this script belongs to.
    os.environ.setdefault("ENGINE_PYTHON", sys.executable)
    os.execv(path, [path, *sys.argv[1:]])


def run_script(name: str, arguments: List[str]) -> None:
    """Runs a script of tools/plots as python3 would."""
    script = folder() / f"{name}.py"
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(folder()))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except ImportError as error:
        raise SystemExit(f"plots need {error.name}: pip install 'engine[plots]'") from error


def report() -> None:
    """engine-report RUN writes RUN/report.html."""
    run_script("report", sys.argv[1:])


def plot() -> None:
    """engine-plot NAME ARGUMENTS runs one of the plots."""
    names = sorted(path.stem for path in folder().glob("*.py")
                   if path.stem not in ("report", "findings", "logged", "page", "run_files",
                                        "study_files", "training_findings", "wording"))
    if len(sys.argv) < 2 or sys.argv[1] not in names:
        about = f"usage: engine-plot NAME RUN [--out FILE]\n  NAME: {', '.join(names)}"
        if sys.argv[1:] in (["-h"], ["--help"]):
            print(about)
            return
        raise SystemExit(about)
    run_script(sys.argv[1], sys.argv[2:])
