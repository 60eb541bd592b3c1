#!/usr/bin/env python3
"""What each epoch took: time and energy, throughput, waiting for data, GPU, CPU and memory."""

import math
from typing import Any, Callable, List

from run_files import (BLUE, GREEN, ORANGE, PURPLE, RED, Run, epoch_axis, from_zero, grid_of,
                       main)  # fmt: skip


def panels(run: Run) -> List[Callable[[Any], None]]:
    """Each draws one of the pictures on the axes that it is given; none without a throughput."""
    columns = run.results()
    if "images_per_second" not in columns:
        return []
    epochs = columns["epoch"]
    marker = "o" if len(epochs) <= 30 else None

    def panel(title, unit, lines, factor=1.0, least_top=0.0):
        def on(axes):
            shown = [least_top / 1.12]
            for i, (name, label, colour) in enumerate(lines):
                if name in columns:
                    values = [factor * v for v in columns[name]]
                    axes.plot(epochs, values, "--" if i else "-", color=colour, label=label,
                              marker=marker, markersize=3.5)  # fmt: skip
                    shown += values
            axes.set(title=title, ylabel=unit)
            from_zero(axes, shown)
            if len(lines) > 1:
                axes.legend(loc="best")
            epoch_axis(axes, epochs)
        return on  # fmt: skip

    def processor(axes):
        panel("CPU", "cores busy, this process", [("cpu/cores", "", GREEN)])(axes)
        memory = axes.twinx()
        memory.spines["right"].set_visible(True)
        memory.grid(False)
        resident = columns.get("cpu/memory_gib", [0] * len(epochs))
        memory.plot(epochs, resident, color=PURPLE, linestyle="--", marker=marker, markersize=3.5)
        memory.set_ylabel("resident memory, GiB (dashed)", color=PURPLE)
        from_zero(memory, resident)

    pictures = []
    if any(seconds > 0 for seconds in columns.get("epoch_seconds", [])):
        pictures.append(panel("time of each epoch's training", "seconds",
                              [("epoch_seconds", "", BLUE)]))  # fmt: skip
    if "gpu/energy_joules" in columns:
        pictures.append(panel("GPU energy of each epoch's training", "Wh",
                              [("gpu/energy_joules", "", ORANGE)], 1 / 3600))  # fmt: skip
    pictures += [
        panel("training throughput", "images per second", [("images_per_second", "", BLUE)]),
        panel("time spent waiting for data", "% of the epoch", [("wait_share", "", RED)], 100, 5),
        processor]
    if any(math.isfinite(v) for v in columns.get("gpu/utilisation", [])):
        pictures += [
            panel("GPU utilisation", "% of the time", [("gpu/utilisation", "", BLUE)], 100, 105),
            panel("GPU memory, fullest device", "GiB", [("gpu/memory_gib", "", PURPLE)]),
            panel("GPU power, all devices, and temperature", "W, °C",
                  [("gpu/watts", "power, W", ORANGE), ("gpu/celsius", "temperature, °C", RED)])]
    return pictures  # fmt: skip


def draw(run: Run):
    pictures = panels(run)
    return grid_of(pictures, 4 if len(pictures) in (4, 7, 8) else 3) if pictures else None


if __name__ == "__main__":
    main(draw, __doc__, "machine", parts=False)
