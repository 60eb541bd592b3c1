"""The folder of a run as Python values: tables, scores, weights, plots."""

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Tuple, Union

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PathLike = Union[str, "os.PathLike[str]"]
Table = Any  # a pandas.DataFrame where pandas is installed, else a dict of lists, one per column

TEXTS = {"path", "label", "prediction", "class", "name"}  # columns whose numbers are names


def numbers(texts: List[str]) -> List[Any]:
    """Whole numbers, numbers, or the texts as they are."""
    for kind in (int, float):
        try:
            return [kind(text) for text in texts]
        except ValueError:
            pass
    return texts


def as_table(columns: Dict[str, List[Any]], index: Optional[List[str]] = None) -> Table:
    try:
        import pandas
    except ImportError:
        return columns
    return pandas.DataFrame(columns, index=index)


def of_rows(rows: List[Dict[str, Any]]) -> Table:
    """A table of JSON objects; what a row lacks is None."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return as_table({name: [row.get(name) for row in rows] for name in names})


class Run:
    """What `engine train --out FOLDER`, or `engine eval --out FOLDER`, left in its folder.

    Files are read when they are asked for, so a run that goes on shows what it has got to.
    `part` is one of PARTS, by default the first that there is; "folds" are all folds of a
    cross-validation together. tools/train/README.md says what is in the files.
    """

    PARTS = ("val", "eval", "test", "folds")

    def __init__(self, folder: PathLike):
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # ---- files as they are

    def json(self, name: str) -> Dict[str, Any]:
        """A JSON file of the folder; empty where it is not there."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def csv(self, name: str) -> List[List[str]]:
        """A CSV file of the folder, its header included; empty where it is not there."""
        path = self.folder / name
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.reader(file))

    def table(self, name: str) -> Table:
        """A CSV file of the folder as a table."""
        head, *rows = self.csv(name) or [[]]
        columns = [list(column) for column in zip(*rows)] or [[] for _ in head]
        return as_table({title: column if title in TEXTS else numbers(column)
                         for title, column in zip(head, columns)})

    # ---- the training

    @property
    def args(self) -> Dict[str, Any]:
        """The flags that the run began with."""
        return self.json("args.json")

    @property
    def environment(self) -> Dict[str, Any]:
        """Build, libraries, host and devices."""
        return self.json("env.json")

    @property
    def classes(self) -> List[str]:
        """The names of the classes, in the order of the outputs."""
        path = self.folder / "classes.txt"
        if not path.exists():
            return []
        return path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[:-1]

    @property
    def metrics(self) -> Table:
        """A row per epoch: losses, accuracy, learning rate, images per second, use of the machine
        (results.csv)."""
        return self.table("results.csv")

    def events(self, kind: Optional[str] = None) -> Table:
        """A row per event of metrics.jsonl: of one kind, such as "step", or of all."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        rows = [json.loads(line) for line in lines if line]
        return of_rows([row for row in rows if kind in (None, row["event"])])

    @property
    def steps(self) -> Table:
        """A row per logged step."""
        return self.events("step")

    @property
    def best(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / "weights" / "best.safetensors"

    @property
    def last(self) -> Path:
        """The weights of the last epoch."""
        return self.folder / "weights" / "last.safetensors"

    # ---- what the best weights make of a part

    @property
    def scores(self) -> Dict[str, Any]:
        """Every measure of each part: scores["val"]["top1"] (metrics.json)."""
        return self.json("metrics.json")

    def part(self, part: Optional[str] = None) -> str:
        """The part that is meant; ValueError where there is no such part."""
        there = self.scores
        chosen = part or next((name for name in self.PARTS if name in there), None)
        if chosen not in there:
            raise ValueError(f"{self.folder}: metrics.json has {', '.join(there) or 'no part'}, "
                             f"not {part or 'a score'}")
        return chosen

    def of_part(self, name: str, part: Optional[str]) -> str:
        return ("test_" if self.part(part) == "test" else "") + name

    def per_class(self, part: Optional[str] = None) -> Table:
        """A row per class: name, support, precision, recall, specificity, f1, auc."""
        return of_rows(self.scores[self.part(part)]["classes"])

    def predictions(self, part: Optional[str] = None) -> Table:
        """A row per image: path, label, prediction, their probabilities, loss."""
        return self.table(self.of_part("predictions.csv", part))

    def roc(self, part: Optional[str] = None) -> Table:
        """The ROC curves: class, threshold, false_positive_rate, true_positive_rate."""
        return self.table(self.of_part("roc.csv", part))

    def confusion(self, part: Optional[str] = None) -> Table:
        """Counts of images: a row per label, a column per prediction. Without pandas:
        {"classes": names, "counts": a list per label}."""
        head, *rows = self.csv(self.of_part("confusion_matrix.csv", part)) or [["label"]]
        counts = [[int(count) for count in row[1:]] for row in rows]
        try:
            import pandas
        except ImportError:
            return {"classes": head[1:], "counts": counts}
        labels = pandas.Index([row[0] for row in rows], name="label")
        return pandas.DataFrame(counts, index=labels, columns=head[1:])

    # ---- what is made of it

    def predict(self, images: Union[PathLike, Iterable[PathLike]], **flags: Any) -> List[Dict]:
        """The class of each image, by the best weights: see `engine.predict`."""
        from .verbs import predict
        return predict(images, self, **flags)

    def embed(self, images: Union[PathLike, Iterable[PathLike]],
              **flags: Any) -> Tuple[List[str], Any]:
        """Paths and features of images, by the best weights: see `engine.embed`."""
        from .verbs import embed
        return embed(images, self, **flags)

    def plot(self, name: str = "curves", part: Optional[str] = None) -> "Figure":
        """A matplotlib figure, which a notebook shows: "curves", "machine", "lr_find", and of a
        part "classes", "confusion", "roc", "precision_recall", "reliability", "reject" and
        "top_losses". Needs the extra "plots"."""
        from .pictures import draw
        return draw(self.folder, name, part)

    def report(self) -> Path:
        """Writes report.html, one file with all there is to see, and returns its path. Needs the
        extra "plots"."""
        from .pictures import report
        return report(self.folder)
