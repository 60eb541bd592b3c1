#!/usr/bin/env python3
"""Writes tests/golden/metrics.json: what scikit-learn says of recorded logits.

The file has every measure of engine/measures/. scikit-learn is
called with zero_division=0; macro averages are its default, over the classes that occur as label or
prediction. Where it has no function (specificity, calibration error, operating points, Wilson's
intervals, temperature, bootstrap) the definition is written below, on top of what it does have.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

import philox

BINS = 15
SHARES = (0.90, 0.95)  # specificities at which sensitivity is told, and the reverse


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
    threshold = [None, *threshold[1:].tolist()]  # nothing is positive: infinity, 1 + max before 1.3
    return [[float(f), float(t), s] for f, t, s in zip(false_positive, true_positive, threshold)]


def average_precision(labels: np.ndarray, scores: np.ndarray):
    return float(sk.average_precision_score(labels, scores)) if labels.any() else None


def mean_of(values):
    values = [v for v in values if v is not None]
    return float(np.mean(values)) if values else None


def precision_recall(labels: np.ndarray, scores: np.ndarray):
    """From no sample called positive to all of them."""
    if not labels.any():
        return []
    precision, recall, threshold = sk.precision_recall_curve(labels, scores)
    return [[float(t), float(p), float(r)]
            for t, p, r in list(zip(threshold, precision, recall))[::-1]]


def kappa(labels, predictions, classes, weights):
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        value = sk.cohen_kappa_score(labels, predictions, labels=classes, weights=weights)
    return None if np.isnan(value) else float(value)


def brier(labels: np.ndarray, p: np.ndarray) -> float:
    """Brier 1950: over all classes. brier_score_loss knows one class against the rest."""
    return float(sum(sk.brier_score_loss(labels == c, p[:, c], pos_label=True)
                     for c in range(p.shape[1])))


def brier_plain(labels: np.ndarray, p: np.ndarray) -> float:
    return float(((p - np.eye(p.shape[1])[labels]) ** 2).sum(axis=1).mean())


def operating_points(labels: np.ndarray, scores: np.ndarray):
    """Sensitivity and specificity at every threshold, infinity first."""
    points = []
    for t in [np.inf] + sorted(set(scores), reverse=True):
        called = scores >= t
        points.append((float(t), (called & labels).sum() / labels.sum(),
                       (~called & ~labels).sum() / (~labels).sum()))
    return points


def point(found):
    if found is None:
        return None
    threshold, sensitivity, specificity = found
    return [None if np.isinf(threshold) else threshold, float(sensitivity), float(specificity)]


def sensitivity_at(points, share):
    return max((p for p in points if p[2] >= share), key=lambda p: (p[1], p[2], p[0]))


def specificity_at(points, share):
    return max((p for p in points if p[1] >= share), key=lambda p: (p[2], p[1], p[0]))


def youden(labels: np.ndarray, scores: np.ndarray):
    """The textbook use of roc_curve: the first largest difference; rates are compared exactly."""
    false_positive, true_positive, threshold = sk.roc_curve(labels, scores,
                                                            drop_intermediate=False)
    p, n = labels.sum(), (~labels).sum()
    j = np.rint(true_positive * p) * n - np.rint(false_positive * n) * p
    best = 1 + int(np.argmax(j[1:]))  # a finite threshold
    return float(threshold[best]), true_positive[best], 1 - false_positive[best]


def operating(labels: np.ndarray, scores: np.ndarray):
    if not 0 < labels.sum() < len(labels):
        return {"sensitivity_at": [None] * len(SHARES), "specificity_at": [None] * len(SHARES),
                "youden": None}
    points = operating_points(labels, scores)
    return {"sensitivity_at": [point(sensitivity_at(points, s)) for s in SHARES],
            "specificity_at": [point(specificity_at(points, s)) for s in SHARES],
            "youden": point(youden(labels, scores))}


def wilson(found: int, count: int):
    """Wilson 1927: the shares q with |found/count − q| = z·sqrt(q(1 − q)/count), as the roots of
    the quadratic equation that this is."""
    if count == 0:
        return None
    z2, p = norm.ppf(0.975) ** 2 / count, found / count
    low, high = sorted(np.roots([1 + z2, -(2 * p + z2), p * p]).real)
    return [float(max(0, low)), float(min(1, high))]


def temperature(logits: np.ndarray, labels: np.ndarray):
    """The least mean cross entropy by Brent's method, then by bisection of its slope: a minimum
    that is looked for by values alone is known to half of the digits."""
    z = logits.astype(np.float64)

    def slope(log_t):
        p = softmax(z / np.exp(log_t))
        return float((z[np.arange(len(labels)), labels] - (p * z).sum(axis=1)).mean())

    def loss(log_t):
        scaled = z / np.exp(log_t)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]).mean())

    low, high = np.log(1e-3), np.log(1e3)
    if not slope(low) < 0 < slope(high):
        return None
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    found = minimize_scalar(loss, bounds=(np.log(1e-3), np.log(1e3)), method="bounded")
    assert abs(found.x - low) < 1e-3, (found.x, low)
    return float(np.exp(low))


def class_shares(labels, predictions, c):
    """Found and count of recall, precision and specificity."""
    is_class, called = labels == c, predictions == c
    return {"recall": ((is_class & called).sum(), is_class.sum()),
            "precision": ((is_class & called).sum(), called.sum()),
            "specificity": ((~is_class & ~called).sum(), (~is_class).sum())}


def totals(labels, predictions, p, confidence, in_top5):
    classes = list(range(p.shape[1]))
    everything = np.zeros(p.shape, int)
    everything[np.arange(len(labels)), labels] = 1
    present = sorted(set(labels))
    recall = sk.recall_score(labels, predictions, labels=present, average=None, zero_division=0)
    return {
        "loss": float(sk.log_loss(labels, p, labels=classes)),
        "top1": float(sk.accuracy_score(labels, predictions)),
        "top5": float(np.mean(in_top5)),
        "balanced_accuracy": float(np.mean(recall)),
        "f1_macro": float(sk.f1_score(labels, predictions, average="macro", zero_division=0)),
        "f1_weighted": float(sk.f1_score(labels, predictions, average="weighted",
                                         zero_division=0)),
        "auc_macro": macro_auc(labels, p),
        "auc_micro": binary_auc(everything.reshape(-1), p.reshape(-1)),
        "average_precision_macro": mean_of([average_precision(labels == c, p[:, c])
                                            for c in classes]),
        "cohen_kappa": kappa(labels, predictions, classes, None),
        "kappa_linear": kappa(labels, predictions, classes, "linear"),
        "kappa_quadratic": kappa(labels, predictions, classes, "quadratic"),
        "brier": brier(labels, p),
        "calibration_error": calibration_error(labels == predictions, confidence),
    }


def intervals(labels, predictions, p, confidence, in_top5, seed: int, resamples: int, groups=None):
    """Percentiles of the measures of resamples of samples, or of groups with all of theirs."""
    units = len(labels) if groups is None else max(groups) + 1
    members = [np.array([i]) if groups is None else np.flatnonzero(groups == i)
               for i in range(units)]
    rows = []
    for r in range(resamples):
        words = philox.bits(seed, philox.purpose("bootstrap"), units, position=r)
        drawn = (words.astype(np.uint64) * np.uint64(units) >> np.uint64(32)).astype(np.int64)
        at = np.concatenate([members[i] for i in drawn])
        y, z, q = labels[at], predictions[at], p[at]
        row = totals(y, z, q, confidence[at], in_top5[at])
        for c in range(p.shape[1]):
            for name, (found, count) in class_shares(y, z, c).items():
                row[f"{c} {name}"] = found / count if count else None
            row[f"{c} auc"] = binary_auc(y == c, q[:, c])
            row[f"{c} average_precision"] = average_precision(y == c, q[:, c])
        rows.append(row)
    result = {}
    for name in rows[0]:
        values = [row[name] for row in rows if row[name] is not None]
        result[name] = [float(np.percentile(values, q)) for q in (2.5, 97.5)] if values else None
    for c in range(p.shape[1]):
        for name, (found, count) in class_shares(labels, predictions, c).items():
            if groups is None:
                result[f"{c} {name}"] = wilson(found, count)
            elif found in (0, count):  # no resample differs
                of = {"recall": labels == c, "precision": predictions == c,
                      "specificity": labels != c}[name]
                number = len(set(groups[of]))
                result[f"{c} {name}"] = wilson(number if found else 0, number)
    return {"seed": seed, "resamples": resamples, "units": int(units), "of": result}


def case(name: str, logits: np.ndarray, labels: np.ndarray, groups: np.ndarray):
    logits = logits.astype(np.float32)
    classes = list(range(logits.shape[1]))
    p = softmax(logits.astype(np.float64))
    predictions = logits.argmax(axis=1)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        labels, predictions, labels=classes, zero_division=0)
    specificity = [sk.recall_score(labels != c, predictions != c, zero_division=0) for c in classes]
    occurring = [c for c in classes if (labels == c).any() or (predictions == c).any()]
    averages = {
        average: [float(v) for v in sk.precision_recall_fscore_support(
            labels, predictions, average=average, zero_division=0)[:3]]
        for average in ("macro", "weighted")}
    averages["macro"].append(float(np.mean([specificity[c] for c in occurring])))
    averages["weighted"].append(float(np.average(specificity, weights=support)))
    confidence = p[np.arange(len(labels)), predictions]
    top5 = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    in_top5 = (top5 == labels[:, None]).any(axis=1)
    assert abs(brier(labels, p) - brier_plain(labels, p)) < 1e-12
    drawn = (labels, predictions, p, confidence, in_top5)
    t = temperature(logits, labels)
    calibrated = softmax(logits.astype(np.float64) / t) if t else None
    return {
        "name": name,
        "classes": len(classes),
        "logits": [float(z) for z in logits.reshape(-1)],
        "labels": labels.tolist(),
        "groups": groups.tolist(),
        "totals": totals(*drawn),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "f1": f1.tolist(),
        "specificity": [float(s) for s in specificity],
        "support": support.tolist(),
        "averages": averages,
        "auc": [binary_auc(labels == c, p[:, c]) for c in classes],
        "average_precision": [average_precision(labels == c, p[:, c]) for c in classes],
        "operating": [operating(labels == c, p[:, c]) for c in classes],
        "confusion": sk.confusion_matrix(labels, predictions, labels=classes).reshape(-1).tolist(),
        "temperature": t,
        "calibrated_loss": float(sk.log_loss(labels, calibrated, labels=classes)) if t else None,
        "reject": [[float(s), float((confidence >= s).mean()),
                    float((labels == predictions)[confidence >= s].mean())]
                   for s in sorted(set(confidence))],
        "precision_recall": [precision_recall(labels == c, p[:, c]) for c in classes],
        "roc": [roc(labels == c, p[:, c]) for c in classes],
        "intervals": intervals(*drawn, seed=5, resamples=40),
        "grouped_intervals": intervals(*drawn, seed=6, resamples=25, groups=groups),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    draw, draw_groups = np.random.default_rng(1), np.random.default_rng(2)

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

    def with_groups(name, logits, labels, size):
        """Groups of 1 to `size` samples, numbered as they come, that lie anywhere."""
        of = draw_groups.integers(0, max(1, 2 * len(labels) // (size + 1)), size=len(labels))
        numbers = {}
        return case(name, logits, labels,
                    np.array([numbers.setdefault(int(g), len(numbers)) for g in of]))

    cases = [
        with_groups("seven uneven classes", logits_for(uneven, 7, 1.2), uneven, 4),
        with_groups("classes without samples", z_absent, absent, 3),
        with_groups("two classes", logits_for(two, 2, 1), two, 6),
        with_groups("many equal logits", np.round(logits_for(ties, 4, 1)), ties, 5),
        with_groups("samples of one class only", logits_for(single, 3, 0.5), single, 2),
    ]
    options.out.write_text(json.dumps({"cases": cases}) + "\n")


if __name__ == "__main__":
    main()
