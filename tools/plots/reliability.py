#!/usr/bin/env python3
"""Reliability diagram: accuracy by confidence, and how many images lie in each bin."""

from run_files import BLUE, GREY, ORANGE, Run, main, plt


def draw(run: Run):
    score = run.score()
    bins = score.get("calibration")
    if not bins:
        return None
    figure, (axes, histogram) = plt.subplots(2, 1, figsize=(5.6, 6.4), sharex=True,
                                             gridspec_kw={"height_ratios": [3, 1]})
    used = [b for b in bins if b["samples"]]
    left = [b["from"] for b in used]
    width = bins[0]["to"] - bins[0]["from"]
    axes.bar(left, [b["accuracy"] for b in used], width,
             align="edge", color=BLUE, edgecolor="white", label="accuracy")
    # The gap between the two, weighted by images, is the calibration error.
    axes.hlines([b["confidence"] for b in used], left, [b["to"] for b in used],
                color=ORANGE, linewidth=3, label="mean confidence")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect calibration")
    axes.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02),
             title=f"reliability, {run.title()}: "
                   f"expected calibration error {score['calibration_error']:.4f}")
    axes.legend(loc="upper left")
    share = [100 * b["samples"] / score["samples"] for b in bins]
    histogram.bar([b["from"] for b in bins], share, width,
                  align="edge", color=GREY, edgecolor="white")
    histogram.set(xlabel="confidence: probability of the predicted class", ylabel="% of images")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "reliability")
