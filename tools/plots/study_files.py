"""The folder of `engine scale` as Python values: rows of summary.csv, series of them, what others
published."""

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, List

NUMBERS = (
    "images_per_second", "images_per_second_ci95", "ms_median", "speed_up", "speed_up_ci95",
    "efficiency", "efficiency_ci95", "data_ms", "forward_ms", "backward_ms",
    "exposed_all_reduce_ms", "optimizer_ms", "memory_mib_per_rank", "watts",
    "joules_per_image")  # fmt: skip
COUNTS = ("ranks", "batch_per_rank", "global_batch", "loader_threads", "repeats", "image_size")


def number(text: str) -> float:
    return float(text) if text else math.nan


@dataclass
class Row:
    """A configuration; numbers that were not measured are NaN, intervals of one repeat 0."""

    text: Dict[str, str]
    value: Dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        self.value = {name: number(self.text[name]) for name in NUMBERS}
        for name in NUMBERS:
            if name.endswith("_ci95") and math.isnan(self.value[name]):
                self.value[name] = 0.0
        self.value.update({name: int(self.text[name]) for name in COUNTS})

    def __getattr__(self, name):
        values = self.__dict__.get("value", {})
        if name in values:
            return values[name]
        try:
            return self.__dict__["text"][name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def ok(self) -> bool:
        return self.repeats > 0

    @property
    def batch(self) -> int:
        """By which a series is named: of each rank, or of all in strong scaling."""
        return self.global_batch if self.scaling == "strong" else self.batch_per_rank


@dataclass
class Series:
    """The rows of one batch over the numbers of ranks, ascending."""

    batch: int
    loader_threads: int
    rows: List[Row]

    def column(self, name: str) -> List[float]:
        return [getattr(row, name) for row in self.rows]


@dataclass
class Panel:
    """What one pair of axes shows: a model in one precision, with one kind of scaling."""

    model: str
    precision: str
    scaling: str
    series: List[Series]

    @property
    def title(self) -> str:
        return f"{self.model}, {self.precision}, {self.scaling} scaling"


class Study:
    def __init__(self, folder):
        self.folder = Path(folder)
        path = self.folder / "summary.csv"
        try:
            with path.open(newline="", encoding="utf-8") as file:
                rows = [Row(text) for text in csv.DictReader(file)]
        except (OSError, KeyError, ValueError) as error:
            raise SystemExit(f"{path}: no summary of engine scale: {error}")
        self.rows = [row for row in rows if row.scaling != "independent"]
        self.apart = [row for row in rows if row.scaling == "independent" and row.ok]
        self.unit = self.read_unit()
        self.published = self.read_published()

    def read_unit(self) -> str:
        path = self.folder / "study.json"
        return json.loads(path.read_text())["unit"] if path.exists() else "rank"

    def read_published(self) -> List[Dict]:
        path = self.folder / "published.csv"
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            for name in ("batch_per_rank", "ranks"):
                row[name] = int(row[name])
            for name in ("images_per_second", "memory_mib_per_rank"):
                row[name] = number(row[name])
        return rows

    @property
    def models(self) -> List[str]:
        return list(dict.fromkeys(row.model for row in self.rows))

    @property
    def devices(self) -> str:
        return ", ".join(dict.fromkeys(row.device for row in self.rows))

    def ok(self, **wanted) -> List[Row]:
        return [row for row in self.rows
                if row.ok and all(getattr(row, k) == v for k, v in wanted.items())]  # fmt: skip

    def panels(self) -> List[Panel]:
        """With the one rank that weak and strong scaling share in both."""
        panels = []
        keys = dict.fromkeys((row.model, row.precision, row.scaling) for row in self.ok())
        for model, precision, scaling in keys:
            rows = self.ok(model=model, precision=precision, scaling=scaling)
            names = sorted({(row.batch, row.loader_threads) for row in rows})
            series = []
            for batch, loading in names:
                mine = [row for row in rows if (row.batch, row.loader_threads) == (batch, loading)]
                if all(row.ranks > 1 for row in mine):
                    mine += [row for row in self.ok(model=model, precision=precision, ranks=1)
                             if (row.batch, row.loader_threads) == (batch, loading)]  # fmt: skip
                series.append(Series(batch, loading, sorted(mine, key=lambda row: row.ranks)))
            panels.append(Panel(model, precision, scaling, series))
        return panels

    def independent(self, panel: Panel, series: Series) -> List[Row]:
        """What ranks of the series do that share nothing, after the one rank; [] without any."""
        if panel.scaling != "weak":
            return []
        apart = [row for row in self.apart
                 if (row.model, row.precision, row.batch, row.loader_threads)
                 == (panel.model, panel.precision, series.batch,
                     series.loader_threads)]  # fmt: skip
        one = [row for row in series.rows if row.ranks == 1]
        return one + sorted(apart, key=lambda row: row.ranks) if apart else []

    def beside(self, panel: Panel) -> List[Dict]:
        """What others published of the panel's configurations, on GPUs and for each a batch."""
        batches = {series.batch for series in panel.series}
        if self.unit != "GPU" or panel.scaling != "weak":
            return []
        return [row for row in self.published
                if row["model"] == panel.model and row["precision"] == panel.precision
                and row["batch_per_rank"] in batches]  # fmt: skip
