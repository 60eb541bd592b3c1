#!/usr/bin/env python3
"""Reliability diagram: accuracy by confidence, with the number of images of each bin. Of several
labels the share of images that have a label by its probability."""

from run_files import BLUE, GREY, INK, ORANGE, PAPER, SKY, Run, main, plt
from wording import chosen, share


def draw(run: Run, calibrated: bool = False):
    """`calibrated`: of the probabilities after temperature scaling, where metrics.json has them."""
    score = run.score()
    measured = score.get("calibrated", {}) if calibrated else score
    bins = measured.get("calibration")
    if not bins:
        return None
    samples = sum(b["samples"] for b in bins)
    figure, (axes, histogram) = plt.subplots(2, 1, figsize=(4.8, 5.2), sharex=True,
                                             gridspec_kw={"height_ratios": [3, 1]})
    several = score.get("task") == "multilabel"
    known, said = ("present", "probability") if several else ("accuracy", "confidence")
    used = [b for b in bins if b["samples"]]
    left = [b["from"] for b in used]
    width = bins[0]["to"] - bins[0]["from"]
    axes.bar(left, [b[known] for b in used], width, align="edge", color=SKY, edgecolor=PAPER,
             label="share with the label" if several else "accuracy")
    # The gap between the two, weighted by images, is the calibration error.
    axes.hlines([b[said] for b in used], left, [b["to"] for b in used],
                color=ORANGE, linewidth=3, label=f"mean {said}")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfect calibration")
    title = (f"after temperature scaling, T = {chosen(score, 'temperature')}" if calibrated else
             f"reliability, {run.title()}")
    error = share(measured.get("calibration_error"), samples)
    axes.set(ylabel="share with the label" if several else "accuracy", xlim=(0, 1), ylim=(0, 1.02),
             title=f"{title}\nexpected calibration error {error}")
    axes.legend(loc="upper left")
    counts = [b["samples"] for b in bins]
    histogram.bar([b["from"] for b in bins], counts, width, align="edge", color=BLUE,
                  edgecolor=PAPER)
    top = max(counts)
    for b in used:
        histogram.text((b["from"] + b["to"]) / 2, b["samples"] + 0.04 * top, f"{b['samples']}",
                       ha="center", va="bottom", fontsize=7, color=INK,
                       rotation=90 if top >= 1000 else 0)
    histogram.set(xlabel="probability of the label" if several else
                  "confidence: probability of the predicted class",
                  ylabel="known labels" if several else "images",
                  ylim=(0, (1.6 if top >= 1000 else 1.3) * top))
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "reliability")
