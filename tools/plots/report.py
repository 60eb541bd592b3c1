#!/usr/bin/env python3
"""Writes RUN/report.html: one page with all there is to see of a run, findings first."""

import argparse
import sys
from collections import Counter
from html import escape
from pathlib import Path
from typing import Dict, List, Optional

try:
    import classes
    import confusion
    import curves
    import findings
    import machine
    import page
    import precision_recall
    import reject
    import reliability
    import roc
    import top_losses
    import training_findings
    from run_files import Run, grid_of, write_output
    from wording import chosen, count, percent, share, with_interval
except ImportError as error:
    if error.name not in ("matplotlib", "PIL", "numpy"):
        raise
    debian, pip = {"matplotlib": ("matplotlib", "matplotlib"), "PIL": ("pil", "pillow"),
                   "numpy": ("numpy", "numpy")}[error.name]  # fmt: skip
    sys.exit(f"the report needs {error.name}: apt-get install python3-{debian}, or "
             f"{sys.executable} -m pip install {pip}")

IN_ORDER = ("test", "folds", "eval", "val")  # the first that is there is what the report is about
MOST_CURVES = 7  # classes whose ROC curves can be told apart
LOSSES, EXAMPLES, TILE = 24, 12, 160

TOTALS = [  # title, place in metrics.json, interval there, what it is
    ("top-1 accuracy", ("top1",), "top1", "share of images whose largest output is their class"),
    ("top-5 accuracy", ("top5",), "top5", "share whose class is among the five largest"),
    ("subset accuracy", ("subset_accuracy",), "subset_accuracy", "share with every label right"),
    ("Hamming loss", ("hamming_loss",), "hamming_loss", "share of labels that are wrong"),
    ("balanced accuracy", ("balanced_accuracy",), "balanced_accuracy",
     "mean recall of the classes"),
    ("macro F1", ("macro", "f1"), "f1_macro", "harmonic mean of precision and recall, mean of the "
     "classes"),
    ("weighted F1", ("weighted", "f1"), "f1_weighted", "the same, weighted by images"),
    ("macro AUC", ("auc_macro",), "auc_macro", "one class against the rest, mean of the classes"),
    ("micro AUC", ("auc_micro",), "auc_micro", "over all pairs of image and class"),
    ("macro average precision", ("average_precision_macro",), "average_precision_macro",
     "area under precision over recall, mean of the classes"),
    ("Cohen's kappa", ("cohen_kappa",), "cohen_kappa", "agreement beyond chance"),
    ("linear kappa", ("kappa_linear",), "kappa_linear", "of ordered classes: by distance"),
    ("quadratic kappa", ("kappa_quadratic",), "kappa_quadratic", "by the distance's square"),
    ("loss", ("loss",), "loss", "mean cross entropy, nats"),
    ("Brier score", ("brier",), "brier", "mean square of what probabilities are off"),
    ("calibration error", ("calibration_error",), "calibration_error",
     "expected, 15 bins of equal width"),
]  # fmt: skip
LABEL_AVERAGES = ("auc", "average_precision", "sensitivity", "specificity", "precision", "f1")


def at(values: Optional[Dict], place) -> Optional[float]:
    for key in place:
        values = values.get(key) if isinstance(values, dict) else None
    return values  # type: ignore[return-value]


def totals(folder: Path, parts: List[str]) -> str:
    """The measures of all parts side by side."""
    scores = {part: Run(folder, part).score() for part in parts}
    rows = []
    for title, place, bounds, meaning in TOTALS:
        values = {part: at(score, place) for part, score in scores.items()}
        if all(value is None for value in values.values()):
            continue
        rows.append([title, *(with_interval(values[part], at(scores[part], ("intervals", bounds)),
                                            scores[part]["samples"]) for part in parts), meaning])
    known = {place for _, place, *_ in TOTALS}  # these stand there already
    for average in ("macro", "micro"):
        for name in LABEL_AVERAGES:
            if known & {(average, name), (f"{name}_{average}",)}:
                continue
            if any(s.get("task") == "multilabel" and at(s, (average, name)) is not None
                   for s in scores.values()):
                rows.append([f"{average} {name.replace('_', ' ')}",
                             *(with_interval(at(s, (average, name)),
                                             at(s, ("intervals", average, name)), s["samples"])
                               for s in scores.values()), "of the labels"])  # fmt: skip
    heads = [f"{Run(folder, part).title()}, {scores[part]['samples']:,} images" for part in parts]
    level = next((s["intervals"] for s in scores.values() if s.get("intervals")), None)
    caption = "The last digit is the first that is finer than the standard error."
    if level:
        over = level.get("over", "images")
        caption += (f" In brackets: {100 * level['level']:.0f}% intervals, bootstrap of "
                    f"{level['resamples']:,} resamples over {over}.")
    return page.table(["measure", *heads, "meaning"], rows, caption,
                      text_from=1 + len(parts), kind="measures")


def without(score: Dict, described: Dict) -> int:
    """Samples that are known not to have the class or label."""
    return described.get("negatives", score["samples"] - described["support"])


def class_table(score: Dict) -> str:
    rows, several = [], score.get("task") == "multilabel"
    described = classes.rows_of(score)

    def known(name):
        return any(c.get(name) is not None for c in described)

    measures = [(title, name) for title, name in (
        ("recall (sensitivity)", "recall"), ("precision", "precision"),
        ("specificity", "specificity"), ("F1", "f1"), ("AUC", "auc"),
        ("average precision", "average_precision")) if known(name)]  # fmt: skip
    for c in described:
        n, bounds = c["support"], c.get("intervals") or {}
        base = {"precision": c.get("predicted", n), "specificity": without(score, c)}
        cells = [c["name"], f"{n:,}"]
        if not several:
            cells.append("–" if not n or c.get("recall") is None
                         else f"{round(c['recall'] * n):,} of {n:,}")  # fmt: skip
        for _, name in measures:
            nothing = not n or (name == "precision" and c.get("predicted") == 0)
            cells.append("–" if nothing else with_interval(
                c.get(name), bounds.get(name), base.get(name, n)))
        if several:
            cells += [f"{c['negatives']:,}", f"{c.get('missing', 0):,}"]
        rows.append(cells)
    head = ["label", "positives"] if several else ["class", "images", "found"]
    head += [title for title, _ in measures]
    if several:
        head += ["negatives", "not known"]
    return page.table(head, rows, "–: there are no images, so there is no figure.", kind="dense")


MOST_ON_PAPER = 12  # classes whose operating points are printed; those of more take a page


def operating_points(score: Dict) -> str:
    """How sensitive the scores of each class are where they are specific, and at its threshold."""
    described = classes.rows_of(score)
    thresholds = score.get("thresholds") or {}
    by_name = thresholds.get("classes", {})
    shown = bool(by_name or score.get("cross_fitted"))
    points = sorted({point["specificity"] for c in described
                     for point in c.get("sensitivity_at_specificity") or []})[:2]
    if not points and not shown:
        return ""
    rows = []
    for c in described:
        n = c["support"]
        at = {p["specificity"]: p["sensitivity"] for p in c.get("sensitivity_at_specificity") or []}
        cells = [c["name"], *(share(at.get(point), n) for point in points)]
        if shown:
            rule = by_name.get(c["name"], {})
            cells += [chosen(score, "thresholds", c["name"]),
                      share(rule.get("sensitivity", c.get("sensitivity")), n),
                      share(rule.get("specificity", c.get("specificity")), without(score, c))]
        rows.append(cells)
    head = ["label" if score.get("task") == "multilabel" else "class"]
    head += [f"sensitivity at specificity {point:g}" for point in points]
    caption = ""
    if shown:
        head += ["threshold", "sensitivity there", "specificity there"]
    if thresholds.get("rule"):
        where = ("for each fold on the images of the others" if score.get("cross_fitted") else
                 "on validation images")
        caption = f"Thresholds were chosen {where}: {thresholds['rule']}."
    table = page.table(head, rows, caption, kind="dense")
    return table if len(rows) <= MOST_ON_PAPER else f"<div class=screen>{table}</div>"


BY_CLASSES = (("top1", "top-1"), ("balanced_accuracy", "balanced accuracy"),
              ("auc_macro", "macro AUC"))
BY_LABELS = (("subset_accuracy", "all labels right"), ("auc_macro", "macro AUC"),
             ("auc_micro", "micro AUC"), ("average_precision_macro", "macro average precision"),
             ("brier", "Brier score"))  # fmt: skip
MOST_LABELS_BY = 60  # lines of a table of labels by the values of a column


def labels_by(column: str, values: List[Dict]) -> str:
    """Each label of each value, where that is not too much to read."""
    labels = values[0].get("labels") or []
    if not 0 < len(labels) * len(values) <= MOST_LABELS_BY:
        return ""
    rows = []
    for place, label in enumerate(labels):
        for value in values:
            of = value["labels"][place]
            bounds, yes, no = of.get("intervals") or {}, of["positives"], of["negatives"]
            rows.append([label["name"], str(value["value"]), f"{yes:,}", f"{no:,}",
                         with_interval(of.get("auc"), bounds.get("auc"), min(yes, no)),
                         *(with_interval(of.get(name), bounds.get(name), n) for name, n in (
                             ("average_precision", yes), ("sensitivity", yes),
                             ("specificity", no)))])  # fmt: skip
    return page.table(["label", column, "positives", "negatives", "AUC", "average precision",
                       "sensitivity", "specificity"], rows,
                      "–: no such images, or for the AUC only such, so there is no figure.")


def by_tables(score: Dict) -> str:
    html, several = "", score.get("task") == "multilabel"
    measures = BY_LABELS if several else BY_CLASSES
    for column, values in (score.get("by") or {}).items():
        rows = []
        for v in values:
            bounds, n = v.get("intervals") or {}, v["samples"]
            rows.append([str(v["value"]), f"{n:,}", f"{v['groups']:,}" if v.get("groups") else "–",
                         *(with_interval(v.get(name), bounds.get(name), n)
                           for name, _ in measures)])
        html += f"<h3>By {escape(column)}</h3>" + page.table(
            [column, "images", "groups", *(title for _, title in measures)], rows)
        if several:
            html += labels_by(column, values)
    return html


def class_section(run: Run) -> str:
    height = classes.height(run)
    bars = [page.plot(grid_of([panel], width=4.8, height=height), "bars of the classes")
            for panel in classes.panels(run)]
    what = "Labels" if run.score().get("task") == "multilabel" else "Classes"
    return (f"<h2>{what}, {run.title()}</h2>" + class_table(run.score()) + page.row(bars)
            + operating_points(run.score()))


def confusion_section(run: Run) -> str:
    pairs = confusion.largest(run)
    matrix = page.plot(confusion.draw(run), f"confusion matrix, {run.title()}", "matrix")
    if not matrix:
        return ""
    rows = [[c.label, f"{c.images:,} of {c.support:,}", percent(c.images / c.support),
             f"taken for {c.prediction}"] for c in pairs]
    table = page.table(["true class", "images", "share", "prediction"], rows,
                       "The most frequent confusions.", text_from=3)
    html = f"<h2>What is taken for what, {run.title()}</h2>"
    if len(classes.rows_of(run.score())) > confusion.ANNOTATED:
        return html + f"<div>{table if rows else ''}</div>{matrix}"
    big = matrix.replace('class="matrix"', 'class="matrix big"')
    return html + page.row([f"<div class=list>{table}</div>" if rows else "", big])


def trust_section(run: Run) -> str:
    plots = [page.plot(reliability.draw(run), f"reliability, {run.title()}"),
             page.plot(reliability.draw(run, calibrated=True), "reliability after scaling"),
             page.plot(reject.draw(run), "accuracy over coverage")]
    if not any(plots):
        return ""
    return (f"<h2>Can the probabilities be trusted? {run.title().capitalize()}</h2>"
            + page.row(plots, "three"))


def curve_section(run: Run) -> str:
    described = classes.rows_of(run.score())
    if len(described) > MOST_CURVES:
        return ""
    plots = page.row([page.plot(roc.draw(run), f"ROC curves, {run.title()}"),
                      page.plot(precision_recall.draw(run), "precision and recall")], "curves")
    return f"<h2>At every threshold, {run.title()}</h2>{plots}" if plots else ""


def tile(row: Dict[str, str], roots: List[Path], about: str) -> str:
    image = top_losses.open_image(row["path"], roots)
    label, said, right = top_losses.captions(row)
    name = Path(row["path"]).name
    shown = escape(name) + " is not there" if image is None else page.picture(
        top_losses.fitted(image, TILE), f"{name}: {label}")
    return (f"<figure><div class=frame title=\"{escape(row['path'])}\">{shown}</div>"
            f"<figcaption>{escape(label)}<br><span class={'right' if right else 'wrong'}>"
            f"{'✓' if right else '✗'} {escape(said)}</span><br><span class=quiet>{about}</span>"
            "</figcaption></figure>")


def examples(run: Run) -> List[Dict[str, str]]:
    """Of each class the image that is recognised with the middle one of its probabilities."""
    right: Dict[str, List] = {}
    for row in run.predictions():
        if "label" in row and row["label"] == row["prediction"]:
            right.setdefault(row["label"], []).append((float(row["p_label"]), row))
    middle = [sorted(rows, key=lambda pair: pair[0])[len(rows) // 2][1] for rows in right.values()]
    return middle[:EXAMPLES]


def image_section(run: Run, root: Optional[Path]) -> str:
    worst = top_losses.largest(run, LOSSES)
    if not worst:
        return ""
    roots = run.roots(root)
    html = (f"<h2>Images, {run.title()}</h2>"
            "<h3>Largest losses: look here for wrong labels first</h3>")
    tiles = [tile(row, roots, f"loss {top_losses.loss_of(row):.2f}") for row in worst]
    html += f'<div class="gallery">{"".join(tiles)}</div>'
    typical = examples(run)
    if typical:
        tiles = [tile(row, roots, "") for row in typical]
        html += ("<h3>Recognised, one of a class</h3>"
                 f'<div class="gallery">{"".join(tiles)}</div>')
    return html


def training_section(run: Run) -> str:
    if not run.results():
        return ""
    learning = [page.plot(grid_of([panel], width=4.6, height=3.3), "curve of the training")
                for panel in curves.panels(run)]
    used = [page.plot(grid_of([panel], width=4.6, height=3.0), "use of the machine")
            for panel in machine.panels(run)]
    return ("<h2>Training</h2>" + page.row(learning, "three") + '<div class="screen">'
            f"<h3>Time, energy and machine</h3>{page.row(used, 'three')}</div>")


def data_section(run: Run) -> str:
    parts = training_findings.parts(run)
    if not parts:
        return ""
    names = list(parts[0]["classes"])
    rows = [[name, *(f"{part['classes'].get(name, 0):,}" for part in parts)] for name in names]
    rows.append(["all", *(f"{part['images']:,}" for part in parts)])
    if any(part.get("groups") for part in parts):
        rows.append(["groups", *(f"{part.get('groups', 0):,}" for part in parts)])
    return '<div class="screen"><h2>Data</h2>' + page.table(
        ["images", *(part["name"] for part in parts)], rows) + "</div>"


def flat(value, name: str = "") -> List[List[str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items()
                for row in flat(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [row for i, inner in enumerate(value) for row in flat(inner, f"{name}[{i}]")]
    return [[name, f"{value:.4g}" if isinstance(value, float) else str(value)]]


def details(run: Run) -> str:
    html = ""
    for heading, values in (("Environment", run.json("env.json")),
                            ("Arguments", run.json("args.json"))):
        if values:
            table = page.table(["name", "value"], flat(values), text_from=1)
            html += f"<details><summary>{heading}</summary>{table}</details>"
    return html


def header(run: Run, title: str) -> str:
    arguments, environment = run.json("args.json"), run.json("env.json")
    facts = [f"{count(run.score()['samples'], run.title() + ' image')}"] if run.score() else []
    described = classes.rows_of(run.score())
    if described:
        several = run.score().get("task") == "multilabel"
        facts.append(count(len(described), "label" if several else "class",
                           "labels" if several else "classes"))  # fmt: skip
    if arguments.get("data"):
        facts.append(f"data {arguments['data']}")
    devices = Counter(device["name"] for device in environment.get("devices") or [])
    if devices:
        facts.append(", ".join(name if n == 1 else f"{n} x {name}" for name, n in devices.items()))
    if environment.get("started"):
        facts.append(environment["started"][:10])
    if environment.get("git"):
        facts.append(f"engine {environment.get('engine', '')} ({environment['git']})")
    spans = "".join(f"<span>{escape(fact)}</span>" for fact in facts)
    return f"<h1>{escape(title)}</h1><div class=facts>{spans}</div>"


LEVELS = {"bad": "▲ problem", "watch": "◆ watch", "fact": "● fact", "good": "✓ good"}


def finding_list(run: Run) -> str:
    lines = "".join(f"<li class={f.level}><b>{LEVELS[f.level]}</b>"
                    f"<span>{escape(f.text)}</span></li>" for f in findings.findings(run))
    return f"<h2>Findings</h2><ul class=findings>{lines}</ul>" if lines else ""


def part_sections(run: Run, root: Optional[Path]) -> str:
    return (class_section(run) + by_tables(run.score()) + confusion_section(run)
            + trust_section(run) + curve_section(run) + image_section(run, root))


def report(folder: Path, root: Optional[Path] = None) -> str:
    parts = [part for part in IN_ORDER if part in Run(folder).metrics]
    run = Run(folder, parts[0] if parts else None)
    if not parts and not run.results():
        raise SystemExit(f"{folder}: neither metrics.json nor results.csv is there: not the folder "
                         "of a run or of an evaluation")
    model = run.json("args.json").get("model")
    name = folder.resolve().name
    title = f"{model}: {name}" if model else name
    html = header(run, title) + finding_list(run)
    if parts:
        html += "<h2>Measures</h2>" + totals(folder, parts) + part_sections(run, root)
    html += training_section(run)
    for part in parts[1:]:
        other = Run(folder, part)
        html += (f"<details><summary>{other.title().capitalize()} images</summary>"
                 f"{part_sections(other, root)}</details>")
    html += data_section(run)
    command = folder / "command.txt"
    if command.exists():
        text = command.read_text(encoding="utf-8", errors="replace").strip()
        html += f'<div class="screen"><h2>Command</h2><pre>{escape(text)}</pre></div>'
    return page.page(title, html + details(run))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval or folds")
    parser.add_argument("--out", type=Path, help="default: RUN/report.html")
    parser.add_argument("--root", type=Path, help="where else images are looked for")
    options = parser.parse_args()
    out = options.out or options.run / "report.html"
    write_output(out, report(options.run, options.root).encode("utf-8", errors="replace"))
    print(out)


if __name__ == "__main__":
    main()
