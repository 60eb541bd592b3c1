#!/usr/bin/env python3
"""ROC curves, one class against the rest, from roc.csv; areas from metrics.json."""

from typing import Dict, List, Tuple

from run_files import GREY, INK, SERIES, Run, main, plt, shorten
from wording import share

NAMED = len(SERIES)  # the most classes with a colour and a name: those with the smallest areas
MICRO = "(micro)"  # all classes together


def of_classes(run: Run, file: str, x: int, y: int) -> Dict[str, Tuple[List[float], List[float]]]:
    """The curves of a part's file by class, whose name is the first column."""
    curves: Dict[str, Tuple[List[float], List[float]]] = {}
    for row in run.of_part(file):
        xs, ys = curves.setdefault(row[0], ([], []))
        xs.append(float(row[x]))
        ys.append(float(row[y]))
    return curves


def lines(axes, curves, areas: Dict[str, float], supports: Dict[str, int], title: str,
          **style) -> None:
    """The curves with the smallest areas in colour, with area and name; the others in gray."""
    order = sorted(curves, key=lambda name: areas.get(name, 1))
    named = order[:NAMED]
    for name in order[NAMED:]:
        axes.plot(*curves[name], color=GREY, linewidth=0.7, alpha=0.5, **style)
    # They stand in the order of the classes, so that a class looks the same in all pictures.
    colours = dict(zip((name for name in curves if name in named), SERIES))
    for name in named:
        axes.plot(*curves[name], color=colours[name], linewidth=1.3, **style,
                  label=f"{shorten(name)}  {share(areas.get(name), supports.get(name))}")
    if order[NAMED:]:
        axes.plot([], [], color=GREY, linewidth=0.7,
                  label=f"{len(order) - NAMED} other classes, all larger")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(title=title, fontsize=7.5, title_fontsize=8)


def of_score(score: Dict, measure: str) -> Tuple[Dict[str, float], Dict[str, int]]:
    """A measure and the positive samples of each class, or of each of several labels."""
    classes = score.get("labels") or score.get("classes", [])
    areas = {c["name"]: c[measure] for c in classes if c.get(measure) is not None}
    return areas, {c["name"]: c.get("support", c.get("positives", 0)) for c in classes}


def draw(run: Run):
    curves = of_classes(run, "roc.csv", 2, 3)
    if not curves:
        return None
    score = run.score()
    micro = curves.pop(MICRO, None)
    figure, axes = plt.subplots(figsize=(4.8, 4.8))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    if micro:
        axes.plot(*micro, color=INK, linewidth=1.8, linestyle="--",
                  label=f"micro average  {share(score.get('auc_micro'), score['samples'])}")
    lines(axes, curves, *of_score(score, "auc"), "area under the curve")
    macro = score.get("auc_macro")
    axes.set(xlabel="false positive rate (1 − specificity)", ylabel="true positive rate (recall)",
             title=f"ROC, {run.title()}"
                   + ("" if macro is None else f": macro AUC {share(macro, score['samples'])}"))
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "roc")
