#!/usr/bin/env python3
"""What each epoch took of the machine: throughput, waiting for data, GPU, CPU and memory."""

from run_files import BLUE, GREEN, ORANGE, PURPLE, RED, Run, epoch_axis, from_zero, main, plt


def draw(run: Run):
    columns = run.results()
    if "images_per_second" not in columns:
        return None
    epochs = columns["epoch"]
    marker = "o" if len(epochs) <= 30 else None
    has_gpu = "gpu/utilisation" in columns
    rows, height = (2, 6.4) if has_gpu else (1, 3.6)
    figure, grid = plt.subplots(rows, 3, figsize=(13, height))
    panels = list(grid.flat)

    def panel(axes, title, unit, lines, factor=1.0, least_top=0.0):
        shown = [least_top / 1.12]
        for name, label, colour in lines:
            if name in columns:
                values = [factor * v for v in columns[name]]
                axes.plot(epochs, values, color=colour, label=label, marker=marker, markersize=3.5)
                shown += values
        axes.set(title=title, ylabel=unit)
        from_zero(axes, shown)
        if len(lines) > 1:
            axes.legend(loc="best")
        epoch_axis(axes, epochs)

    panel(panels[0], "training throughput", "images per second", [("images_per_second", "", BLUE)])
    panel(panels[1], "time spent waiting for data", "% of the epoch",
          [("wait_share", "", RED)], 100, 5)
    panel(panels[2], "CPU", "cores busy, this process", [("cpu/cores", "", GREEN)])
    memory = panels[2].twinx()
    memory.spines["right"].set_visible(True)
    memory.grid(False)
    resident = columns.get("cpu/memory_gib", [0] * len(epochs))
    memory.plot(epochs, resident, color=PURPLE, linestyle="--", marker=marker,
                markersize=3.5)
    memory.set_ylabel("resident memory, GiB (dashed)", color=PURPLE)
    from_zero(memory, resident)
    if has_gpu:
        panel(panels[3], "GPU utilisation", "% of the time",
              [("gpu/utilisation", "", BLUE)], 100, 105)
        panel(panels[4], "GPU memory, fullest device", "GiB", [("gpu/memory_gib", "", PURPLE)])
        panel(panels[5], "GPU power, all devices, and temperature", "W, °C",
              [("gpu/watts", "power, W", ORANGE), ("gpu/celsius", "temperature, °C", RED)])
    figure.tight_layout()
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "machine", parts=False)
