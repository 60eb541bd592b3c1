#!/usr/bin/env python3
"""Records how torch.optim moves parameters under given gradients: tests/golden/optimizers.json.

{"torch", "steps",
 "tensors": [{"name", "start": [..], "gradients": [[..] per step]}], which are parameters
 "running": {"start": [..], "values": [[..] per step]}, which are like a norm's running statistics
 "traces": [{"optimizer": "adam" | "adamw" | "sgd" | "rmsprop", "lr", its options by our names,
             "weight_decay", "undecayed": [names without it], "rates": {name: factor on lr},
             "clip_norm", "ema_decay", "skipped": [steps whose gradients overflow],
             "precision": "f32" | "f64",
             "values": {name: [[..] per step]}, "norms": [gradient norm per step],
             "averages": {name or "running": [[..] per step]}}]}
Values, averages and norms are those after each step. Start and gradients are exact in float. The
tensors hold what goes wrong first: gradients that are zero, tiny or huge, that change sign, and
that stop. A rate of 0 leaves a tensor out of the optimizer and of the norm. Averages are those of
timm's ModelEmaV2, which a skipped step leaves alone as it leaves everything else.
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
ADAM = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
PLAIN = [
    {"optimizer": "adam", "lr": 1e-3, **ADAM},
    {"optimizer": "adamw", "lr": 1e-3, **ADAM},
    {"optimizer": "sgd", "lr": 1e-2, "momentum": 0.9},
    {"optimizer": "sgd", "lr": 1e-2, "momentum": 0.9, "nesterov": True},
    {"optimizer": "sgd", "lr": 1e-2, "momentum": 0.0},
    {"optimizer": "rmsprop", "lr": 1e-3, "alpha": 0.99, "eps": 1e-8, "momentum": 0.0},
    {"optimizer": "rmsprop", "lr": 1e-3, "alpha": 0.9, "eps": 1e-3, "momentum": 0.9},
]
# What recipes put around an optimizer, all at once.
AROUND = {
    "weight_decay": 0.05,
    "undecayed": ["stops"],
    "rates": {"extreme": 0.25},
    "clip_norm": 0.5,
    "ema_decay": 0.8,
    "skipped": [0, 6, 7, 15],
}
FROZEN = {**AROUND, "rates": {"extreme": 0.0, "stops": 3.0}, "clip_norm": 0.25}


def scales(name: str, step: int) -> np.ndarray:
    """The factors by which the random gradients of one step are multiplied, element by element."""
    plain = np.array([1.0, 0.1, 1e-2, 1e-3, 1.0, 0.1, 1e-2])
    extreme = np.array([0.0, 1e-12, 1e-8, 1e-4, 1e4, 1e8])
    return {"plain": plain, "extreme": extreme, "stops": np.ones(3) * (step < 10)}[name]


def as_floats(values: np.ndarray) -> List:
    return values.astype(np.float32).tolist()


def recorded(name: str) -> Dict[str, object]:
    size = scales(name, 0).size
    signed = 2 * philox.uniform(SEED, f"gradient {name}", STEPS * size).reshape(STEPS, size) - 1
    gradients = np.stack([signed[step] * scales(name, step) for step in range(STEPS)])
    start = 2 * philox.uniform(SEED, f"start {name}", size) - 1
    return {"name": name, "start": as_floats(start), "gradients": as_floats(gradients)}


def running_values() -> Dict[str, object]:
    values = 10 * philox.uniform(SEED, "running", (STEPS + 1) * 5).reshape(STEPS + 1, 5)
    return {"start": as_floats(values[0]), "values": as_floats(values[1:])}


def make_optimizer(recipe: Dict, groups: List[Dict]) -> torch.optim.Optimizer:
    kind, lr = recipe["optimizer"], recipe["lr"]
    if kind in ("adam", "adamw"):
        make = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
        return make(groups, lr, (recipe["beta1"], recipe["beta2"]), recipe["eps"])
    if kind == "sgd":
        nesterov = recipe.get("nesterov", False)
        return torch.optim.SGD(groups, lr, recipe["momentum"], nesterov=nesterov)
    return torch.optim.RMSprop(
        groups, lr, recipe["alpha"], recipe["eps"], momentum=recipe["momentum"]
    )


def trace(tensors: List[Dict], running: Dict, recipe: Dict, dtype: torch.dtype) -> Dict:
    """Values, norms and averages after every step."""
    as_tensor = lambda values: torch.tensor(values, dtype=dtype)
    names = [t["name"] for t in tensors]
    parameters = {t["name"]: torch.nn.Parameter(as_tensor(t["start"])) for t in tensors}
    rates = {name: recipe.get("rates", {}).get(name, 1.0) for name in names}
    groups = [
        {
            "params": [parameters[name]],
            "lr": recipe["lr"] * rates[name],
            "weight_decay": 0.0 if name in recipe.get("undecayed", []) else recipe["weight_decay"],
        }
        for name in names
        if rates[name] > 0
    ]
    optimizer = make_optimizer(recipe, groups)
    model = {**{name: p.detach() for name, p in parameters.items()}}
    model["running"] = as_tensor(running["start"])
    decay = recipe.get("ema_decay", 0.0)
    averages = {name: value.clone() for name, value in model.items()}
    out = {"values": {n: [] for n in names}, "norms": [], "averages": {n: [] for n in model}}
    for step in range(STEPS):
        for t in tensors:
            parameters[t["name"]].grad = as_tensor(t["gradients"][step])
        model["running"] = as_tensor(running["values"][step])
        updated = [p for group in groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(updated, recipe.get("clip_norm", float("inf")))
        out["norms"].append(norm.item())
        if step not in recipe.get("skipped", []):
            optimizer.step()
            for name, value in model.items():
                averages[name].copy_(decay * averages[name] + (1.0 - decay) * value)
        for name in names:
            out["values"][name].append(parameters[name].tolist())
        for name, average in averages.items():
            out["averages"][name].append(average.tolist())
    if decay == 0:
        del out["averages"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Traces of torch.optim.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    tensors = [recorded(name) for name in ("plain", "extreme", "stops")]
    running = running_values()
    recipes = [{**plain, "weight_decay": decay} for plain in PLAIN for decay in (0.0, 0.01)]
    recipes += [{**plain, **around} for plain in PLAIN for around in (AROUND, FROZEN)]
    traces = []
    for recipe in recipes:
        for precision, dtype in (("f32", torch.float32), ("f64", torch.float64)):
            values = trace(tensors, running, recipe, dtype)
            traces.append({**recipe, "precision": precision, **values})
    record = {
        "torch": torch.__version__,
        "steps": STEPS,
        "tensors": tensors,
        "running": running,
        "traces": traces,
    }
    out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{out}: {len(traces)} traces, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
