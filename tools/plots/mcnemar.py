#!/usr/bin/env python3
"""McNemar's exact test: do two runs, scored on the same images, differ by more than chance?

If the two are equally good, each image that only one of them gets right falls to either with
probability one half; p is the two-sided binomial tail (McNemar, Psychometrika 1947).
"""

import argparse
import json
from math import comb
from pathlib import Path

from run_files import Run


def exact_p(only_first: int, only_second: int) -> float:
    n = only_first + only_second
    tail = sum(comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("second", type=Path)
    parser.add_argument("--test", action="store_true", help="compare test_predictions.csv")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    name = ("test_" if options.test else "") + "predictions.csv"
    right = []  # of each run: path → whether the prediction is the label
    for folder in (options.first, options.second):
        rows = Run(folder).table(name)[1:]
        if not rows:
            raise SystemExit(f"{folder}: no {name}")
        right.append({row[0]: row[1] == row[2] for row in rows})
    both = right[0].keys() & right[1].keys()
    if not both:
        raise SystemExit("no image is in both")
    only_first = sum(right[0][path] and not right[1][path] for path in both)
    only_second = sum(right[1][path] and not right[0][path] for path in both)
    result = {"images": len(both),
              "top1_first": sum(right[0][path] for path in both) / len(both),
              "top1_second": sum(right[1][path] for path in both) / len(both),
              "only_first": only_first, "only_second": only_second,
              "p": exact_p(only_first, only_second)}
    if options.json:
        print(json.dumps(result))
        return
    print(f"{len(both)} images in both: top-1 {result['top1_first']:.4f} "
          f"and {result['top1_second']:.4f}")
    print(f"right in the first alone: {only_first}, in the second alone: {only_second}; "
          f"p = {result['p']:.4g}")


if __name__ == "__main__":
    main()
