#!/usr/bin/env python3
"""What is gained by leaving the least sure images to a human: accuracy over coverage."""

from run_files import BLUE, GREY, Run, main, plt


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
    chosen = run.score().get("reject_threshold") or {}
    if chosen.get("accuracy") is not None:
        axes.plot(100 * chosen["coverage"], 100 * chosen["accuracy"], "o", color=BLUE)
        axes.annotate(f"{chosen['threshold']:.3g} and above", textcoords="offset points",
                      xy=(100 * chosen["coverage"], 100 * chosen["accuracy"]), xytext=(4, 6),
                      fontsize=8)
    low = min((p["accuracy"] for p in shown), default=0)
    axes.set(xlabel="% of the images that the model answers, the surest first",
             ylabel="% of these that are right", xlim=(0, 101), ylim=(max(0, 100 * low - 5), 101),
             title=f"leaving the unsure ones out, {run.title()}")
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "reject")
