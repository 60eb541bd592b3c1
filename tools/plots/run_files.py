"""A run directory as Python values, and what the plots share: style, palette, saving.

Only the files that the run wrote are read: results.csv, metrics.json, metrics.jsonl,
confusion_matrix.csv, roc.csv, pr.csv, predictions.csv, args.json, env.json and command.txt. What is
not there is empty.
"""

import argparse
import csv
import io
import json
import math
import os
import shlex
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import matplotlib

if "matplotlib.pyplot" not in sys.modules:  # who has it already keeps their windows
    matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# The colours of Okabe and Ito differ with every kind of colour vision, and in print.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#777777")
SERIES = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW)  # for lines that stand side by side
# Text, axes and grid; not black, so that the report can tell them in an SVG and turn them.
INK, GRID, PAPER = "#1A1A1B", "#B0B0B1", "#FFFFFF"

PARTS = ("val", "eval", "test", "folds")  # members of metrics.json

STYLE = {
    "figure.dpi": 100, "savefig.dpi": 150, "savefig.bbox": "tight", "font.size": 10,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK,
    "ytick.color": INK, "grid.color": GRID,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
    "axes.titlesize": 11, "legend.frameon": False, "legend.fontsize": 9}
plt.rcParams.update(STYLE)


def write_output(out: Path, data: bytes) -> None:
    """Replaces a file, or the one that a link names, at once; devices and pipes are written to."""
    if out.exists() and not out.is_file():
        out.write_bytes(data)
        return
    place = Path(os.path.realpath(out))
    temporary = place.with_name(f"{place.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.replace(place)
    finally:
        temporary.unlink(missing_ok=True)


def save(figure, out: Path) -> None:
    """The ending of the name is the format; without one it is PNG."""
    picture = io.BytesIO()
    figure.savefig(picture, format=Path(out).suffix[1:] or "png")
    write_output(out, picture.getvalue())


class Run:
    """`part` is one of PARTS: a member of metrics.json, and part of file names."""

    def __init__(self, folder, part: Optional[str] = None):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise SystemExit(f"{folder}: no such folder")
        self.metrics: Dict = self.json("metrics.json")
        self.part = part or next((p for p in PARTS if p in self.metrics), "val")
        if part and part not in self.metrics:
            raise SystemExit(f"{folder}: metrics.json has no part {part}")

    def json(self, name: str) -> Dict:
        path = self.folder / name
        if not path.exists():
            return {}
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from None

    def events(self, kind: str) -> List[Dict]:
        """The lines of metrics.jsonl of that kind; a line that was cut short is passed over."""
        path = self.folder / "metrics.jsonl"
        found = []
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                if f'"event":"{kind}"' not in line:
                    continue
                try:
                    found.append(json.loads(line))
                except ValueError:
                    continue
        return found

    def table(self, name: str) -> List[List[str]]:
        """A CSV file, its header included."""
        path = self.folder / name
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.reader(file))
        # results.csv of an older version has shorter rows.
        check = rows[1:] if name != "results.csv" else []
        for row in check:
            if len(row) != len(rows[0]):
                raise SystemExit(f"{path}: a row of {len(row)} fields under {len(rows[0])} columns")
        return rows

    def name_of_part(self, name: str) -> str:
        return ("test_" if self.part == "test" else "") + name

    def of_part(self, name: str) -> List[List[str]]:
        """The rows of one of the part's files, without the header."""
        return self.table(self.name_of_part(name))[1:]

    def predictions(self) -> Iterator[Dict[str, str]]:
        """The rows of predictions.csv by the names of their columns, one after the other."""
        path = self.folder / self.name_of_part("predictions.csv")
        if not path.exists():
            return
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                if None in row or None in row.values():
                    raise SystemExit(f"{path}: a row of another length than the header")
                yield row

    def score(self) -> Dict:
        return self.metrics.get(self.part, {})

    def title(self) -> str:
        return {"val": "validation", "eval": "evaluation",
                "folds": "out-of-fold"}.get(self.part, self.part)  # fmt: skip

    def results(self) -> Dict[str, List[float]]:
        """results.csv by column; a column without a single number is left out. Rows of an older
        version, which lack the last columns, have no number there."""
        header, *rows = self.table("results.csv") or [[]]
        columns = {}
        for name, *texts in zip(header, *(row + ["nan"] * len(header) for row in rows)):
            values = [float(text) for text in texts]
            if not all(math.isnan(v) for v in values):
                columns[name] = values
        return columns

    def roots(self, root: Optional[Path] = None) -> List[Path]:
        """Where paths of predictions.csv may begin: `root`, here, where the run was started, and
        the folders of its data."""
        found = [root] if root else []
        found.append(Path())
        started = self.folder / "command.txt"
        if started.exists():
            text = started.read_text(encoding="utf-8", errors="surrogateescape")
            words = shlex.split(text.split("\n")[0])
            found += [Path(word) for word in words[1:2]]
        arguments = self.json("args.json")
        for name in ("data", "image_root", "labels"):
            if arguments.get(name):
                place = Path(arguments[name])
                found += [place.parent] if name == "labels" else [place, place.parent]
        return list(dict.fromkeys(found))


def from_zero(axes, values: List[float]) -> None:
    """Lets the y axis begin at 0, with room above the largest of the values."""
    finite = [v for v in values if math.isfinite(v)]
    axes.set_ylim(0, 1.12 * max(finite, default=0) or 1)


def epoch_axis(axes, epochs: List[float]) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)


def shorten(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[:most - 1] + "…"


def grid_of(panels: List[Callable[[Any], None]], columns: int = 3, width: float = 4.3,
            height: float = 3.4):
    """One figure of several panels, each of which draws on the axes that it is given."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = plt.subplots(rows, columns, figsize=(width * columns, height * rows),
                                squeeze=False)
    for axes, panel in zip_longest(grid.flat, panels):
        panel(axes) if panel else axes.axis("off")
    figure.tight_layout()
    return figure


def main(draw: Callable, description: str, name: str, parts: bool = True) -> None:
    """The command line of a plot. draw(run) returns a figure, or nothing if files are missing."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("--out", type=Path, help=f".png, .svg or .pdf (default: RUN/{name}.png)")
    if parts:
        parser.add_argument("--part", choices=PARTS,
                            help="default: what there is, val first")
    options = parser.parse_args()
    run = Run(options.run, getattr(options, "part", None))
    figure = draw(run)
    if figure is None:
        raise SystemExit(f"{options.run}: nothing to plot there")
    file = f"{name}.png"
    out = options.out or options.run / (run.name_of_part(file) if parts else file)
    save(figure, out)
    print(out)
