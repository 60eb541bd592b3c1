#!/usr/bin/env python3
"""What is gained by leaving the least sure images to a human: accuracy over coverage."""

from run_files import BLUE, GREY, Run, main, plt
from wording import chosen


def draw(run: Run):
    points = run.score().get("reject")
    if not points:
        return None
    points = sorted(points, key=lambda point: point["coverage"])
    figure, axes = plt.subplots(figsize=(4.8, 3.4))
    shown = [p for p in points if p.get("accuracy") is not None and p["coverage"] > 0]
    axes.plot([100 * p["coverage"] for p in shown], [100 * p["accuracy"] for p in shown],
              color=BLUE, drawstyle="steps-pre")
    if shown:
        axes.axhline(100 * shown[-1]["accuracy"], color=GREY, linestyle=":", linewidth=1)
    answered = run.score().get("reject_threshold") or {}
    if answered.get("accuracy") is not None:
        axes.plot(100 * answered["coverage"], 100 * answered["accuracy"], "o", color=BLUE)
        axes.annotate(f"{chosen(run.score(), 'reject_threshold')} and above", fontsize=8,
                      xy=(100 * answered["coverage"], 100 * answered["accuracy"]), xytext=(4, 6),
                      textcoords="offset points")
    low = min((p["accuracy"] for p in shown), default=0)
    what = "labels" if run.score().get("task") == "multilabel" else "images"
    axes.set(xlabel=f"% of the {what} that the model answers, the surest first",
             ylabel="% of these that are right", xlim=(0, 101), ylim=(max(0, 100 * low - 5), 101),
             title=f"leaving the unsure ones out, {run.title()}")
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "reject")
