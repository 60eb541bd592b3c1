#!/usr/bin/env python3
"""Records torch.nn.CrossEntropyLoss and its gradients: tests/golden/losses.json.

{"torch", "logits": [[..] per row], "labels": [..], "weights": [..],
 "mix": {"partners": [..], "shares": [..]},
 "cases": [{"smoothing", "weighted", "mixed", "divisor", "loss", "gradient": [[..] per row]}]}
All values are float64. A mixed loss is shares · CE(labels) + (1 − shares) · CE(labels[partners]) of
each row, summed and divided by the mixed weights of the rows; without a mix it is the mean of
CrossEntropyLoss.
"""

import argparse
import json
from pathlib import Path

import torch
from torch.nn import functional

import philox

SEED = 1
ROWS, CLASSES = 7, 5
LABELS = [0, 3, 1, 4, 2, 3, 3]
WEIGHTS = [0.5, 2.0, 1.0, 0.0, 3.25]
PARTNERS = [6, 5, 4, 3, 2, 1, 0]
SHARES = [0.25, 1.0, 0.5, 0.125, 0.0, 0.75, 0.875]


def case(values: torch.Tensor, smoothing: float, weighted: bool, mixed: bool) -> dict:
    logits = values.clone().requires_grad_()
    labels = torch.tensor(LABELS)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    weight = weights if weighted else None
    of_label = weights[labels] if weighted else torch.ones(ROWS, dtype=torch.float64)
    if mixed:
        shares = torch.tensor(SHARES, dtype=torch.float64)
        others = labels[torch.tensor(PARTNERS)]

        def rows(target: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(
                logits, target, weight, reduction="none", label_smoothing=smoothing
            )

        divisor = (shares * of_label + (1 - shares) * of_label[torch.tensor(PARTNERS)]).sum()
        loss = (shares * rows(labels) + (1 - shares) * rows(others)).sum() / divisor
    else:
        divisor = of_label.sum()
        loss = functional.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
    loss.backward()
    return {
        "smoothing": smoothing,
        "weighted": weighted,
        "mixed": mixed,
        "divisor": divisor.item(),
        "loss": loss.item(),
        "gradient": logits.grad.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Values of torch.nn.CrossEntropyLoss.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    signed = 16 * philox.uniform(SEED, "logits", ROWS * CLASSES) - 8
    values = torch.tensor(signed, dtype=torch.float64).reshape(ROWS, CLASSES)
    cases = [
        case(values, smoothing, weighted, mixed)
        for smoothing in (0.0, 0.1, 0.9)
        for weighted in (False, True)
        for mixed in (False, True)
    ]
    record = {
        "torch": torch.__version__,
        "logits": values.tolist(),
        "labels": LABELS,
        "weights": WEIGHTS,
        "mix": {"partners": PARTNERS, "shares": SHARES},
        "cases": cases,
    }
    out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{out}: {len(cases)} cases, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
