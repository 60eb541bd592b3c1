#!/usr/bin/env python3
"""Where the time of a training step goes: `engine profile --out DIR`.

Above: time, launches and mean duration by kind of operation. Below: the parts of the step, from
what the hardware must take to what is lost, and the layers that lose most.
"""

from typing import Dict, List

from run_files import BLUE, GREY, ORANGE, PURPLE, RED, SKY, Run, main, plt, shorten

PARTS = [  # member of "gaps", name, colour, hatch: told apart without colour too
    ("roofline_ms", "roofline", BLUE, ""),
    ("inefficiency_ms", "inefficiency", ORANGE, "//"),
    ("gaps_ms", "gaps between launches", SKY, ".."),
    ("exposed_all_reduce_ms", "exposed communication", RED, "xx"),
    ("waiting_ms", "waiting for data", PURPLE, "\\\\"),
    ("not_accounted_ms", "not accounted", GREY, "--"),
]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(axes, names: List[str], values: List[float], texts: List[str]) -> None:
    axes.barh(names[::-1], values[::-1], color=BLUE)
    for i, (value, text) in enumerate(zip(values[::-1], texts[::-1])):
        axes.text(value, i, f" {text}", va="center", fontsize=8)
    axes.margins(x=0.45)
    axes.locator_params(axis="x", nbins=4)
    axes.grid(axis="y", visible=False)


def kinds(panels, groups: List[Dict]) -> None:
    names = [group["name"] for group in groups]
    total = sum(group["ms"] for group in groups) or 1
    times = [group["ms"] for group in groups]
    bars(panels[0], names, times,
         [f"{number(ms)} ms, {100 * ms / total:.1f}%" for ms in times])  # fmt: skip
    panels[0].set(title="time by kind", xlabel="ms of a step")
    counts = [group["launches"] for group in groups]
    bars(panels[1], names, counts, [str(count) for count in counts])
    panels[1].set(title="launches by kind", xlabel="launches of a step")
    means = [group["mean_us"] for group in groups]
    bars(panels[2], names, means, [number(mean) for mean in means])
    panels[2].set(title="mean duration of a launch", xlabel="µs")
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)


def parts(axes, gaps: Dict) -> None:
    step, left = gaps["step_ms"], 0.0
    for member, name, colour, hatch in PARTS:
        value = gaps[member]
        label = f"{name}: {number(value)} ms"
        axes.barh(0, max(value, 0), left=left, color=colour, hatch=hatch, edgecolor="white",
                  label=label)
        if value > 0.04 * step:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            axes.text(left + value / 2, 0, f"{100 * value / step:.1f}%", ha="center", va="center",
                      fontsize=9, bbox=box)
        left += max(value, 0)
    axes.axvline(step, color="black", linewidth=1)
    axes.set(title=f"the step: {number(step)} ms", yticks=[], ylim=(-0.5, 0.5),
             xlim=(0, 1.02 * max(step, left)))
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.3), ncol=3)


def layers(axes, worst: List[Dict], step: float) -> None:
    names = [shorten(layer["layer"], 48) for layer in worst][::-1]
    least = [layer["roofline_ms"] for layer in worst][::-1]
    beyond = [layer["inefficiency_ms"] for layer in worst][::-1]
    places = range(len(names))
    axes.barh(places, least, color=BLUE, label="roofline")
    axes.barh(places, beyond, left=least, color=ORANGE, hatch="//", edgecolor="white",
              label="beyond it")
    for i, (low, lost) in enumerate(zip(least, beyond)):
        axes.text(low + lost, i, f" {number(lost)} ms, {100 * lost / step:.1f}% of the step",
                  va="center", fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.margins(x=0.25)
    axes.grid(axis="y", visible=False)
    axes.legend(loc="lower right")
    axes.set(title="the layers that lose most", xlabel="ms of a step, forward and backward")


def draw(run: Run):
    profile = run.json("profile.json")
    if not profile:
        return None
    gaps = profile["gaps"]
    figure = plt.figure(figsize=(13, 11))
    grid = figure.add_gridspec(3, 3, height_ratios=[4, 0.8, 4], hspace=0.6, wspace=0.12)
    kinds([figure.add_subplot(grid[0, column]) for column in range(3)], profile["by_kind"])
    parts(figure.add_subplot(grid[1, :]), gaps)
    layers(figure.add_subplot(grid[2, :]), gaps["worst_layers"], gaps["step_ms"])
    ranks = profile["ranks"]
    figure.suptitle(f"{profile['model']}, batch {profile['batch_size']}, {profile['precision']}, "
                    f"{ranks} rank{'' if ranks == 1 else 's'}: {profile['hardware']}", y=0.94)
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "profile", parts=False)
