#!/usr/bin/env python3
"""Writes tests/golden/label_metrics.json: what scikit-learn says of logits of several labels.

The file has every measure of engine/measures/labels.h. Each label's figures are scikit-learn's of
its entries that are known; macro averages are means over the labels that have the figure, micro
ones are scikit-learn's of all known entries together. Where nothing is missing, accuracy_score and
hamming_loss are called on the matrices as they are, as is the macro average of roc_auc_score and
average_precision_score.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn import metrics as sk

MISSING = 2


def optional(value):
    return None if value is None or np.isnan(value) else float(value)


def mean(values):
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else None


def figures(y: np.ndarray, p: np.ndarray, positive: np.ndarray) -> dict:
    """Of the entries of one label, or of all; null where a figure is not defined."""
    yes, no = bool((y == 1).any()), bool((y == 0).any())
    return {
        "auc": float(sk.roc_auc_score(y, p)) if yes and no else None,
        "average_precision": float(sk.average_precision_score(y, p)) if yes else None,
        "sensitivity": float(sk.recall_score(y, positive)) if yes else None,
        "specificity": float(sk.recall_score(y == 0, ~positive)) if no else None,
        "precision": float(sk.precision_score(y, positive)) if positive.any() else None,
        "f1": float(sk.f1_score(y, positive)) if yes or positive.any() else None,
    }


def brier(y: np.ndarray, p: np.ndarray):
    return float(sk.brier_score_loss(y, p, pos_label=1)) if len(y) else None


def youden(y: np.ndarray, p: np.ndarray):
    if not 0 < y.sum() < len(y):
        return None
    false_positive, true_positive, threshold = sk.roc_curve(y, p, drop_intermediate=False)
    best = 1 + np.argmax((true_positive - false_positive)[1:])
    return [float(threshold[best]), float(true_positive[best]), float(1 - false_positive[best])]


def case(name: str, logits: np.ndarray, labels: np.ndarray, thresholds: list[float]) -> dict:
    logits = logits.astype(np.float32)
    z = logits.astype(np.float64)
    p = 1 / (1 + np.exp(-z))
    known = labels != MISSING
    positive = p >= np.array(thresholds)
    count = labels.shape[1]
    columns = [known[:, c] for c in range(count)]
    per_label = [figures(labels[k, c], p[k, c], positive[k, c]) for c, k in enumerate(columns)]
    losses = np.logaddexp(0, np.where(labels == 1, -z, z))
    some = known.any(axis=1)
    right = ((positive == (labels == 1)) | ~known).all(axis=1)
    totals = {
        "loss": optional(losses[known].mean() if known.any() else None),
        "brier": brier(labels[known], p[known]),
        "subset_accuracy": optional(right[some].mean() if some.any() else None),
        "hamming_loss": optional(
            (positive != (labels == 1))[known].mean() if known.any() else None),
    }
    if known.all():
        assert totals["subset_accuracy"] == sk.accuracy_score(labels, positive)
        assert np.isclose(totals["hamming_loss"], sk.hamming_loss(labels, positive), rtol=1e-14)
        assert np.isclose(totals["loss"],
                          np.mean([sk.log_loss(labels[:, c], p[:, c], labels=[0, 1])
                                   for c in range(count)]), rtol=1e-12)
    macro = {key: mean([label[key] for label in per_label]) for key in per_label[0]}
    if known.all() and all(label["auc"] is not None for label in per_label):
        assert np.isclose(macro["auc"], sk.roc_auc_score(labels, p, average="macro"))
        assert np.isclose(macro["average_precision"],
                          sk.average_precision_score(labels, p, average="macro"))
    return {
        "name": name,
        "labels": count,
        "logits": [float(v) for v in logits.reshape(-1)],
        "presence": labels.reshape(-1).tolist(),
        "thresholds": thresholds,
        "positives": (labels == 1).sum(axis=0).tolist(),
        "negatives": (labels == 0).sum(axis=0).tolist(),
        "missing": (~known).sum(axis=0).tolist(),
        "loss_of": [optional(losses[k, c].mean() if k.any() else None)
                    for c, k in enumerate(columns)],
        "brier_of": [brier(labels[k, c], p[k, c]) for c, k in enumerate(columns)],
        "totals": totals,
        "per_label": per_label,
        "macro": macro,
        "micro": figures(labels[known], p[known], positive[known]),
        "youden": [youden(labels[k, c], p[k, c]) for c, k in enumerate(columns)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw = np.random.default_rng(3)

    def drawn(samples: int, rates: list[float], skill: float):
        labels = (draw.random((samples, len(rates))) < np.array(rates)).astype(int)
        return draw.normal(size=labels.shape) - 1 + skill * labels, labels

    z, whole = drawn(120, [0.5, 0.2, 0.05, 0.3], 2)
    z_holes, holes = drawn(150, [0.4, 0.3, 0.1, 0.2, 0.5], 1.2)
    holes[draw.random(holes.shape) < 0.3] = MISSING
    holes[:5] = MISSING  # images of which nothing is known
    z_ties, ties = drawn(80, [0.4, 0.3], 1)
    z_odd, odd = drawn(40, [0.5, 0.5, 0.5, 0.5], 1)
    odd[:, 0], odd[:, 1], odd[:, 2] = 0, 1, MISSING  # none has it, all have it, nothing is known
    z_odd[:, 3] -= 20  # nothing is called present
    cases = [
        case("four labels", z, whole, [0.5, 0.4, 0.2, 0.3]),
        case("missing labels", z_holes, holes, [0.5] * 5),
        case("many equal logits", np.round(z_ties), ties, [0.5, 0.25]),
        case("labels of one kind", z_odd, odd, [0.5] * 4),
    ]
    options.out.write_text(json.dumps({"cases": cases}) + "\n")


if __name__ == "__main__":
    main()
