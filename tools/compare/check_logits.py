#!/usr/bin/env python3
"""Compares `engine predict --json` with recorded logits.

Flags that it does not know go to `engine predict`. The CSV has the columns file, label, predicted
and logit_<class>...; files are relative to its folder. It exits with 8 if a class differs or a
logit is further away than the tolerance.
"""

import argparse
import csv
import json
import math
import subprocess
from pathlib import Path
from typing import List


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("csv", type=Path)
    parser.add_argument("--engine", default="build/release/bin/engine")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    options, arguments = parser.parse_known_args()  # the rest is for engine predict

    with open(options.csv, newline="") as file:
        rows = list(csv.DictReader(file))
    files = [str(options.csv.parent / row["file"]) for row in rows]
    command = [options.engine, "predict", "--json", *arguments, *files]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    off: List[float] = []
    classes = 0
    for row, line in zip(rows, printed.splitlines(), strict=True):
        theirs = [float(value) for key, value in row.items() if key.startswith("logit_")]
        ours = json.loads(line)
        off += [abs(a - b) for a, b in zip(ours["logits"], theirs, strict=True)]
        classes += ours["class_index"] == theirs.index(max(theirs))
    worst = max(off, key=lambda error: (math.isnan(error), error))
    print(f"{classes} of {len(rows)} classes agree, largest difference of a logit {worst:.2e}")
    raise SystemExit(0 if classes == len(rows) and worst <= options.tolerance else 8)


if __name__ == "__main__":
    main()
