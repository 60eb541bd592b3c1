#!/usr/bin/env python3
"""Records torch.nn.BCEWithLogitsLoss and its gradients: tests/golden/label_losses.json.

{"torch", "logits": [[..] per row], "labels": [[..] per row: 1, 0, null where it is missing],
 "weights": [..] of the positives, "mix": {"partners": [..], "shares": [..]},
 "cases": [{"smoothing", "weighted", "mixed", "missing", "divisor", "loss",
            "gradient": [[..] per row]}]}
All values are float64. The loss is BCEWithLogitsLoss(pos_weight) of the entries that are known, by
its weight 0 or 1, summed and divided by their number; where all are known and nothing is mixed it
is compared with the mean of BCEWithLogitsLoss itself. Targets are (1 - smoothing) q + smoothing/2,
of a mix q = share own + (1 - share) other, known where both are that have a share. In cases without
"missing", null counts as 0.
"""

import argparse
import json
from pathlib import Path

import torch

import philox

SEED = 2
ROWS, LABELS = 6, 5
SHOWN = [
    [1, 0, None, 1, 0],
    [0, 0, 0, 0, 0],
    [None, 1, 1, None, 1],
    [1, 1, 1, 1, 1],
    [None, None, None, None, None],
    [0, 1, None, 0, 1],
]
WEIGHTS = [0.5, 2.0, 1.0, 7.25, 3.0]
PARTNERS = [5, 4, 3, 2, 1, 0]
SHARES = [0.25, 1.0, 0.5, 0.0, 0.75, 0.875]
EXTREME = {(0, 0): -40.0, (1, 1): 30.0, (3, 4): -90.0, (5, 1): 800.0}


def targets(missing: bool, mixed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Targets and which of them are known, (rows, labels)."""
    own = torch.tensor([[x or 0 for x in row] for row in SHOWN], dtype=torch.float64)
    known = torch.tensor([[x is not None or not missing for x in row] for row in SHOWN])
    if not mixed:
        return own, known
    shares = torch.tensor(SHARES, dtype=torch.float64)[:, None]
    partners = torch.tensor(PARTNERS)
    q = shares * own + (1 - shares) * own[partners]
    return q, (known | (shares == 0)) & (known[partners] | (shares == 1))


def case(
    values: torch.Tensor, smoothing: float, weighted: bool, mixed: bool, missing: bool
) -> dict:
    logits = values.clone().requires_grad_()
    weight = torch.tensor(WEIGHTS, dtype=torch.float64) if weighted else None
    q, known = targets(missing, mixed)
    q = (1 - smoothing) * q + smoothing / 2
    loss_of = torch.nn.BCEWithLogitsLoss(
        weight=known.to(torch.float64), pos_weight=weight, reduction="sum"
    )
    loss = loss_of(logits, q) / known.sum()
    if known.all():
        torch.testing.assert_close(
            loss, torch.nn.BCEWithLogitsLoss(pos_weight=weight)(logits, q), rtol=1e-14, atol=0
        )
    loss.backward()
    return {
        "smoothing": smoothing,
        "weighted": weighted,
        "mixed": mixed,
        "missing": missing,
        "divisor": known.sum().item(),
        "loss": loss.item(),
        "gradient": logits.grad.tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Values of torch.nn.BCEWithLogitsLoss.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    signed = 16 * philox.uniform(SEED, "logits", ROWS * LABELS) - 8
    values = torch.tensor(signed, dtype=torch.float64).reshape(ROWS, LABELS)
    for (row, label), z in EXTREME.items():
        values[row, label] = z
    cases = [
        case(values, smoothing, weighted, mixed, missing)
        for smoothing in (0.0, 0.1)
        for weighted in (False, True)
        for mixed in (False, True)
        for missing in (False, True)
    ]
    record = {
        "torch": torch.__version__,
        "logits": values.tolist(),
        "labels": SHOWN,
        "weights": WEIGHTS,
        "mix": {"partners": PARTNERS, "shares": SHARES},
        "cases": cases,
    }
    out.write_text(json.dumps(record, separators=(",", ":")) + "\n")
    print(f"{out}: {len(cases)} cases, {out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
