#!/usr/bin/env python3
"""The error of gradients in float that comes from signs which rounding turns before ReLUs.

One training step of a model whose activations are ReLUs, from the parameter rule of golden.py, in
float64 and twice in float32: as it is, and with every ReLU open where it is open in float64. Prints
how many values behind ReLUs have another sign in float32, and the median and worst relative error
of a parameter's gradient.
"""

import argparse
from typing import Dict, List, Tuple

import torch
import torchvision
from torch import nn
from torch.nn import functional

import golden

Gradients = Dict[str, torch.Tensor]


class Gates:
    """Stands for every ReLU: records where it is open in float64, and compares."""

    def __init__(self) -> None:
        self.recorded: List[torch.Tensor] = []
        self.next = 0
        self.forced = False
        self.values = self.turned = 0

    def relu(self, x: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        is_open = x > 0
        if x.dtype == torch.float64:
            self.recorded.append(is_open)
            return x * is_open
        expected = self.recorded[self.next]
        self.next += 1
        self.values += expected.numel()
        self.turned += int((is_open != expected).sum())
        return x * (expected if self.forced else is_open)


def gradients(args: argparse.Namespace, seed: int, dtype: torch.dtype) -> Gradients:
    model = getattr(torchvision.models, args.model)(num_classes=args.classes)
    with torch.no_grad():
        golden.set_state_by_rule(model, seed)
    model = model.to(dtype).train()
    shape = (args.batch_size, 3, args.image_size, args.image_size)
    x = torch.from_numpy(golden.rule_tensor("input", shape, seed)).to(dtype)
    labels = torch.from_numpy(golden.rule_labels(args.batch_size, args.classes))
    functional.cross_entropy(model(x), labels).backward()
    return {name: p.grad.double() for name, p in model.named_parameters()}


def errors(ours: Gradients, exact: Gradients) -> Tuple[float, float]:
    """The median and the worst, as `engine parity` takes them."""
    norms = {name: float(g.norm()) for name, g in exact.items()}
    floor = golden.ZERO_GRADIENT * sum(norm**2 for norm in norms.values()) ** 0.5
    found = sorted(float((ours[n] - g).norm()) / max(norms[n], floor) for n, g in exact.items())
    return found[len(found) // 2], found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Signs that rounding turns in front of ReLUs.")
    parser.add_argument("--model", default="densenet169")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3])
    args = parser.parse_args()
    for seed in args.seeds:
        gates = Gates()
        nn.ReLU.forward = lambda _, x: gates.relu(x)
        functional.relu = gates.relu
        exact = gradients(args, seed, torch.float64)
        for gates.forced in (False, True):
            gates.next = gates.values = gates.turned = 0
            median, worst = errors(gradients(args, seed, torch.float32), exact)
            print(
                f"{args.model} seed {seed}{', signs of float64' if gates.forced else ''}: "
                f"{gates.turned} of {gates.values} turned, median {median:.1e}, worst {worst:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
