#!/usr/bin/env python3
"""The confusion matrix: for each label, where its images went."""

from typing import List, NamedTuple

import numpy as np

from run_files import BLUE, INK, PAPER, Run, main, plt, shorten

ANNOTATED = 20  # the most classes for which each cell holds its count


class Confusion(NamedTuple):
    label: str
    prediction: str
    images: int  # of the label that were taken for the prediction
    support: int  # of the label


def largest(run: Run, most: int = 12) -> List[Confusion]:
    """The pairs of classes that are taken for each other most often, by images."""
    rows = run.table(run.name_of_part("confusion_matrix.csv"))
    if not rows:
        return []
    names = rows[0][1:]
    found = []
    for label, *texts in rows[1:]:
        counts = [int(text) for text in texts]
        found += [Confusion(label, name, images, sum(counts))
                  for name, images in zip(names, counts) if images and name != label]
    return sorted(found, key=lambda c: (-c.images, c.support, c.label, c.prediction))[:most]


def draw(run: Run):
    rows = run.of_part("confusion_matrix.csv")
    if not rows:
        return None
    names = [row[0] for row in rows]
    counts = np.array([[int(v) for v in row[1:]] for row in rows])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    side = min(max(3.6, 0.5 * classes + 1), 11)
    figure, axes = plt.subplots(figsize=(side + 1, side))
    axes.grid(False)
    size = 9 if classes <= 12 else 7.5
    for y, x in zip(*np.nonzero(counts)):
        # A share that is seen: a cell of a single image is not the colour of none.
        axes.add_patch(plt.Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=BLUE, linewidth=0,
                                     alpha=0.06 + 0.94 * shares[y, x]))
        if classes <= ANNOTATED:
            axes.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=size,
                      color=PAPER if shares[y, x] > 0.5 else INK)
    axes.set(xlim=(-0.5, classes - 0.5), ylim=(classes - 0.5, -0.5), aspect="equal")
    for spine in axes.spines.values():
        spine.set_visible(True)
    if classes > ANNOTATED:  # lines to find the class by
        for at in range(5, classes, 5):
            axes.axhline(at - 0.5, color=INK, linewidth=0.3, alpha=0.5)
            axes.axvline(at - 0.5, color=INK, linewidth=0.3, alpha=0.5)
    labels = [shorten(name, 28) for name in names]
    totals = counts.sum(axis=1)
    rotation = 90 if max(map(len, labels)) > 3 else 0
    axes.set_xticks(range(classes), labels, rotation=rotation, fontsize=size)
    axes.set_yticks(range(classes), [f"{label} ({n})" for label, n in zip(labels, totals)],
                    fontsize=size)
    axes.tick_params(length=0)
    axes.set(xlabel="predicted class", ylabel="true class (images)",
             title=f"confusion matrix, {run.title()}: {counts.sum()} images\n"
                   "the darker, the larger the share of the true class")
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "confusion_matrix")
