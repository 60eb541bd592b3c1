"""A run's folder as trackers of experiments want it: parameters, measures by epoch, measures at the
end, files. What to_mlflow.py and to_wandb.py share."""

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Tuple

from run_files import PARTS, Run

FILES = ("args.json", "env.json", "command.txt", "classes.txt", "metrics.json", "results.csv",
         "model_card.md", "report.html", "confusion_matrix.csv", "roc.csv", "pr.csv",
         "predictions.csv", "test_confusion_matrix.csv", "test_roc.csv", "test_pr.csv",
         "test_predictions.csv", "log.txt")  # fmt: skip


def parameters(run: Run) -> Dict[str, Any]:
    """The flags that have a value, and what the run was made with."""
    chosen = {name: value for name, value in run.json("args.json").items()
              if value is not None and value != "" and not isinstance(value, (dict, list))}
    environment = run.json("env.json")
    return {**chosen, **{f"env.{name}": environment[name] for name in ("engine", "git", "host")
                         if name in environment}}  # fmt: skip


def history(run: Run) -> Iterator[Tuple[int, Dict[str, float]]]:
    """Of each epoch its number and its finite columns of results.csv."""
    columns = run.results()
    for i, epoch in enumerate(columns.get("epoch", [])):
        yield int(epoch), {name: values[i] for name, values in columns.items()
                           if name != "epoch" and math.isfinite(values[i])}  # fmt: skip


def finals(run: Run) -> Dict[str, float]:
    """The totals of metrics.json: "test/top1", "val/macro/f1", …; classes and curves are files."""
    found: Dict[str, float] = {}
    for part in PARTS:
        for name, value in run.metrics.get(part, {}).items():
            inner = value if isinstance(value, dict) and name in ("macro", "weighted", "micro") \
                else {"": value}
            for key, number in inner.items():
                if isinstance(number, (int, float)) and not isinstance(number, bool):
                    found["/".join(filter(None, (part, name, key)))] = float(number)
    return found


def files(run: Run, weights: bool) -> List[Path]:
    """Those that are there, with the best weights where they are wanted."""
    names = FILES + (("weights/best.safetensors",) if weights else ())
    return [run.folder / name for name in names if (run.folder / name).is_file()]


def tracker(name: str) -> ModuleType:
    """The tracker's module. Our folder is taken from the path before: our `profile` would hide
    Python's own, which trackers use."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if error.name != name:
            raise
        raise SystemExit(f"this needs {name}: {sys.executable} -m pip install {name}") from None
