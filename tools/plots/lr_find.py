#!/usr/bin/env python3
"""The range test: loss over the learning rate, from lr_find.csv."""

from run_files import BLUE, GREY, Run, main, plt


def draw(run: Run):
    rows = run.table("lr_find.csv")[1:]
    if not rows:
        return None
    rates, losses, smoothed = ([float(row[i]) for row in rows] for i in (1, 2, 3))
    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.plot(rates, losses, color=GREY, alpha=0.5, linewidth=1, label="loss of a step")
    axes.plot(rates, smoothed, color=BLUE, label="smoothed")
    least = smoothed.index(min(smoothed))
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss",
             title=f"range test: least loss at {rates[least]:.1e}",
             ylim=(min(losses) * 0.95, max(smoothed[0], max(smoothed[:least + 1])) * 1.15))
    axes.legend()
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "lr_find", parts=False)
