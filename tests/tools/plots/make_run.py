"""Writes a run's folder with everything that the report can show, of a model that is imagined: it
knows frequent classes better than rare ones, is too sure, and never says two of the rare ones.

    make_run.py FOLDER [--classes N] [--labels] [--part test] [--samples N] [--images DIR]

--labels: several labels per image. --images: a folder of pictures; without it they are drawn.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SKIN = ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"]


def wilson(right, n):
    z = 1.959963984540054
    if n == 0:
        return None
    p, d = right / n, 1 + z * z / n
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [(middle - half) / d, (middle + half) / d]


def area(scores, positive):
    p, n = positive.sum(), (~positive).sum()
    if p == 0 or n == 0:
        return None
    ranks = np.empty(len(scores))
    ranks[np.argsort(scores, kind="stable")] = np.arange(1, len(scores) + 1)
    return float((ranks[positive].sum() - p * (p + 1) / 2) / (p * n))


def curves(scores, positive):
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(positive[order])
    all_of, none_of = max(1, positive.sum()), max(1, (~positive).sum())
    said = np.arange(1, len(scores) + 1)
    roc = np.c_[scores[order], (said - hits) / none_of, hits / all_of]
    pr = np.c_[scores[order], hits / said, hits / all_of]
    step = max(1, len(scores) // 150)
    return roc[::step], pr[::step], float((np.diff(hits, prepend=0) * pr[:, 1]).sum() / all_of)


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def calibration(p, labels):
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    bins, error = [], 0.0
    for i in range(15):
        inside = (confidence > i / 15) & (confidence <= (i + 1) / 15)
        n = int(inside.sum())
        mean, share = (float(confidence[inside].mean()), float(right[inside].mean())) if n else (
            None, None)  # a mean of nothing is nothing
        bins.append({"from": i / 15, "to": (i + 1) / 15, "samples": n, "confidence": mean,
                     "accuracy": share})
        error += n / len(labels) * abs(mean - share) if n else 0
    return bins, error


def score(names, labels, logits):
    p = softmax(logits)
    n, k, said = len(labels), len(names), p.argmax(axis=1)
    confusion = np.zeros((k, k), int)
    np.add.at(confusion, (labels, said), 1)
    classes, rows = [], {"roc": [], "pr": []}
    for c, name in enumerate(names):
        positive = labels == c
        support, predicted, hit = int(positive.sum()), int(confusion[:, c].sum()), confusion[c, c]
        roc, pr, ap = curves(p[:, c], positive)
        recall = float(hit / support) if support else None
        precision = float(hit / predicted) if predicted else 0.0
        rest = n - support - predicted + hit
        auc = area(p[:, c], positive)
        half = 1.96 * np.sqrt(auc * (1 - auc) / max(1, support)) if auc is not None else 0
        classes.append({
            "name": name, "support": support, "predicted": predicted, "precision": precision,
            "recall": recall, "specificity": float(rest / (n - support)),
            "f1": 2 * precision * (recall or 0) / max(1e-9, precision + (recall or 0)),
            "auc": auc, "average_precision": ap if support else None,
            "intervals": {"recall": wilson(hit, support), "precision": wilson(hit, predicted),
                          "specificity": wilson(rest, n - support),
                          "auc": auc and [max(0, auc - half), min(1, auc + half)]},
            "sensitivity_at_specificity": [{"specificity": 0.9, "sensitivity": float(
                np.interp(0.1, roc[:, 1], roc[:, 2])), "threshold": 0.2}] if support else []})
        if support:
            rows["roc"] += [[name, *row] for row in roc]
            rows["pr"] += [[name, *row] for row in pr]
    there = [c for c in classes if c["support"]]

    def mean(key):
        return float(np.mean([c[key] for c in there]))

    right = said == labels
    draws = np.random.default_rng(0).integers(0, n, (300, n))
    bins, error = calibration(p, labels)
    cooled = softmax(logits / 2.2)
    after, error_after = calibration(cooled, labels)
    order = np.argsort(-p.max(axis=1))
    answered = np.cumsum(right[order]) / np.arange(1, n + 1)
    at = np.unique(np.linspace(0, n - 1, 60).astype(int))
    low, high = np.percentile(right[draws].mean(axis=1), [2.5, 97.5])
    one_hot = np.eye(k)[labels]
    return {
        "samples": n, "loss": float(-np.log(p[np.arange(n), labels]).mean()),
        "top1": float(right.mean()),
        "top5": float(np.mean([l in row for l, row in zip(labels, np.argsort(-p)[:, :5])])),
        "auc_macro": mean("auc"), "auc_micro": 0.95, "balanced_accuracy": mean("recall"),
        "average_precision_macro": mean("average_precision"), "cohen_kappa": 0.61,
        "kappa_linear": 0.64, "kappa_quadratic": 0.70,
        "brier": float(((p - one_hot) ** 2).sum(axis=1).mean()),
        "macro": {key: mean(key) for key in ("precision", "recall", "f1", "specificity")},
        "weighted": {key: mean(key) for key in ("precision", "recall", "f1", "specificity")},
        "calibration_error": error, "calibration": bins,
        "temperature": 2.2, "calibrated": {"temperature": 2.2, "loss": 0.8, "brier": 0.4,
                                           "calibration_error": error_after, "calibration": after},
        "reject": [{"threshold": float(p.max(axis=1)[order[i]]), "coverage": (i + 1) / n,
                    "accuracy": float(answered[i])} for i in at],
        "thresholds": {"rule": "the largest sensitivity + specificity - 1 on validation images",
                       "classes": {c["name"]: {"threshold": 0.3, "sensitivity": 0.8,
                                               "specificity": 0.9} for c in there}},
        "by": {"sex": [{"value": "female", "samples": n // 2, "groups": n // 3, "top1": 0.70,
                        "balanced_accuracy": 0.5, "auc_macro": 0.9,
                        "intervals": {"top1": [0.66, 0.73]}},
                       {"value": "male", "samples": n - n // 2, "groups": n // 3, "top1": 0.79,
                        "balanced_accuracy": 0.55, "auc_macro": 0.92,
                        "intervals": {"top1": [0.75, 0.82]}}]},
        "intervals": {"level": 0.95, "resamples": 300, "seed": 0, "over": "groups",
                      "groups": n // 2, "top1": [float(low), float(high)],
                      "balanced_accuracy": [mean("recall") - 0.04, mean("recall") + 0.04],
                      "f1_macro": [mean("f1") - 0.04, mean("f1") + 0.04],
                      "auc_macro": [mean("auc") - 0.02, mean("auc") + 0.02],
                      "average_precision_macro": None},
        "classes": classes}, p, said, confusion, rows


def label_score(names, known, p):
    """Of several labels: empty cells of `known` are -1."""
    labels, rows = [], {"roc": [], "pr": []}
    for c, name in enumerate(names):
        has = known[:, c] >= 0
        positive = known[has, c] == 1
        roc, pr, ap = curves(p[has, c], positive)
        said = p[has, c] >= 0.5
        hit = int((said & positive).sum())
        labels.append({
            "name": name, "positives": int(positive.sum()), "negatives": int((~positive).sum()),
            "missing": int((~has).sum()), "auc": area(p[has, c], positive),
            "average_precision": ap, "threshold": 0.5, "sensitivity": hit / max(1, positive.sum()),
            "precision": hit / max(1, said.sum()), "f1": 0.7,
            "intervals": {"recall": wilson(hit, positive.sum()), "auc": None}})
        rows["roc"] += [[name, *row] for row in roc]
        rows["pr"] += [[name, *row] for row in pr]
    means = {key: float(np.mean([label[key] for label in labels]))
             for key in ("auc", "average_precision", "precision", "sensitivity", "f1")}
    # Of children no image has the first label, and the fewest are known.
    none = {**labels[0], "positives": 0, "auc": None, "average_precision": None,
            "sensitivity": None, "intervals": {}}
    by = {"age": [{"value": "adult", "samples": len(known) - 3, "groups": None,
                   "subset_accuracy": 0.6, "auc_macro": 0.95, "auc_micro": 0.94,
                   "average_precision_macro": 0.9, "brier": 0.08,
                   "intervals": {"auc_macro": [0.94, 0.96]}, "labels": labels},
                  {"value": "child", "samples": 3, "groups": None, "subset_accuracy": None,
                   "auc_macro": 0.7, "auc_micro": 0.7, "average_precision_macro": 0.5,
                   "brier": 0.2, "intervals": {"auc_macro": [0.6, 0.8]},
                   "labels": [none, *labels[1:]]}]}
    has = known.ravel() >= 0
    said, truth = p.ravel()[has], known.ravel()[has] == 1
    bins, error = label_calibration(said, truth)
    after, error_after = label_calibration(1 / (1 + (1 / said - 1) ** 0.7), truth)
    order = np.argsort(-np.maximum(said, 1 - said))
    right = np.cumsum(((said >= 0.5) == truth)[order]) / np.arange(1, len(said) + 1)
    reject = [{"threshold": float(max(said[order[i]], 1 - said[order[i]])),
               "coverage": (i + 1) / len(said), "accuracy": float(right[i])}
              for i in range(0, len(said), max(1, len(said) // 60))]
    return {"task": "multilabel", "samples": len(known), "loss": 0.31, "labels": labels,
            "auc_macro": means["auc"], "macro": means, "micro": means, "by": by,
            "calibration_error": error, "calibration": bins, "temperature": 1.4,
            "calibrated": {"temperature": 1.4, "loss": 0.3, "brier": 0.1,
                           "calibration_error": error_after, "calibration": after},
            "reject": reject, "thresholds": {"rule": "youden", "chosen_here": False, "classes": {
                name: {"threshold": 0.5, "sensitivity": 0.8, "specificity": 0.9}
                for name in names}},
            "reject_threshold": {"validation_accuracy": 0.95, "threshold": 0.87,
                                 "coverage": 0.8, "accuracy": 0.94}}, rows


def label_calibration(p, truth):
    bins, error = [], 0.0
    for i in range(15):
        inside = (p > i / 15) & (p <= (i + 1) / 15)
        n = int(inside.sum())
        mean, share = (float(p[inside].mean()), float(truth[inside].mean())) if n else (None, None)
        bins.append({"from": i / 15, "to": (i + 1) / 15, "samples": n, "probability": mean,
                     "present": share})
        error += n / len(p) * abs(mean - share) if n else 0
    return bins, error


def cross_fitted(scored, names):
    """Each of three folds by what the others decide, in place of one number for all."""
    scored["cross_fitted"] = [{"fold": fold, "temperature": 1.3 + 0.1 * fold,
                               "reject_threshold": 0.8 + 0.03 * fold,
                               "thresholds": {name: 0.3 + 0.05 * fold for name in names}}
                              for fold in (1, 2, 3)]
    scored.pop("temperature")
    scored["calibrated"]["temperature"] = None
    scored["reject_threshold"] = {"validation_accuracy": 0.95, "threshold": None,
                                  "coverage": 0.8, "accuracy": 0.94}
    if scored.get("task") == "multilabel":
        scored["thresholds"]["classes"] = {}
    for of_class in scored["thresholds"]["classes"].values():
        of_class["threshold"] = None


def pictures(folder, count, given):
    found = sorted(Path(given).rglob("*.jpg")) if given else []
    if found:
        return [str(found[(7919 * i) % len(found)]) for i in range(count)]
    place = folder / "images"
    place.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    for i in range(24):
        image = Image.new("RGB", (64, 56), tuple(int(v) for v in rng.integers(180, 230, 3)))
        box = [int(v) for v in (*rng.integers(5, 20, 2), *rng.integers(30, 60, 2))]
        ImageDraw.Draw(image).ellipse(box, fill=tuple(int(v) for v in rng.integers(60, 150, 3)))
        image.save(place / f"{i:02}.jpg")
    return [f"images/{i % 24:02}.jpg" for i in range(count)]  # relative to where it was started


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def training(folder, steps=40, epochs=14):
    head = ("epoch,time,train/loss,metrics/accuracy_top1,metrics/accuracy_top5,val/loss,lr/pg0,"
            "metrics/auc_macro,step,images_per_second,wait_share,cpu/cores,cpu/host,cpu/memory_gib,"
            "gpu/utilisation,gpu/memory_gib,gpu/watts,gpu/celsius,gpu/energy_joules,epoch_seconds")
    rows, rate = [], 1e-3
    for e in range(1, epochs + 1):
        rate = 1e-3 if e < 7 else 1e-4 if e < 12 else 1e-5
        rows.append([e, 31 * e, 1.9 * 0.8**e, 0.75 - 0.3 * 0.75**e, 0.99,
                     0.75 + 0.7 * 0.6**e + 0.03 * max(0, e - 6), rate, 0.93 - 0.1 * 0.7**e,
                     steps * e, 900 + 9 * (e % 3), 0.02, 3.5, 0.4, 2.1, 0.9, 21, 420, 61,
                     420 * 28.5, 28.5])
    write_csv(folder / "results.csv", head.split(","), rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, default=7)
    parser.add_argument("--names", help="names of the classes, separated by |")
    parser.add_argument("--samples", type=int, default=900)
    parser.add_argument("--part", default="test")
    parser.add_argument("--labels", action="store_true")
    parser.add_argument("--images")
    o = parser.parse_args()
    o.folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(o.classes)
    names = o.names.split("|") if o.names else SKIN if o.classes == 7 else [
        f"condition {i + 1}, <type {'AB'[i % 2]}>" for i in range(o.classes)]
    k, n = len(names), o.samples
    prefix = "test_" if o.part == "test" else ""
    paths = pictures(o.folder, n, o.images)
    groups = [f"P{i // 2:04}" for i in range(n)]
    if o.labels:
        truth = (rng.random((n, k)) < rng.uniform(0.05, 0.4, k)).astype(int)
        p = 1 / (1 + np.exp(-(3 * truth - 1.5 + rng.normal(0, 1.2, (n, k)))))
        known = np.where(rng.random((n, k)) < 0.05, -1, truth)
        scored, rows = label_score(names, known, p)
        write_csv(o.folder / f"{prefix}predictions.csv",
                  ["path", "group", *(f"y:{c}" for c in names), *(f"p:{c}" for c in names)],
                  [[paths[i], groups[i], *("" if v < 0 else v for v in known[i]), *p[i]]
                   for i in range(n)])
    else:
        weight = np.exp(-((np.arange(k) * 13) % k) / (k / 4))
        if k > 10:
            weight[[3, k - 4]] = 0  # classes without an image
        labels = np.sort(rng.choice(k, n, p=weight / weight.sum()))
        logits = rng.normal(0, 1.6, (n, k)) + 2.5 * np.log(weight + 0.02)
        logits[np.arange(n), labels] += 4.2 * (0.4 + weight[labels] ** 0.3)
        rare = np.argsort(weight + (weight == 0))[:2]
        logits[:, rare] -= 9
        scored, p, said, confusion, rows = score(names, labels, logits)
        write_csv(o.folder / f"{prefix}predictions.csv",
                  ["path", "label", "prediction", "p_prediction", "p_label", "loss", "group",
                   *(f"p:{c}" for c in names)],
                  [[paths[i], names[labels[i]], names[said[i]], p[i].max(), p[i, labels[i]],
                    -np.log(p[i, labels[i]]), groups[i], *p[i]] for i in range(n)])
        write_csv(o.folder / f"{prefix}confusion_matrix.csv", ["label", *names],
                  [[name, *row] for name, row in zip(names, confusion)])
    write_csv(o.folder / f"{prefix}roc.csv",
              ["class", "threshold", "false_positive_rate", "true_positive_rate"], rows["roc"])
    write_csv(o.folder / f"{prefix}pr.csv", ["class", "threshold", "precision", "recall"],
              rows["pr"])
    if o.part == "folds":
        cross_fitted(scored, names)
    (o.folder / "metrics.json").write_text(json.dumps({o.part: scored}))
    if o.part in ("eval", "folds"):
        return
    training(o.folder)
    (o.folder / "args.json").write_text(json.dumps(
        {"model": "efficientnet_b3", "data": str(o.folder), "schedule": "plateau", "lr": 1e-3,
         "epochs": 14, "watch": "top1", "seed": 1, "group_pattern": None}))
    (o.folder / "env.json").write_text(json.dumps(
        {"engine": "0.1.0", "git": "0123456789ab", "host": "ward", "devices": [
            {"name": "NVIDIA H200", "bus_id": "0000:00:07.0", "memory_gib": 139.8}]}))
    (o.folder / "command.txt").write_text(f"cd '{o.folder}'\nengine train --data . --out here\n")
    (o.folder / "metrics.jsonl").write_text(json.dumps(
        {"event": "data", "parts": [{"name": name, "images": 3 * n, "groups": n,
                                     "classes": {c: 3 + 40 * i for i, c in enumerate(names)}}
                                    for name in ("train", "val")]},
        separators=(",", ":")) + "\n" + "".join(json.dumps(
            {"event": "step", "epoch": 1, "step": s, "lr": 1e-3 * s / 40},
            separators=(",", ":")) + "\n" for s in (1, 10, 20, 30)))
    write_csv(o.folder / "duplicates.csv", ["copy", "part", "label", "path"],
              [[1, "train", names[0], "a.jpg"], [1, o.part, names[0], "b.jpg"]])


if __name__ == "__main__":
    main()
