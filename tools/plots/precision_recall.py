#!/usr/bin/env python3
"""Precision over recall, one class against the rest, from pr.csv; areas from metrics.json."""

import roc
from run_files import Run, main, plt
from wording import share


def draw(run: Run):
    curves = roc.of_classes(run, "pr.csv", 3, 2)
    curves.pop(roc.MICRO, None)
    if not curves:
        return None
    score = run.score()
    figure, axes = plt.subplots(figsize=(4.8, 4.8))
    roc.lines(axes, curves, *roc.of_score(score, "average_precision"), "average precision",
              drawstyle="steps-post")  # fmt: skip
    macro = score.get("average_precision_macro")
    axes.set(xlabel="recall (sensitivity)", ylabel="precision (positive predictive value)",
             title=f"precision and recall, {run.title()}"
                   + ("" if macro is None else f": macro {share(macro, score['samples'])}"))
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "precision_recall")
