"""Plots a study of `engine scale --out DIR`: a picture for each question that it can answer."""

import argparse
import math
from pathlib import Path

import matplotlib
from run_files import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, YELLOW, plt, save
from study_files import Study

COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), "--")
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++")
# The parts of a step, from the bottom of a bar.
PARTS = (("forward_ms", "forward", BLUE), ("backward_ms", "backward", SKY),
         ("optimizer_ms", "optimizer", GREEN), ("exposed_all_reduce_ms", "all-reduce", RED),
         ("data_ms", "data", YELLOW))  # fmt: skip


def style(i: int) -> dict:
    """Colour, marker and dashes, each of which alone tells a series from the others."""
    return {"color": COLOURS[i % 6], "marker": MARKERS[i % 6], "linestyle": LINES[i % 6],
            "markersize": 5, "capsize": 3}  # fmt: skip


def grid(count: int, width: float = 4.6, height: float = 3.6):
    columns = min(3, count)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(width * columns, height * rows),
                                squeeze=False)  # fmt: skip
    axes = list(axes.flat)
    for one in axes:
        one.set_axisbelow(True)
    for spare in axes[count:]:
        spare.set_visible(False)
    return figure, axes[:count]


def finish(study: Study, figure):
    figure.suptitle(study.devices, fontsize=9, color=GREY)
    figure.tight_layout()
    return figure


def rank_axis(study: Study, axes, ranks) -> None:
    axes.set_xlabel(f"{study.unit}s")
    axes.set_xticks(sorted(set(ranks)))


def legend_above(axes, columns: int = 1) -> None:
    """The y axis from zero, with room for the legend above what is drawn."""
    handles, labels = axes.get_legend_handles_labels()
    if max(len(label) for label in labels) > 20:
        columns = 1
    lines = math.ceil(len(labels) / columns)
    axes.set_ylim(0, axes.get_ylim()[1] * (1.04 + 0.085 * lines))
    axes.legend(handles, labels, loc="upper left", ncols=columns, columnspacing=1.2)


def name(panel, series) -> str:
    text = f"{'global batch' if panel.scaling == 'strong' else 'batch'} {series.batch}"
    several = len({one.loader_threads for one in panel.series}) > 1
    return f"{text}, {series.loader_threads} loading" if several else text


def add_independent(study: Study, axes, panel, column: str) -> None:
    """A thin line for ranks that share nothing, in the colour of theirs that do."""
    label = "independent ranks"
    for i, series in enumerate(panel.series):
        rows = study.independent(panel, series)
        if rows:
            axes.plot([row.ranks for row in rows], [getattr(row, column) for row in rows],
                      color=COLOURS[i % 6], linewidth=0.8, linestyle="-.",
                      label=label)  # fmt: skip
            label = None


def lines(study: Study, column: str, ylabel: str, extra):
    """A line per batch over the numbers of ranks, in a panel for each model and precision."""
    panels = [p for p in study.panels() if any(len(s.rows) > 1 for s in p.series)]
    if not panels:
        return None
    figure, grids = grid(len(panels))
    for axes, panel in zip(grids, panels):
        ranks = []
        for i, series in enumerate(panel.series):
            x, y = series.column("ranks"), series.column(column)
            axes.errorbar(x, y, series.column(column + "_ci95"), label=name(panel, series),
                          **style(i))  # fmt: skip
            ranks += x
        add_independent(study, axes, panel, column)
        extra(axes, panel)
        rank_axis(study, axes, ranks)
        axes.set(title=panel.title, ylabel=ylabel)
        if column == "efficiency":  # nothing is drawn near zero
            axes.set_ylim(0, max(1.05, axes.get_ylim()[1]))
            axes.legend(loc="lower left")
        else:
            legend_above(axes, columns=1 + (len(panel.series) > 2))
    return finish(study, figure)


def throughput(study: Study):
    def ideal_and_published(axes, panel):
        most = max(row.ranks for series in panel.series for row in series.rows)
        for i, series in enumerate(panel.series):
            first = series.rows[0]
            rate = first.images_per_second / first.ranks
            axes.plot([1, most], [rate, rate * most], color=GREY, linewidth=0.8, linestyle=":",
                      label="ideal" if i == 0 else None)  # fmt: skip
        others = [row for row in study.beside(panel) if row["ranks"] <= most]
        for i, system in enumerate(dict.fromkeys(f"{r['system']}, {r['hardware']}"
                                                 for r in others)):  # fmt: skip
            mine = [r for r in others if f"{r['system']}, {r['hardware']}" == system]
            axes.plot([r["ranks"] for r in mine], [r["images_per_second"] for r in mine],
                      color="black", linestyle="none", marker="x+1234"[i % 6], markersize=7,
                      label=system.replace(", torchvision 0.26, cuDNN 9.19", ""))  # fmt: skip

    return lines(study, "images_per_second", "images per second", ideal_and_published)


def speed_up(study: Study):
    def ideal(axes, panel):
        most = max(row.ranks for series in panel.series for row in series.rows)
        axes.plot([1, most], [1, most], color=GREY, linewidth=1, linestyle=":", label="ideal")

    return lines(study, "speed_up", f"times one {study.unit}", ideal)


def efficiency(study: Study):
    def ideal(axes, _):
        axes.axhline(1, color=GREY, linewidth=1, linestyle=":", label="ideal")
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1))

    return lines(study, "efficiency", "efficiency", ideal)


def stack(axes, rows) -> None:
    """A bar per row: its parts, and what is left of the median step."""
    bottom = [0.0] * len(rows)
    places = range(len(rows))

    def add(heights, label, colour, hatch):
        axes.bar(places, heights, bottom=bottom, label=label, color=colour, hatch=hatch,
                 edgecolor="white", linewidth=0.5, width=0.75)  # fmt: skip
        for i, height in enumerate(heights):
            bottom[i] += height

    for (column, label, colour), hatch in zip(PARTS, HATCHES):
        heights = [getattr(row, column) for row in rows]
        if max(heights) > 0:
            add(heights, label, colour, hatch)
    steps = [1e3 * row.global_batch / row.images_per_second for row in rows]
    add([max(0, step - below) for step, below in zip(steps, bottom)], "between", GREY, HATCHES[5])


def components(study: Study):
    panels = [p for p in study.panels() if any(not math.isnan(r.forward_ms)
                                               for s in p.series for r in s.rows)]  # fmt: skip
    if not panels:
        return None
    most = max(sum(len(s.rows) for s in p.series) for p in panels)
    figure, grids = grid(len(panels), width=max(4.6, 1.6 + 0.42 * most), height=4)
    for axes, panel in zip(grids, panels):
        rows = [row for series in panel.series for row in series.rows]
        stack(axes, rows)
        axes.set_xticks(range(len(rows)), [str(row.ranks) for row in rows])
        at = 0
        for series in panel.series:
            middle = at + (len(series.rows) - 1) / 2
            axes.annotate(name(panel, series).replace("batch ", "batch\n", 1), (middle, 0),
                          xytext=(0, -18), textcoords="offset points", ha="center", va="top",
                          xycoords=("data", "axes fraction"), fontsize=8)  # fmt: skip
            at += len(series.rows)
            if at < len(rows):
                axes.axvline(at - 0.5, color=GREY, linewidth=0.6)
        axes.set(title=panel.title, ylabel="ms per step")
        axes.set_xlabel(f"{study.unit}s, by batch", labelpad=26)
        axes.grid(axis="x", visible=False)
        legend_above(axes, columns=3)
    return finish(study, figure)


def by_batch(study: Study, column: str, ylabel: str, keys, label):
    """Lines over the batch of a rank, one for each key of the rows of a model."""

    def rows_of(model):
        return study.ok(model=model, scaling="weak") or study.ok(model=model)

    chosen = [model for model in study.models
              if len({row.batch_per_rank for row in rows_of(model)}) > 1]  # fmt: skip
    if not chosen:
        return None
    figure, grids = grid(len(chosen))
    for axes, model in zip(grids, chosen):
        rows = rows_of(model)
        for i, key in enumerate(dict.fromkeys(keys(row) for row in rows)):
            mine = sorted((r for r in rows if keys(r) == key), key=lambda r: r.batch_per_rank)
            axes.errorbar([r.batch_per_rank for r in mine], [getattr(r, column) for r in mine],
                          [getattr(r, column + "_ci95", 0) for r in mine], label=label(key),
                          **style(i))  # fmt: skip
        batches = sorted({row.batch_per_rank for row in rows})
        axes.set_xscale("log", base=2)
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.set_xticks([], minor=True)
        axes.set(title=model, xlabel=f"images per {study.unit}", ylabel=ylabel)
        legend_above(axes, columns=2)
    return finish(study, figure)


def batches(study: Study):
    several = len({row.precision for row in study.ok()}) > 1

    def label(key):
        ranks, precision = key
        text = f"{ranks} {study.unit}{'' if ranks == 1 else 's'}"
        return f"{text}, {precision}" if several else text

    return by_batch(study, "images_per_second", "images per second",
                    lambda row: (row.ranks, row.precision), label)  # fmt: skip


def memory(study: Study):
    """Of one rank, with crosses where a batch would not fit."""
    figure = by_batch(study, "memory_mib_per_rank", f"MiB per {study.unit}",
                      lambda row: row.precision, str)  # fmt: skip
    if figure is None:
        return None
    for axes in figure.axes:
        lost = [r for r in study.rows
                if r.model == axes.get_title() and r.status == "does_not_fit"]  # fmt: skip
        if lost:
            axes.plot([r.batch_per_rank for r in lost], [r.memory_mib_per_rank for r in lost],
                      color=RED, linestyle="none", marker="X", label="does not fit")  # fmt: skip
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:,.0f}")
            batches = sorted({r.batch_per_rank for r in study.rows
                              if r.model == axes.get_title()})  # fmt: skip
            axes.set_xticks(batches, [str(batch) for batch in batches])
            axes.autoscale()
            axes.legend(loc="upper left")
    return figure


def bars(study: Study, groups, keys, label, value, xlabel, titles):
    """Grouped bars with intervals: for each title its groups of bars, a bar for each key."""
    figure, grids = grid(len(titles), width=5.2)
    for axes, title in zip(grids, titles):
        names = list(groups(title))
        width = 0.8 / len(keys)
        for i, key in enumerate(keys):
            rows = [value(title, group, key) for group in names]
            x = [at + (i - (len(keys) - 1) / 2) * width for at in range(len(names))]
            drawn = [(at, row) for at, row in zip(x, rows) if row]
            axes.bar([at for at, _ in drawn], [r.images_per_second for _, r in drawn], width,
                     yerr=[r.images_per_second_ci95 for _, r in drawn], capsize=3,
                     color=COLOURS[i % 6], hatch=HATCHES[i % 6], edgecolor="white",
                     linewidth=0.5, label=label(key))  # fmt: skip
            for at, row in drawn:
                top = row.images_per_second + row.images_per_second_ci95
                axes.annotate(f"{row.images_per_second:,.0f}", (at, top), xytext=(0, 6),
                              textcoords="offset points", ha="center", fontsize=7,
                              rotation=90 if len(names) > 4 else 0)  # fmt: skip
        axes.set_xticks(range(len(names)), names)
        axes.set(title=title, ylabel="images per second", xlabel=xlabel)
        axes.grid(axis="x", visible=False)
        axes.margins(y=0.15)
        legend_above(axes, columns=3)
    return finish(study, figure)


def best(study: Study):
    """The fastest configuration of each number of ranks."""
    rows = {}
    for row in study.ok():
        key = row.model, row.ranks
        if key not in rows or row.images_per_second > rows[key].images_per_second:
            rows[key] = row
    if not rows:
        return None
    figure, grids = grid(len(study.models), width=5.2)
    for axes, model in zip(grids, study.models):
        mine = sorted((r for (m, _), r in rows.items() if m == model), key=lambda r: r.ranks)
        places = range(len(mine))
        top = max((r.images_per_second for r in mine), default=0)
        axes.barh(places, [r.images_per_second for r in mine],
                  xerr=[r.images_per_second_ci95 for r in mine], capsize=3,
                  color=[GREEN if r.images_per_second == top else BLUE for r in mine])  # fmt: skip
        for place, r in zip(places, mine):
            axes.annotate(f"{r.images_per_second:,.1f}: {r.precision}, batch {r.batch_per_rank}",
                          (r.images_per_second + r.images_per_second_ci95, place), xytext=(6, 0),
                          textcoords="offset points", va="center", fontsize=8)  # fmt: skip
        axes.set_yticks(places, [f"{r.ranks} {study.unit}{'s' if r.ranks > 1 else ''}"
                                 for r in mine])  # fmt: skip
        axes.margins(x=0.55)
        axes.set_xlim(left=0)
        axes.set(title=model, xlabel="images per second, fastest configuration")
        axes.grid(axis="y", visible=False)
    return finish(study, figure)


def find(rows, **wanted):
    return next((r for r in rows if all(getattr(r, k) == v for k, v in wanted.items())), None)


def precision(study: Study):
    """Bars of each precision side by side, by ranks and batch."""
    precisions = sorted({row.precision for row in study.ok()}, reverse=True)
    if len(precisions) < 2:
        return None
    rows = [row for row in study.ok() if row.scaling == "weak" or row.ranks == 1] or study.ok()

    def groups(model):
        keys = sorted({(r.batch_per_rank, r.ranks) for r in rows if r.model == model})
        return [f"{batch}\n×{ranks}" for batch, ranks in keys]

    def value(model, group, wanted):
        batch, ranks = (int(part) for part in group.split("\n×"))
        return find(rows, model=model, batch_per_rank=batch, ranks=ranks, precision=wanted)

    return bars(study, groups, precisions, str, value,
                f"images per {study.unit} × {study.unit}s", study.models)  # fmt: skip


def workers(study: Study):
    """Bars of each number of loading threads, by ranks."""
    loading = sorted({row.loader_threads for row in study.ok()})
    if len(loading) < 2:
        return None

    def groups(model):
        ranks = sorted({r.ranks for r in study.ok(model=model)})
        return [f"{count} {study.unit}{'s' if count > 1 else ''}" for count in ranks]

    def value(model, group, wanted):
        return find(study.ok(), model=model, ranks=int(group.split()[0]), loader_threads=wanted)

    return bars(study, groups, loading,
                lambda key: f"{key} loading thread{'s' if key > 1 else ''}", value, "",
                study.models)  # fmt: skip


PLOTS = {"throughput": throughput, "speed_up": speed_up, "efficiency": efficiency,
         "components": components, "batches": batches, "best": best, "memory": memory,
         "precision": precision, "workers": workers}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study", type=Path, help="--out of engine scale")
    parser.add_argument("--out", type=Path, help="folder of the pictures (default: the study's)")
    parser.add_argument("--format", default="png", choices=["png", "svg", "pdf"])
    options = parser.parse_args()
    study = Study(options.study)
    if not study.ok():
        raise SystemExit(f"{options.study}: nothing was measured there")
    folder = options.out or options.study
    folder.mkdir(parents=True, exist_ok=True)
    for plot, draw in PLOTS.items():
        figure = draw(study)
        if figure is None:
            continue
        out = folder / f"scale_{plot}.{options.format}"
        save(figure, out)
        plt.close(figure)
        print(out)


if __name__ == "__main__":
    main()
