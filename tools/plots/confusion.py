#!/usr/bin/env python3
"""The confusion matrix: for each label, where its images went."""

import numpy as np

from run_files import Run, main, plt, shorten

ANNOTATED = 20  # the most classes for which each cell holds its count


def draw(run: Run):
    rows = run.of_part("confusion_matrix.csv")
    if not rows:
        return None
    names = [row[0] for row in rows]
    counts = np.array([[int(v) for v in row[1:]] for row in rows])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(names)
    side = min(max(4.5, 0.55 * classes + 2), 14)
    figure, axes = plt.subplots(figsize=(side + 1, side))
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    size = 9 if classes <= 12 else 7
    labels = [shorten(name, 20) for name in names]
    rotation = 90 if max(map(len, labels)) > 2 else 0
    axes.set_xticks(range(classes), labels, rotation=rotation, fontsize=size)
    axes.set_yticks(range(classes), labels, fontsize=size)
    if classes <= ANNOTATED:
        for y in range(classes):
            for x in range(classes):
                if counts[y, x]:
                    axes.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=size,
                              color="white" if shares[y, x] > 0.55 else "black")
    axes.set(xlabel="predicted class", ylabel="true class",
             title=f"confusion matrix, {run.title()}: {counts.sum()} images")
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.03,
                    label="% of the images of the true class")
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "confusion_matrix")
