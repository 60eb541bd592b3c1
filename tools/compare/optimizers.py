#!/usr/bin/env python3
"""Records how torch.optim moves parameters under given gradients: tests/golden/adam.json.

{"torch", "steps", "tensors": [{"name", "start": [..], "gradients": [[..] per step]}],
 "traces": [{"optimizer": "adam" | "sgd", "lr", "betas", "eps", "momentum", "weight_decay",
             "precision": "f32" | "f64", "values": {name: [[..] per step]}}]}
Values are those after each step. Start and gradients are exact in float; weight decay is the L2
term that both optimizers add to the gradient. The tensors hold what goes wrong first: gradients
that are zero, tiny or huge, that change sign, and that stop.
"""

import argparse
import json
from pathlib import Path
from typing import Dict, List

import numpy as np
import torch

import philox

STEPS = 20
SEED = 1
ADAM = {"optimizer": "adam", "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8}
SGD = {"optimizer": "sgd", "lr": 1e-2, "momentum": 0.9}


def scales(name: str, step: int) -> np.ndarray:
    """What the random gradients of one step are multiplied by, per element."""
    plain = np.array([1.0, 0.1, 1e-2, 1e-3, 1.0, 0.1, 1e-2])
    extreme = np.array([0.0, 1e-12, 1e-8, 1e-4, 1e4, 1e8])
    return {"plain": plain, "extreme": extreme, "stops": np.ones(3) * (step < 10)}[name]


def recorded(name: str) -> Dict[str, object]:
    size = scales(name, 0).size
    signed = 2 * philox.uniform(SEED, f"gradient {name}", STEPS * size).reshape(STEPS, size) - 1
    gradients = np.stack([signed[step] * scales(name, step) for step in range(STEPS)])
    start = 2 * philox.uniform(SEED, f"start {name}", size) - 1
    as_floats = [values.astype(np.float32).tolist() for values in (start, gradients)]
    return {"name": name, "start": as_floats[0], "gradients": as_floats[1]}


def trace(tensor: Dict[str, List], recipe: Dict, dtype: torch.dtype) -> List[List[float]]:
    """The tensor's values after every step."""
    parameter = torch.nn.Parameter(torch.tensor(tensor["start"], dtype=dtype))
    decay = recipe["weight_decay"]
    if recipe["optimizer"] == "adam":
        betas = tuple(recipe["betas"])
        optimizer = torch.optim.Adam([parameter], recipe["lr"], betas, recipe["eps"], decay)
    else:
        optimizer = torch.optim.SGD(
            [parameter], recipe["lr"], recipe["momentum"], weight_decay=decay
        )
    values = []
    for gradient in tensor["gradients"]:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        values.append(parameter.tolist())
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="Traces of torch.optim.Adam and SGD.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    tensors = [recorded(name) for name in ("plain", "extreme", "stops")]
    traces = []
    for base in (ADAM, SGD):
        for decay in (0.0, 0.01):
            for precision, dtype in (("f32", torch.float32), ("f64", torch.float64)):
                recipe = {**base, "weight_decay": decay, "precision": precision}
                recipe["values"] = {t["name"]: trace(t, recipe, dtype) for t in tensors}
                traces.append(recipe)
    record = {"torch": torch.__version__, "steps": STEPS, "tensors": tensors, "traces": traces}
    out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{out}: {len(traces)} traces, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
