#!/usr/bin/env python3
"""A bar for each class: recall and area under the ROC curve, with their intervals."""

from typing import Any, Callable, Dict, List

from run_files import BLUE, GREY, INK, ORANGE, Run, grid_of, main, shorten
from wording import share


def rows_of(score: Dict) -> List[Dict]:
    """The classes, or the labels where an image has several, with their positive images."""
    rows = []
    for label in score.get("labels") or []:
        row = {**label, "support": label["positives"]}
        row.setdefault("recall", label.get("sensitivity"))
        if "true_positives" in label:
            row["predicted"] = label["true_positives"] + label["false_positives"]
        rows.append(row)
    return rows or score.get("classes", [])


def panels(run: Run) -> List[Callable[[Any], None]]:
    score = run.score()
    rows = rows_of(score)
    # A line per class does not end before there is room for its name.
    size = 9 if len(rows) <= 12 else 8.5

    def panel(measure: str, title: str, colour: str, average: str, chance: float):
        def on(axes):
            for y, row in enumerate(rows):
                value, bounds = row.get(measure), (row.get("intervals") or {}).get(measure)
                if value is None or not row["support"]:
                    axes.text(0.01, y, "no images: nothing is known", va="center", color=GREY,
                              fontsize=size - 0.5)  # fmt: skip
                    continue
                axes.barh(y, value, height=0.68, color=colour, alpha=0.55, linewidth=0)
                if bounds:
                    axes.plot(bounds, [y, y], color=INK, linewidth=1.2)
                end = max(value, bounds[1]) if bounds else value
                axes.text(end + 0.015, y, share(value, row["support"]), va="center", fontsize=size)
            mean = score.get(average)
            if mean is not None:
                axes.axvline(mean, color=INK, linestyle="--", linewidth=1)
            if chance:
                axes.axvline(chance, color=GREY, linestyle=":", linewidth=1)
            axes.set_yticks(range(len(rows)),
                            [f"{shorten(r['name'], 30)} ({r['support']})" for r in rows],
                            fontsize=size)  # fmt: skip
            axes.set(ylim=(len(rows) - 0.4, -0.6), xlim=(0, 1.16), xticks=(0, 0.25, 0.5, 0.75, 1),
                     title=title)  # fmt: skip
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        return on  # fmt: skip

    pictures = []
    if any(row.get("recall") is not None for row in rows):
        pictures.append(panel("recall", "recall (dashed: mean of the classes)", BLUE,
                              "balanced_accuracy", 0))  # fmt: skip
    if any(row.get("auc") is not None for row in rows):
        pictures.append(panel("auc", "AUC (dashed: mean; dotted: chance)", ORANGE,
                              "auc_macro", 0.5))  # fmt: skip
    return pictures


def height(run: Run) -> float:
    """Inches that a panel needs."""
    rows = len(rows_of(run.score()))
    return 1 + (0.3 if rows <= 12 else 0.23) * rows


def draw(run: Run):
    pictures = panels(run)
    return grid_of(pictures, width=5.2, height=height(run)) if pictures else None


if __name__ == "__main__":
    main(draw, __doc__, "classes")
