#!/usr/bin/env python3
"""Records the rates of torch.optim.lr_scheduler: tests/golden/schedules.json.

{"torch", "traces": [{"kind", "unit", "rate", "epochs", "steps_per_epoch",
                      <the recipe's own numbers>,
                      "losses": [one per epoch] of plateau, "rates": [one per step]}]}
A warm-up is LinearLR in front of the schedule, by SequentialLR, as in torchvision's references.
"""

import argparse
import json
import warnings
from pathlib import Path
from typing import Dict, List

import torch
from torch.optim import lr_scheduler

EPOCHS, STEPS = 12, 7
LOSSES = [2.0, 1.5, 1.49999, 1.6, 1.49995, 1.2, 1.3, 1.25, 1.21, 1.2, 1.19, 1.3]


def scheduler_of(recipe: Dict, optimizer: torch.optim.Optimizer):
    kind, by_step = recipe["kind"], recipe["unit"] == "step"
    units = EPOCHS * STEPS if by_step else EPOCHS
    warmup = recipe.get("warmup", 0)
    if kind == "cosine":
        main = lr_scheduler.CosineAnnealingLR(optimizer, units - warmup, recipe["least"])
    elif kind == "step":
        main = lr_scheduler.StepLR(optimizer, recipe["every"], recipe["gamma"])
    elif kind == "exponential":
        main = lr_scheduler.ExponentialLR(optimizer, recipe["gamma"])
    elif kind == "constant":
        main = lr_scheduler.ConstantLR(optimizer, 1.0, 0)
    elif kind == "one_cycle":
        return lr_scheduler.OneCycleLR(
            optimizer, recipe["rate"], units, pct_start=recipe["rise"], cycle_momentum=False,
            div_factor=recipe["divisor"], final_div_factor=recipe["final_divisor"],
        )  # fmt: skip
    else:
        return lr_scheduler.ReduceLROnPlateau(
            optimizer,
            mode="max" if recipe.get("rising") else "min",
            factor=recipe["factor"],
            patience=recipe["patience"],
        )
    if not warmup:
        return main
    linear = lr_scheduler.LinearLR(optimizer, recipe["warmup_factor"], total_iters=warmup)
    return lr_scheduler.SequentialLR(optimizer, [linear, main], [warmup])


def trace(recipe: Dict) -> List[float]:
    """The rate of every step."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], recipe["rate"])
    scheduler = scheduler_of(recipe, optimizer)
    rates = []
    for epoch in range(EPOCHS):
        for _ in range(STEPS):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if recipe["unit"] == "step":
                scheduler.step()
        if recipe["kind"] == "plateau":
            scheduler.step(LOSSES[epoch])
        elif recipe["unit"] == "epoch":
            scheduler.step()
    return rates


def recipes() -> List[Dict]:
    chosen = []
    for unit, every in ("epoch", 3), ("step", 10):
        for warmup in 0, 3:
            common = {"unit": unit, "rate": 0.1, "warmup": warmup, "warmup_factor": 0.01}
            chosen += [
                {"kind": "constant", **common},
                {"kind": "cosine", "least": 1e-4, **common},
                {"kind": "step", "every": every, "gamma": 0.3, **common},
                {"kind": "exponential", "gamma": 0.9, **common},
            ]
    cycle = {"kind": "one_cycle", "unit": "step", "rate": 0.05}
    chosen.append({**cycle, "rise": 0.3, "divisor": 25.0, "final_divisor": 1e4})
    chosen.append({**cycle, "rise": 0.1, "divisor": 10.0, "final_divisor": 100.0})
    for patience in 0, 1, 2:
        chosen.append(
            {"kind": "plateau", "unit": "epoch", "rate": 0.1, "factor": 0.1,
             "patience": patience, "losses": LOSSES}
        )  # fmt: skip
    chosen.append({**chosen[-1], "patience": 1, "rising": True})
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    warnings.simplefilter("ignore")  # SequentialLR calls step(epoch) itself, which is deprecated
    traces = [
        {**recipe, "epochs": EPOCHS, "steps_per_epoch": STEPS, "rates": trace(recipe)}
        for recipe in recipes()
    ]
    record = {"torch": torch.__version__, "traces": traces}
    parser.parse_args().out.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
