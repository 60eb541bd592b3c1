"""The plots of tools/plots in this process."""

import functools
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Optional

from .program import BUNDLE

OF_RUN = ("curves", "machine", "lr_find")
OF_PART = ("classes", "confusion", "roc", "precision_recall", "reliability", "reject", "top_losses")


def folder() -> Path:
    """Where the scripts are: in a wheel, or in the project's tree."""
    packed = BUNDLE / "share" / "engine" / "plots"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "plots"


@functools.lru_cache(maxsize=None)
def modules() -> Dict[str, ModuleType]:
    """The scripts as modules. Their names are theirs alone while they are imported: others have a
    `profile` or a `report`, too."""
    try:
        import matplotlib.pyplot  # noqa: F401: a notebook's windows stay what they are
        import PIL  # noqa: F401
    except ImportError as error:
        raise ImportError(f"plots need {error.name}: pip install 'engine[plots]'") from error
    names = [path.stem for path in folder().glob("*.py")]
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(folder()))
    try:
        with matplotlib.rc_context():
            return {name: importlib.import_module(name)
                    for name in (*OF_RUN, *OF_PART, "report", "run_files")}
    finally:
        sys.path.remove(str(folder()))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)


def shown(picture: Any) -> Any:
    """A contact sheet is a picture of pixels; this is a figure of it, of its size."""
    import matplotlib.pyplot as plt
    dpi = plt.rcParams["figure.dpi"]
    figure = plt.figure(figsize=(picture.width / dpi, picture.height / dpi))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(picture)
    axes.axis("off")
    return figure


def draw(run: Path, name: str, part: Optional[str]) -> Any:
    """A figure; the caller's style and windows stay as they are."""
    if name not in OF_RUN + OF_PART:
        raise ValueError(f"no plot {name!r}; there are {', '.join(OF_RUN + OF_PART)}")
    plots = modules()
    import matplotlib
    import matplotlib.pyplot as plt
    with matplotlib.rc_context(plots["run_files"].STYLE):
        try:
            figure = plots[name].draw(plots["run_files"].Run(run, part))
        except SystemExit as end:
            raise ValueError(str(end.code)) from None
        if figure is None:
            raise FileNotFoundError(f"{run}: nothing to plot there")
        if name == "top_losses":
            figure = shown(figure)
        plt.close(figure)  # what is returned is shown once, and kept by nobody else
    return figure


def report(run: Path) -> Path:
    """Writes report.html."""
    plots = modules()
    import matplotlib
    out = run / "report.html"
    with matplotlib.rc_context(plots["run_files"].STYLE):
        html = plots["report"].report(run)
    plots["run_files"].write_output(out, html.encode("utf-8", errors="replace"))
    return out
