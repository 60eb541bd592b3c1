#!/usr/bin/env python3
"""Plants wrong labels in a drawn image set and checks that engine audit finds them.

Images are drawn, some are moved into the folder of another class, K folds are trained and audited.
At least nine of ten planted images must be among the first tenth of the ranking. Only Python is
needed.
"""

import argparse
import csv
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict


def plant(data: Path, share: float, seed: int) -> Dict[str, str]:
    """Moves images to other classes. Returns their new paths and true classes."""
    classes = sorted(folder.name for folder in data.iterdir())
    images = sorted(path for path in data.glob("*/*") if path.is_file())
    rng = random.Random(seed)
    planted = {}
    for path in rng.sample(images, round(share * len(images))):
        wrong = rng.choice([name for name in classes if name != path.parent.name])
        moved = path.rename(data / wrong / f"planted_{path.parent.name}_{path.name}")
        planted[str(moved)] = path.parent.name
    return planted


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="build/cpu/bin/engine")
    parser.add_argument("--set", choices=["digits", "objects"], default="digits")
    parser.add_argument("--images", type=int, default=100, help="of each of the ten classes")
    parser.add_argument("--share", type=float, default=0.05, help="of labels that are made wrong")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="kept (default: a temporary folder)")
    parser.add_argument("train", nargs="*", help="flags of engine train, behind --",
                        default=["--model", "mnist_cnn", "--augment", "none", "--schedule",
                                 "constant", "--epochs", "6", "--batch-size", "32"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)

        def engine(*words) -> None:
            subprocess.run([options.engine, *map(str, words)], check=True)

        engine("draw", options.set, "--out", out / "set", "--train", options.images, "--val", 1,
               "--seed", options.seed)
        data = (out / "set/train").resolve()
        planted = plant(data, options.share, options.seed)
        engine("train", "--data", data, "--folds", options.folds, "--out", out / "cv",
               "--device", "cpu", *options.train)
        engine("audit", out / "cv", "--device", "cpu")
        with (out / "cv/audit.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        first = rows[:len(rows) // 10]
        found = sum(row["path"] in planted for row in first)
        named = sum(planted.get(row["path"]) == row["suggested"] for row in first)
        issues = [row for row in rows if row["issue"] == "1"]
        right = sum(row["path"] in planted for row in issues)
        print(f"{len(rows)} images, {len(planted)} planted: {found} ({found / len(planted):.1%}) "
              f"among the first {len(first)}, {named} with their true class; "
              f"{len(issues)} issues, {right} of them planted")
        return 0 if found >= 0.9 * len(planted) else 1


if __name__ == "__main__":
    sys.exit(main())
