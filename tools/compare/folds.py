#!/usr/bin/env python3
"""Writes tests/golden/folds.json: how evenly scikit-learn's StratifiedGroupKFold spreads classes.

Each problem is drawn here: the classes and the images of groups, as a list of [class, images] pairs
for each group. Its figure is the spread of class shares, the mean over the classes of the standard
deviation over the folds of (images of the class in the fold) / (images of the class), which is what
StratifiedGroupKFold keeps small; the mean over seeds of its shuffling.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

SEEDS = 10


def lesions(rng, count, shares, most):
    """Groups of one class each with 1 to `most` images, mostly of one: lesions."""
    classes = rng.choice(len(shares), size=count, p=shares)
    sizes = np.minimum(rng.geometric(0.7, size=count), most)
    return [[[int(c), int(n)]] for c, n in zip(classes, sizes)]


def patients(rng, count, shares, mean):
    """Groups of several classes, of very different sizes: patients."""
    groups = []
    for size in 1 + rng.geometric(1 / mean, size=count):
        own = rng.dirichlet(np.array(shares) * 3)
        classes, images = np.unique(rng.choice(len(shares), size=size, p=own), return_counts=True)
        groups.append([[int(c), int(n)] for c, n in zip(classes, images)])
    return groups


def spread(labels, folds, classes, count):
    table = np.zeros((count, classes))
    np.add.at(table, (folds, labels), 1)
    return float(np.mean(np.std(table / table.sum(axis=0), axis=0)))


def reference(groups, classes, folds):
    labels = np.concatenate([np.repeat([c for c, _ in g], [n for _, n in g]) for g in groups])
    numbers = np.repeat(np.arange(len(groups)), [sum(n for _, n in g) for g in groups])
    found = []
    for seed in range(SEEDS):
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        of = np.empty(len(labels), dtype=int)
        for fold, (_, held) in enumerate(splitter.split(labels, labels, numbers)):
            of[held] = fold
        found.append(spread(labels, of, classes, folds))
    return float(np.mean(found)), float(np.min(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "tests/golden/folds.json")
    out = parser.parse_args().out
    rng = np.random.default_rng(0)
    skin = np.array([0.67, 0.11, 0.11, 0.05, 0.03, 0.015, 0.015])
    wide = 1 / np.arange(1, 36)
    problems = []
    for name, groups, classes, folds in [
            ("lesions of 7 classes", lesions(rng, 2000, skin, 6), 7, 5),
            ("60 patients of 3 classes", patients(rng, 60, [0.6, 0.3, 0.1], 12), 3, 5),
            ("300 patients of 7 classes", patients(rng, 300, skin, 8), 7, 10),
            ("900 patients of 35 classes", patients(rng, 900, wide / wide.sum(), 5), 35, 5)]:
        mean, best = reference(groups, classes, folds)
        problems.append({"name": name, "classes": classes, "folds": folds, "groups": groups,
                         "spread": mean, "best_spread": best})
        print(f"{name}, {folds} folds: spread {mean:.5f}, best of {SEEDS} seeds {best:.5f}")
    out.write_text(json.dumps({"problems": problems}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
