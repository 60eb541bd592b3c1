"""What a run's numbers say, as sentences: of its measures and images here, of its training in
training_findings.py. Only what the files hold is said; what they lack is left out."""

from typing import Dict, Iterator, List

import confusion
import training_findings
from run_files import Run
from training_findings import Finding, bad, fact, good, watch
from wording import chosen, count, interval, listed, percent, share, with_interval

FEW = 30  # images of a class below which its figures say little
WEAK = 0.5  # recall below which a class is named
SURE = 0.95  # confidence from which an error is a confident one


def overall(run: Run) -> Iterator[Finding]:
    score = run.score()
    samples, top1 = score["samples"], score["top1"]
    there = [c for c in score["classes"] if c["support"]]
    bounds = score.get("intervals", {}).get("top1")
    most = max(there, key=lambda c: c["support"])
    trivial = most["support"] / samples
    what = (f"Of {count(samples, run.title() + ' image')} in {len(there)} classes "
            f"{percent(top1)} are right (top-1 {with_interval(top1, bounds, samples)}); "
            f"always saying {most['name']} would be right for {percent(trivial)}.")
    yield (fact if top1 > trivial else bad)("accuracy", what)
    surely = bounds[0] if bounds else top1
    if top1 <= trivial or surely <= trivial:
        yield bad("accuracy", f"It is not shown to be better than always saying {most['name']}.")
    balanced = score["balanced_accuracy"]
    if top1 - balanced > 0.08:
        yield watch("balance", f"The mean recall of the classes is {share(balanced, samples)}, "
                    f"less than the accuracy of {share(top1, samples)}: frequent classes are "
                    "found more often than rare ones.")


def class_findings(run: Run) -> Iterator[Finding]:
    classes = run.score()["classes"]
    there = [c for c in classes if c["support"]]
    never = [c for c in there if c["predicted"] == 0]
    if never:
        are = "class is" if len(never) == 1 else "classes are"
        if len(never) > 1:
            what = f"{len(never)} of {len(classes)} {are} never predicted"
        else:
            what = f"1 of {len(classes)} classes is never predicted"
        yield bad("classes", f"{what}: {listed([c['name'] for c in never], 8)}.")
    taken = confusion.largest(run, 10**6)
    weak = [c for c in there if c["predicted"] and c["recall"] is not None and c["recall"] < WEAK]
    weak.sort(key=lambda c: (c["recall"], -c["support"]))
    for c in weak[:3]:
        bounds = (c.get("intervals") or {}).get("recall")
        other = next((t for t in taken if t.label == c["name"]), None)
        instead = f"; most often taken for {other.prediction} ({other.images})" if other else ""
        yield bad("classes", f"Class {c['name']}: {count(c['support'], 'image')}, recall "
                  f"{with_interval(c['recall'], bounds, c['support'])}{instead}.")
    if len(weak) > 3:
        yield bad("classes", f"{len(weak) - 3} more classes have a recall below {WEAK}: "
                  f"{listed([c['name'] for c in weak[3:]], 8)}.")
    none = [c["name"] for c in classes if not c["support"]]
    if none:
        has = "class has" if len(none) == 1 else "classes have"
        yield watch("support", f"{len(none)} {has} no {run.title()} image, so nothing is known of "
                    f"{'it' if len(none) == 1 else 'them'}: {listed(none, 8)}.")
    few = [c for c in there if c["support"] < FEW]
    if few:
        named = [f"{c['name']} ({c['support']})" for c in sorted(few, key=lambda c: c["support"])]
        has = "class has" if len(few) == 1 else "classes have"
        yield watch("support", f"{len(few)} {has} fewer than {FEW} images, too few for firm "
                    f"figures: {listed(named, 6)}.")


def confusions(run: Run) -> Iterator[Finding]:
    pairs = confusion.largest(run, 3)
    if not pairs or pairs[0].images < 3:
        return
    said = [f"{c.label} for {c.prediction} ({c.images:,} of {c.support:,}, "
            f"{percent(c.images / c.support)})" for c in pairs]
    yield fact("confusions", f"Most often taken for another: {'; '.join(said)}.")


def sureness(bins: List[Dict]) -> float:
    """Mean confidence less accuracy; of labels mean probability less the share that is present."""
    samples = sum(b["samples"] for b in bins)
    used = (b for b in bins if b["samples"])  # of the others there is no mean
    return sum(b["samples"] * (b["probability"] - b["present"] if "present" in b else
                               b["confidence"] - b["accuracy"]) for b in used) / max(1, samples)


def calibration(run: Run) -> Iterator[Finding]:
    score = run.score()
    error, bins, n = score.get("calibration_error"), score.get("calibration"), score["samples"]
    if error is None or not bins:
        return
    gap = sureness(bins)
    if error >= 0.03 and score.get("task") == "multilabel":
        how = ("too high" if gap > error / 2 else "too low" if gap < -error / 2 else
               "too high in some ranges and too low in others")
        yield (bad if error > 0.1 else watch)(
            "calibration", f"The calibration error is {share(error, n)}: the probabilities of the "
            f"labels are {how}.")
    elif error < 0.03:
        yield good("calibration", f"The calibration error is {share(error, n)}: the probabilities "
                   "can be read as such.")
    else:
        confident = sum(b["samples"] * b["confidence"] for b in bins if b["samples"]) / n
        if abs(gap) < error / 2:
            how = "too sure in some ranges and not sure enough in others"
        else:
            how = "too sure" if gap > 0 else "not sure enough"
        yield (bad if error > 0.1 else watch)(
            "calibration", f"The calibration error is {share(error, n)}: the model is {how}; its "
            f"mean confidence is {share(confident, n)}, its accuracy {share(score['top1'], n)}.")
    after = score.get("calibrated")
    if after and after.get("calibration_error") is not None:
        better = after["calibration_error"] < error
        yield (good if better else watch)(
            "calibration", f"Temperature scaling with T = {chosen(score, 'temperature')} makes it "
            f"{share(after['calibration_error'], n)}"
            + (": use the calibrated probabilities." if better else ", which is no better."))


def sure_errors(run: Run) -> Iterator[Finding]:
    wrong = sure = 0
    for row in run.predictions():
        if "prediction" in row and row["prediction"] != row["label"]:
            wrong += 1
            sure += float(row["p_prediction"]) >= SURE
    if sure and wrong:
        yield watch("errors", f"{sure:,} of {count(wrong, 'error')} are made with a confidence of "
                    f"{SURE} or more: look at these images for wrong labels.")


def reject(run: Run) -> Iterator[Finding]:
    score = run.score()
    several = score.get("task") == "multilabel"
    answers, of = ("decisions", "labels") if several else ("answers", "images")
    answered = score.get("reject_threshold")
    if answered and answered["accuracy"] is not None:
        where = "on the other folds" if score.get("cross_fitted") else "in validation"
        yield fact("referral", f"With a confidence of {chosen(score, 'reject_threshold')} or more, "
                   f"at which {percent(answered['validation_accuracy'])} of the {answers} were "
                   f"right {where}, {percent(answered['coverage'])} of these {of} are answered, "
                   f"and {percent(answered['accuracy'])} of the {answers} are right.")
        return
    if several:
        return
    points = run.score().get("reject") or []
    enough = [p for p in points if p["coverage"] >= 0.8 and p.get("accuracy") is not None]
    if not enough:
        return
    p, n = min(enough, key=lambda p: p["coverage"]), run.score()["samples"]
    before = run.score()["top1"]
    if p["coverage"] < 0.999 and p["accuracy"] > before:
        yield fact("referral", f"If the least sure {percent(1 - p['coverage'])} are left to a "
                   f"human (confidence below {share(p['threshold'], n)}), "
                   f"{percent(p['accuracy'])} of the rest are right instead of {percent(before)}.")


def by_column(run: Run) -> Iterator[Finding]:
    several = run.score().get("task") == "multilabel"
    figure, what = ("auc_macro", "Mean AUC") if several else ("top1", "Accuracy")
    for column, rows in (run.score().get("by") or {}).items():
        known = [r for r in rows if (r.get("intervals") or {}).get(figure)]
        if len(known) < 2:
            continue
        low, high = min(known, key=lambda r: r[figure]), max(known, key=lambda r: r[figure])
        if low["intervals"][figure][1] < high["intervals"][figure][0]:
            def said(r):
                return (f"{r['value']} "
                        f"{with_interval(r[figure], r['intervals'][figure], r['samples'])}")
            yield watch(column, f"{what} differs by {column} beyond its intervals: {said(low)}, "
                        f"{said(high)}.")


def parts_differ(run: Run) -> Iterator[Finding]:
    val, test = run.metrics.get("val"), run.metrics.get("test")
    if not val or not test or "top1" not in val or "top1" not in test:
        return
    bounds = test.get("intervals", {}).get("top1")
    if bounds and val["top1"] > bounds[1]:
        yield watch("parts", f"Top-1 is {share(test['top1'], test['samples'])} "
                    f"{interval(bounds, test['samples'])} on test images and "
                    f"{share(val['top1'], val['samples'])} on validation images, by which the "
                    "weights were chosen: expect the former.")


def label_findings(run: Run) -> Iterator[Finding]:
    """Of several labels per image."""
    score = run.score()
    labels, n = score["labels"], score["samples"]
    area = score.get("auc_macro", (score.get("macro") or {}).get("auc"))
    text = f"{count(n, run.title() + ' image')} with {len(labels)} labels each"
    bounds = (score.get("intervals") or {}).get("auc_macro")
    yield fact("labels", f"{text}." if area is None else
               f"{text}: mean AUC {with_interval(area, bounds, n)}.")
    known = [label for label in labels if label.get("auc") is not None]
    for label in sorted(known, key=lambda label: label["auc"])[:3]:
        bounds = (label.get("intervals") or {}).get("auc")
        if label["auc"] < 0.8:
            yield bad("labels", f"Label {label['name']}: {count(label['positives'], 'positive')}, "
                      f"AUC {with_interval(label['auc'], bounds, label['positives'])}.")
    none = [x["name"] for x in labels if not x["positives"]]
    if none:
        yield watch("support", f"No positive image, so nothing is known: {listed(none, 8)}.")
    few = [f"{x['name']} ({x['positives']})" for x in labels if 0 < x["positives"] < FEW]
    if few:
        yield watch("support", f"Fewer than {FEW} positive images, too few for firm figures: "
                    f"{listed(few, 6)}.")
    missing = [f"{x['name']} ({x['missing']})" for x in labels if x.get("missing")]
    if missing:
        yield fact("labels", f"Labels that are not known of some images are left out: "
                   f"{listed(missing, 6)}.")


def independence(run: Run) -> Iterator[Finding]:
    intervals = run.score().get("intervals") or {}
    if intervals.get("over") == "groups" and intervals.get("groups"):
        yield fact("groups", f"Intervals are drawn over {count(intervals['groups'], 'group')}, not "
                   "over images.")
    elif intervals:
        yield fact("groups", "No groups are known (--group-column, --group-pattern): if several "
                   "images show one patient, the intervals are too narrow.")


def findings(run: Run) -> List[Finding]:
    """What is bad first, then what to watch, facts, what is good; in that order of importance the
    first of all is how often the model is right."""
    score, found = run.score(), []  # type: Dict, List[Finding]
    if score.get("task") == "multilabel":
        for what in (label_findings, calibration, reject, by_column):
            found += what(run)
    elif score.get("classes") and score["samples"]:
        for what in (overall, class_findings, confusions, calibration, sure_errors, reject,
                     by_column, parts_differ):
            found += what(run)
    if score:
        found += independence(run)
    found += training_findings.findings(run)
    order = ("bad", "watch", "fact", "good")
    return found[:1] + sorted(found[1:], key=lambda finding: order.index(finding.level))
