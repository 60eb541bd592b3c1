#!/usr/bin/env python3
"""Writes tests/golden/metrics.json: what scikit-learn says of recorded logits.

The file has every measure of engine/measures/. scikit-learn is
called with zero_division=0; macro averages are its default, over the classes that occur as label or
prediction. Where it has no function (specificity, calibration error, bootstrap) the definition is
written below, on top of what it does have.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

import philox

BINS = 15


def softmax(logits: np.ndarray) -> np.ndarray:
    z = np.exp(logits - logits.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def binary_auc(labels: np.ndarray, scores: np.ndarray):
    return sk.roc_auc_score(labels, scores) if 0 < labels.sum() < len(labels) else None


def macro_auc(labels: np.ndarray, p: np.ndarray):
    areas = [binary_auc(labels == c, p[:, c]) for c in range(p.shape[1])]
    areas = [area for area in areas if area is not None]
    return float(np.mean(areas)) if areas else None


def calibration_error(correct: np.ndarray, confidence: np.ndarray) -> float:
    """Guo et al. 2017, with the bins of calibration_curve: equal widths, closed on the right."""
    accuracy, mean = calibration_curve(correct, confidence, n_bins=BINS)  # the bins in use
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    counts = np.bincount(bins, minlength=BINS)
    return float(np.sum(counts[counts > 0] * np.abs(accuracy - mean)) / len(correct))


def roc(labels: np.ndarray, scores: np.ndarray):
    if not 0 < labels.sum() < len(labels):
        return []
    false_positive, true_positive, threshold = sk.roc_curve(labels, scores)
    return [[float(f), float(t), None if np.isinf(s) else float(s)]
            for f, t, s in zip(false_positive, true_positive, threshold)]


def intervals(labels, predictions, p, seed: int, resamples: int):
    rows = {"top1": [], "f1_macro": [], "auc_macro": []}
    count = len(labels)
    for r in range(resamples):
        words = philox.bits(seed, philox.purpose("bootstrap"), count, position=r)
        drawn = (words.astype(np.uint64) * np.uint64(count) >> np.uint64(32)).astype(np.int64)
        y, z = labels[drawn], predictions[drawn]
        rows["top1"].append(sk.accuracy_score(y, z))
        rows["f1_macro"].append(sk.f1_score(y, z, average="macro", zero_division=0))
        rows["auc_macro"].append(macro_auc(y, p[drawn]))
    result = {}
    for name, values in rows.items():
        values = [v for v in values if v is not None]
        result[name] = [float(np.percentile(values, q)) for q in (2.5, 97.5)] if values else None
    return {"seed": seed, "resamples": resamples, "of": result}


def case(name: str, logits: np.ndarray, labels: np.ndarray):
    logits = logits.astype(np.float32)
    classes = list(range(logits.shape[1]))
    p = softmax(logits.astype(np.float64))
    predictions = logits.argmax(axis=1)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predictions, labels=classes, zero_division=0)
    specificity = [sk.recall_score(labels != c, predictions != c, zero_division=0) for c in classes]
    occurring = [c for c in classes if (labels == c).any() or (predictions == c).any()]
    present = [c for c in classes if (labels == c).any()]
    averages = {
        average: [float(v) for v in sk.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0)[:3]]
        for average in ("macro", "weighted")}
    averages["macro"].append(float(np.mean([specificity[c] for c in occurring])))
    averages["weighted"].append(float(np.average(specificity, weights=support)))
    everything = np.zeros(p.shape, int)
    everything[np.arange(len(labels)), labels] = 1
    confidence = p[np.arange(len(labels)), predictions]
    top5 = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return {
        "name": name,
        "classes": len(classes),
        "logits": [float(z) for z in logits.reshape(-1)],
        "labels": labels.tolist(),
        "loss": float(sk.log_loss(labels, p, labels=classes)),
        "top1": float(sk.accuracy_score(labels, predictions)),
        "top5": float(np.mean((top5 == labels[:, None]).any(axis=1))),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "specificity": [float(s) for s in specificity],
        "support": support.tolist(),
        "averages": averages,
        "balanced_accuracy": float(np.mean([recall[c] for c in present])),
        "auc": [binary_auc(labels == c, p[:, c]) for c in classes],
        "auc_macro": macro_auc(labels, p),
        "auc_micro": binary_auc(everything.reshape(-1), p.reshape(-1)),
        "confusion": sk.confusion_matrix(labels, predictions, labels=classes).reshape(-1).tolist(),
        "calibration_error": calibration_error(labels == predictions, confidence),
        "roc": [roc(labels == c, p[:, c]) for c in classes],
        "intervals": intervals(labels, predictions, p, seed=5, resamples=40),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw = np.random.default_rng(1)

    def logits_for(labels, classes, skill):
        z = draw.normal(size=(len(labels), classes))
        z[np.arange(len(labels)), labels] += skill
        return z

    uneven = draw.choice(7, size=240, p=[0.4, 0.2, 0.15, 0.1, 0.08, 0.05, 0.02])
    absent = draw.choice([0, 1, 3], size=90)  # no sample of 2; 4 is neither label nor prediction
    z_absent = logits_for(absent, 5, 1.5)
    z_absent[:, 4] -= 20
    two = draw.choice(2, size=150, p=[0.8, 0.2])
    ties = draw.choice(4, size=160)
    single = np.full(20, 1)
    cases = [
        case("seven uneven classes", logits_for(uneven, 7, 1.2), uneven),
        case("classes without samples", z_absent, absent),
        case("two classes", logits_for(two, 2, 1), two),
        case("many equal logits", np.round(logits_for(ties, 4, 1)), ties),
        case("samples of one class only", logits_for(single, 3, 0.5), single),
    ]
    options.out.write_text(json.dumps({"cases": cases}) + "\n")


if __name__ == "__main__":
    main()
