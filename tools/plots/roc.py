#!/usr/bin/env python3
"""ROC curves, one class against the rest, from roc.csv; areas from metrics.json."""

from run_files import GREY, Run, main, plt, shorten

NAMED = 10  # the most classes with a colour and a name: those with the smallest areas


def draw(run: Run):
    curves = {}
    for name, _, false_positive, true_positive in run.of_part("roc.csv"):
        x, y = curves.setdefault(name, ([], []))
        x.append(float(false_positive))
        y.append(float(true_positive))
    if not curves:
        return None
    score = run.score()
    micro = curves.pop("(micro)", None)
    areas = {c["name"]: c["auc"] for c in score.get("classes", []) if c["auc"] is not None}
    order = sorted(curves, key=lambda name: areas.get(name, 1))
    named = order[:NAMED]
    figure, axes = plt.subplots(figsize=(6.4, 5.6))
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=1)
    for name in order[NAMED:]:
        axes.plot(*curves[name], color=GREY, linewidth=0.7, alpha=0.5)
    # They stand in the order of the classes, so that a class looks the same in all pictures.
    colours = dict(zip((name for name in curves if name in named), plt.get_cmap("tab10").colors))
    for name in named:
        axes.plot(*curves[name], color=colours[name], linewidth=1.3,
                  label=f"{shorten(name)}  {areas.get(name, float('nan')):.4f}")
    if micro:
        axes.plot(*micro, color="black", linewidth=2, linestyle="--",
                  label=f"micro average  {score.get('auc_micro') or float('nan'):.4f}")
    if order[NAMED:]:
        axes.plot([], [], color=GREY, linewidth=0.7,
                  label=f"{len(order) - NAMED} other classes, all larger")
    macro = score.get("auc_macro")
    axes.set(xlabel="false positive rate (1 − specificity)", ylabel="true positive rate (recall)",
             xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal",
             title=f"ROC, {run.title()}"
                   + (f": macro AUC {macro:.4f}" if macro is not None else ""))
    axes.legend(loc="lower right", title="area under the curve", fontsize=8)
    return figure


if __name__ == "__main__":
    main(draw, __doc__, "roc")
