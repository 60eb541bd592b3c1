"""Plots what `engine bench data --out FILE.csv` measured.

On the left is what each step takes of one core, in the middle are loaders by threads and cache
against what the model needs, on the right are strategies of feeding several GPUs.
"""

import argparse
import csv
from pathlib import Path
from typing import Dict, List

from run_files import BLUE, GREEN, GREY, ORANGE, RED, plt, save

COLOURS = {"none": BLUE, "disk": ORANGE, "ram": GREEN}
Row = Dict[str, object]


def read(path: str) -> List[Row]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row["threads"] = int(row["threads"])
            for name in ("images_per_second", "images_per_second_per_core", "need"):
                row[name] = float(row[name])
    except (OSError, KeyError, ValueError) as error:
        raise SystemExit(f"{path}: no file of engine bench data --out: {error}")
    if not rows:
        raise SystemExit(f"{path}: no rows in it")
    return rows


def bars(axes, names, values, texts) -> None:
    axes.barh(names[::-1], values[::-1], color=BLUE)
    for i, (value, text) in enumerate(zip(values[::-1], texts[::-1])):
        axes.text(value, i, f" {text}", va="center", fontsize=8)
    axes.margins(x=0.3)
    axes.grid(axis="y", visible=False)


def steps(axes, rows: List[Row]) -> None:
    rates = [row["images_per_second_per_core"] for row in rows]
    bars(axes, [row["what"] for row in rows], [1e6 / rate for rate in rates],
         [f"{rate:,.0f}/s" for rate in rates])  # fmt: skip
    axes.set(title="one core, step by step", xlabel="µs per image")


def loaders(axes, rows: List[Row], need: float) -> None:
    for cache in dict.fromkeys(row["cache"] for row in rows):
        points = sorted((row["threads"], row["images_per_second"]) for row in rows
                        if row["cache"] == cache)  # fmt: skip
        axes.plot(*zip(*points), marker="o", markersize=4, label=f"cache {cache}",
                  color=COLOURS.get(cache, GREY))
    if need > 0:
        axes.axhline(need, color=RED, linestyle="--", label=f"the model needs {need:,.0f}")
    threads = sorted({row["threads"] for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_xticks(threads, [str(count) for count in threads])
    axes.set_xticks([], minor=True)
    axes.set_yscale("log", subs=(2, 5))
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_minor_formatter("{x:,.0f}")
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.5)
    axes.legend(loc="upper left")
    axes.set(title="loader", xlabel="loading threads", ylabel="images per second")


def strategies(axes, rows: List[Row], need: float) -> None:
    def name(row):
        return f"{row['what']}\n({row['threads']} thread{'' if row['threads'] == 1 else 's'})"

    rates = [row["images_per_second"] for row in rows]
    bars(axes, [name(row) for row in rows], rates, [f"{rate:,.0f}" for rate in rates])
    if need > 0:
        axes.axvline(need, color=RED, linestyle="--")
    axes.set(title="ways to feed several GPUs, from files", xlabel="images per second")


def draw(rows: List[Row]):
    groups = {name: [row for row in rows if row["group"] == name]
              for name in ("step", "loader", "strategy")}  # fmt: skip
    groups = {name: part for name, part in groups.items() if part}
    figure, panels = plt.subplots(1, len(groups), figsize=(5 * len(groups), 4), squeeze=False)
    for axes, (name, part) in zip(panels[0], groups.items()):
        if name == "step":
            steps(axes, part)
        elif name == "loader":
            loaders(axes, part, part[0]["need"])
        else:
            strategies(axes, part, part[0]["need"])
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", help="CSV of engine bench data --out")
    parser.add_argument("out", type=Path, help="picture, by its ending: .png, .svg, .pdf")
    options = parser.parse_args()
    save(draw(read(options.file)), options.out)
