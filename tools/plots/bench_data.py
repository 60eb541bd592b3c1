"""Plots what `engine bench data --out FILE.csv` measured. Usage: bench_data.py FILE.csv OUT.png

Left: the steps of one core; middle: loaders by threads and cache against what the model needs; right:
strategies of feeding several GPUs. Needs Debian's python3-matplotlib.
"""
import csv
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def read(path):
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["threads"] = int(row["threads"])
        for name in ("images_per_second", "images_per_second_per_core", "need"):
            row[name] = float(row[name])
    return rows


def bars(axis, rows, column, title):
    names = [row["what"] for row in rows]
    values = [row[column] for row in rows]
    axis.barh(names[::-1], values[::-1], color="tab:blue")
    for i, value in enumerate(values[::-1]):
        axis.text(value, i, f" {value:,.0f}", va="center", fontsize=8)
    axis.margins(x=0.25)
    axis.set_title(title)


def loaders(axis, rows, need):
    for cache in dict.fromkeys(row["cache"] for row in rows):
        points = sorted((row["threads"], row["images_per_second"]) for row in rows
                        if row["cache"] == cache)
        axis.plot(*zip(*points), marker="o", label=f"cache {cache}")
    if need > 0:
        axis.axhline(need, color="tab:red", linestyle="--", label=f"needed: {need:,.0f}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("loading threads")
    axis.set_ylabel("images/s")
    axis.set_ylim(bottom=0)
    axis.legend()
    axis.set_title("Loader")


def main():
    rows = read(sys.argv[1])
    groups = {name: [row for row in rows if row["group"] == name]
              for name in ("step", "loader", "strategy")}
    groups = {name: part for name, part in groups.items() if part}
    figure, axes = plt.subplots(1, len(groups), figsize=(5.5 * len(groups), 4.5), squeeze=False)
    for axis, (name, part) in zip(axes[0], groups.items()):
        if name == "loader":
            loaders(axis, part, rows[0]["need"])
        elif name == "step":
            bars(axis, part, "images_per_second_per_core", "One core: images/s")
            axis.set_xscale("log")
        else:
            bars(axis, part, "images_per_second", "Ways to feed several GPUs: images/s")
    figure.tight_layout()
    figure.savefig(sys.argv[2], dpi=120)


if __name__ == "__main__":
    main()
