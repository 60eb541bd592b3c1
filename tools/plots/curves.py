#!/usr/bin/env python3
"""Accuracy, loss and learning rate over the epochs, from results.csv."""

from run_files import BLUE, GREY, ORANGE, GREEN, Run, epoch_axis, from_zero, main, plt


def draw(run: Run):
    columns = run.results()
    if not columns:
        return None
    epochs = columns["epoch"]
    marker = "o" if len(epochs) <= 30 else None
    figure, (accuracy, loss, rate) = plt.subplots(1, 3, figsize=(13, 3.8))

    def line(axes, name, label, colour):
        if name in columns:
            axes.plot(epochs, columns[name], color=colour, label=label, marker=marker,
                      markersize=3.5)

    line(accuracy, "metrics/accuracy_top1", "top-1", BLUE)
    # With five classes or fewer it is always 1.
    if columns.get("metrics/accuracy_top5", [1])[-1] < 1:
        line(accuracy, "metrics/accuracy_top5", "top-5", GREEN)
    top1, validation = columns["metrics/accuracy_top1"], columns["val/loss"]
    ranks = [(share, -nats) for share, nats in zip(top1, validation)]
    if run.json("args.json").get("watch") == "loss":
        ranks = [(second, first) for first, second in ranks]
    best = max(range(len(ranks)), key=ranks.__getitem__)
    for axes, values, form in ((accuracy, top1, ".4f"), (loss, validation, ".3f")):
        axes.plot(epochs[best], values[best], "*", color=ORANGE, markersize=13, zorder=3,
                  label=f"best epoch, {epochs[best]:g}: {values[best]:{form}}")
    accuracy.set(title="validation accuracy", ylabel="share of images", ylim=(None, 1.02))
    line(loss, "train/loss", "training", ORANGE)
    line(loss, "val/loss", "validation", BLUE)
    loss.set(title="loss (cross entropy)", ylabel="nats per image")
    from_zero(loss, columns.get("train/loss", []) + columns.get("val/loss", []))
    line(rate, "lr/pg0", "learning rate", GREY)
    rate.set(title="learning rate at the end of each epoch", ylabel="learning rate")
    rates = [r for r in columns.get("lr/pg0", []) if r > 0]
    if rates and max(rates) > 5 * min(rates):
        rate.set_yscale("log")
    else:
        from_zero(rate, rates)
    for axes in (accuracy, loss, rate):
        epoch_axis(axes, epochs)
    for axes in (accuracy, loss):
        axes.legend(loc="best")
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "curves", parts=False)
