"""Runs scripts one after the other, each as python3 SCRIPT ARGUMENTS would, and prints after each
"SCRIPT: ends with CODE": in one process, for which matplotlib is imported once.

    each.py SCRIPT... -- ARGUMENTS
"""

import runpy
import sys
from pathlib import Path
from typing import List


def code_of(script: str, arguments: List[str]) -> int:
    sys.argv = [script, *arguments]
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):  # what the interpreter does with it
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    return 0


if __name__ == "__main__":
    split = sys.argv.index("--")
    scripts, arguments = sys.argv[1:split], sys.argv[split + 1 :]
    sys.path[0] = str(Path(scripts[0]).parent)
    for script in scripts:
        print(f"{script}: ends with {code_of(script, arguments)}", flush=True)
