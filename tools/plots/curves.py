#!/usr/bin/env python3
"""Accuracy, loss and learning rate over the epochs, from results.csv."""

from typing import Any, Callable, List, Tuple

from run_files import BLUE, GREEN, ORANGE, Run, epoch_axis, from_zero, grid_of, main


def best_epoch(run: Run) -> int:
    """The position of the epoch whose weights were kept: by what --watch names, which the events of
    the epochs have, else by accuracy."""
    columns = run.results()
    watched = {event["epoch"]: event for event in run.events("epoch")
               if event.get("watched") is not None}  # fmt: skip
    ranks = []
    for epoch, top1, loss in zip(columns["epoch"], columns["metrics/accuracy_top1"],
                                 columns["val/loss"]):
        event = watched.get(epoch)
        if event is None:
            by_loss = run.json("args.json").get("watch") == "loss"
            ranks.append((-loss, top1) if by_loss else (top1, -loss))
        else:
            ranks.append((-event["watched"] if event["watch"] == "loss" else event["watched"], 0))
    return max(range(len(ranks)), key=ranks.__getitem__)


def learning_rates(run: Run) -> Tuple[List[float], List[float]]:
    """Places in epochs and the rate there: of the ends of the epochs and of every step that was
    logged. An epoch whose rates are all one is flat from its beginning, so that each step of a
    schedule stands where it was taken."""
    columns = run.results()
    if "lr/pg0" not in columns:
        return [], []
    inside = {}
    for event in run.events("step"):
        if event.get("lr") is not None:
            inside.setdefault(event["epoch"], {})[event["step"]] = event["lr"]
    arguments = run.json("args.json")
    by_step = arguments.get("schedule_by") == "step" or arguments.get("schedule") == "one-cycle"
    places: List[float] = []
    rates: List[float] = []
    began, first = 0.0, 0.0  # of the epoch: its place, and the step before it
    for epoch, last, rate in zip(columns["epoch"], columns["step"], columns["lr/pg0"]):
        points = sorted(inside.get(epoch, {}).items())
        known = [r for _, r in points] + [rate]
        if not (len(known) == 1 and by_step) and max(known) - min(known) <= 1e-9 * max(known):
            points, places, rates = [], places + [began], rates + [rate]
        for step, r in points:
            if first < step < last:
                places.append(began + (epoch - began) * (step - first) / (last - first))
                rates.append(r)
        places.append(epoch)
        rates.append(rate)
        began, first = epoch, last
    return places, rates


def panels(run: Run) -> List[Callable[[Any], None]]:
    """Each draws one of the pictures on the axes that it is given; none without results.csv."""
    columns = run.results()
    if not columns:
        return []
    epochs = columns["epoch"]
    marker = "o" if len(epochs) <= 30 else None
    best = best_epoch(run)

    def line(axes, name, label, colour, style="-"):
        if name in columns:
            axes.plot(epochs, columns[name], style, color=colour, label=label, marker=marker,
                      markersize=3.5)

    def star(axes, name, form):
        value = columns[name][best]
        axes.plot(epochs[best], value, "*", color=ORANGE, markersize=13, zorder=3,
                  label=f"best epoch, {epochs[best]:g}: {value:{form}}")

    def accuracy(axes):
        line(axes, "metrics/accuracy_top1", "top-1", BLUE)
        # With five classes or fewer it is always 1.
        if columns.get("metrics/accuracy_top5", [1])[-1] < 1:
            line(axes, "metrics/accuracy_top5", "top-5", GREEN, "--")
        star(axes, "metrics/accuracy_top1", ".3f")
        axes.set(title="validation accuracy", ylabel="share of images", ylim=(None, 1.02))
        axes.legend(loc="best")
        epoch_axis(axes, epochs)

    def loss(axes):
        line(axes, "train/loss", "training", ORANGE, "--")
        line(axes, "val/loss", "validation", BLUE)
        star(axes, "val/loss", ".3f")
        axes.set(title="loss", ylabel="nats per image")
        from_zero(axes, columns.get("train/loss", []) + columns.get("val/loss", []))
        axes.legend(loc="best")
        epoch_axis(axes, epochs)

    def rate(axes):
        places, rates = learning_rates(run)
        axes.plot(places, rates, color=BLUE)
        axes.set(title="learning rate", ylabel="learning rate")
        positive = [r for r in rates if r > 0]
        if positive and max(positive) > 20 * min(positive):
            axes.set_yscale("log")
            axes.yaxis.set_minor_formatter("")
        else:
            from_zero(axes, rates)
        axes.yaxis.set_major_formatter(lambda rate, _: f"{rate:.3g}")
        epoch_axis(axes, epochs)
        axes.set_xlim(0, epochs[-1] + 0.02 * len(epochs))

    return [accuracy, loss, rate]


def draw(run: Run):
    pictures = panels(run)
    return grid_of(pictures) if pictures else None


if __name__ == "__main__":
    main(draw, __doc__, "curves", parts=False)
