#!/usr/bin/env python3
"""Writes RUN/report.html, one file with all there is to see of a run, and each plot beside it as a
PNG."""

import argparse
import base64
import io
from html import escape
from pathlib import Path
from typing import Dict, List, Optional

import confusion
import curves
import machine
import reliability
import roc
import top_losses
from run_files import Run, plt, save, write_output

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 1180px;
       margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.5em; }
h2 { margin-top: 2em; border-bottom: 1px solid #ddd; padding-bottom: .2em; }
table { border-collapse: collapse; margin: .8em 0; } caption { text-align: left; color: #555; }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #eee; }
th { border-bottom: 1px solid #999; } th:first-child, td:first-child { text-align: left; }
th.text, td.text { text-align: left; } td.text { overflow-wrap: anywhere; min-width: 8em; }
.wide { overflow-x: auto; }
img { max-width: 100%; height: auto; } .side { display: flex; flex-wrap: wrap; gap: 1.5em; }
.side img { flex: 1 1 440px; min-width: 0; max-width: 560px; align-self: flex-start; }
pre { background: #f5f5f5; padding: .8em; white-space: pre-wrap; overflow-wrap: anywhere; }
"""

TOTALS = [  # title, place in metrics.json, interval there, what it is
    ("top-1 accuracy", ("top1",), "top1", "share of images whose largest output is their class"),
    ("top-5 accuracy", ("top5",), None, "share whose class is among the five largest"),
    ("loss", ("loss",), None, "mean cross entropy, nats"),
    ("balanced accuracy", ("balanced_accuracy",), None, "mean recall of the classes"),
    ("macro F1", ("macro", "f1"), "f1_macro", "mean over the classes"),
    ("weighted F1", ("weighted", "f1"), None, "mean weighted by images"),
    ("macro AUC", ("auc_macro",), "auc_macro", "one class against the rest, mean"),
    ("micro AUC", ("auc_micro",), None, "over all pairs of image and class"),
    ("calibration error", ("calibration_error",), None, "expected, 15 bins of equal width"),
]


def number(value: Optional[float]) -> str:
    return "–" if value is None else f"{value:.4f}"


def table(head: List[str], rows: List[List[str]], caption: str = "", text_from: int = 99) -> str:
    def cells(tag: str, values: List[str]) -> str:
        return "".join(f'<{tag}{" class=text" if i >= text_from else ""}>{escape(str(v))}</{tag}>'
                       for i, v in enumerate(values))
    return (f"<div class=wide><table><caption>{escape(caption)}</caption>"
            f"<tr>{cells('th', head)}</tr>"
            + "".join(f"<tr>{cells('td', row)}</tr>" for row in rows) + "</table></div>")


def inlined(figure, alt: str, png_path: Path) -> str:
    """The figure as SVG in the text, which is sharp at any size and needs no file."""
    if figure is None:
        return ""
    save(figure, png_path)
    svg = io.BytesIO()
    figure.savefig(svg, format="svg")
    plt.close(figure)
    data = base64.b64encode(svg.getvalue()).decode()
    return f'<img alt="{escape(alt)}" src="data:image/svg+xml;base64,{data}">'


def totals(score: Dict) -> str:
    intervals = score.get("intervals", {})
    rows = []
    for title, place, interval, meaning in TOTALS:
        value = score
        for key in place:
            value = value.get(key) if value is not None else None
        bounds = intervals.get(interval) if interval else None
        rows.append([title, number(value),
                     f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else "", meaning])
    caption = f"{score['samples']} images"
    if intervals:
        caption += (f"; intervals: {100 * intervals['level']:.0f}%, "
                    f"bootstrap of {intervals['resamples']} resamples")
    return table(["measure", "value", "interval", "meaning"], rows, caption, text_from=3)


def classes(score: Dict) -> str:
    rows = [[c["name"], c["support"], number(c["precision"]), number(c["recall"]),
             number(c["specificity"]), number(c["f1"]), number(c["auc"])] for c in score["classes"]]
    for name, average, area in (("macro average", score["macro"], score["auc_macro"]),
                                ("weighted average", score["weighted"], None)):
        rows.append([name, score["samples"], number(average["precision"]),
                     number(average["recall"]), number(average["specificity"]),
                     number(average["f1"]), number(area)])
    head = ["class", "images", "precision", "recall (sensitivity)", "specificity", "F1", "AUC"]
    return table(head, rows)


def part_section(folder: Path, part: str, root: Optional[Path]) -> str:
    run = Run(folder, part)
    score = run.score()
    prefix = "test_" if part == "test" else ""
    html = f"<h2>{run.title().capitalize()}</h2>" + totals(score)
    html += inlined(confusion.draw(run), f"confusion matrix, {run.title()}",
                    folder / f"{prefix}confusion_matrix.png")
    html += '<div class="side">' + inlined(roc.draw(run), f"ROC curves, {run.title()}",
                                           folder / f"{prefix}roc.png")
    html += inlined(reliability.draw(run), f"reliability, {run.title()}",
                    folder / f"{prefix}reliability.png")
    html += "</div><h3>Classes</h3>" + classes(score)
    sheet = top_losses.draw(run, root=root)
    if sheet is not None:
        sheet.save(folder / f"{prefix}top_losses.png")
        data = io.BytesIO()
        sheet.save(data, format="JPEG", quality=88)
        html += ("<h3>Largest losses</h3><img alt=\"the images with the largest losses\" "
                 f'src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">')
    return html


def flat(value, name: str = "") -> List[List[str]]:
    if isinstance(value, dict):
        return [row for key, inner in value.items()
                for row in flat(inner, f"{name}.{key}" if name else key)]
    if isinstance(value, list):
        return [row for i, inner in enumerate(value) for row in flat(inner, f"{name}[{i}]")]
    return [[name, f"{value:.4g}" if isinstance(value, float) else str(value)]]


def report(folder: Path, root: Optional[Path] = None) -> str:
    run = Run(folder)
    args, environment = run.json("args.json"), run.json("env.json")
    title = folder.resolve().name
    if args.get("model"):
        title = f"{args['model']}: {title}"
    html = f"<h1>{escape(title)}</h1>"
    command = folder / "command.txt"
    if command.exists():
        html += f"<pre>{escape(command.read_text().strip())}</pre>"
    summary = []
    for part in ("test", "val", "eval"):
        if part in run.metrics:
            score = run.metrics[part]
            summary.append([Run(folder, part).title(), score["samples"], number(score["top1"]),
                            number(score["macro"]["f1"]), number(score["auc_macro"]),
                            number(score["loss"])])
    if summary:
        html += table(["best weights on", "images", "top-1", "macro F1", "macro AUC", "loss"],
                      summary)
    if run.results():
        html += "<h2>Training</h2>" + inlined(curves.draw(run), "accuracy, loss and learning rate",
                                              folder / "curves.png")
        html += inlined(machine.draw(run), "use of the machine", folder / "machine.png")
    for part in ("test", "val", "eval"):
        if part in run.metrics:
            html += part_section(folder, part, root)
    for heading, values in (("Environment", environment), ("Arguments", args)):
        if values:
            html += f"<h2>{heading}</h2>" + table(["name", "value"], flat(values), text_from=1)
    return (f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
            f"<style>{STYLE}</style></head><body>{html}</body></html>\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("--root", type=Path,
                        help="where relative image paths begin (default: here)")
    options = parser.parse_args()
    out = options.run / "report.html"
    write_output(out, report(options.run, options.root).encode("utf-8", errors="replace"))
    print(out)


if __name__ == "__main__":
    main()
