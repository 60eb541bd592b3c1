#!/usr/bin/env python3
"""The loss over the learning rate that --lr-find measured, from lr_find.csv."""

from run_files import BLUE, GREY, ORANGE, Run, main, plt


def draw(run: Run):
    rows = run.table("lr_find.csv")[1:]
    if not rows:
        return None
    rates, losses, smoothed = ([float(row[i]) for row in rows] for i in (1, 2, 3))
    settled = len(smoothed) // 10  # the first values are means of few losses
    least = smoothed.index(min(smoothed[settled:]), settled)
    # The picture ends where the smoothed loss leaves it; a single step may leave it before.
    top = 1.15 * max(smoothed[:least + 1])
    end = next((i for i in range(least, len(rates)) if smoothed[i] > top), len(rates) - 1) + 1
    inside = sorted(losses[:end])
    low = min(min(smoothed), inside[len(inside) // 50])
    figure, axes = plt.subplots(figsize=(7, 4.2))
    axes.plot(rates[:end], losses[:end], color=GREY, alpha=0.5, linewidth=1, label="loss of a step")
    axes.plot(rates[:end], smoothed[:end], color=BLUE, label="smoothed")
    axes.plot(rates[least], smoothed[least], "o", color=ORANGE,
              label=f"least: {smoothed[least]:.3g} at {rates[least]:.1e}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss",
             title="learning rate range test",
             ylim=(low - 0.05 * (top - low), top))
    axes.legend(loc="lower left")
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "lr_find", parts=False)
