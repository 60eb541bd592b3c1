"""The verbs that have a function of their own."""

import csv
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Optional, Tuple, Union

from .program import call, run
from .run import PathLike, Run

if TYPE_CHECKING:
    import numpy

Images = Union[PathLike, Iterable[PathLike]]


def trained(verb: str, arguments: List[PathLike], flags: Dict[str, Any]) -> Optional[Run]:
    output, said = run(verb, arguments, **flags)
    if output:  # of --dry-run
        sys.stdout.write(output)
    folder = re.findall(r"^run directory (.*)$", said, re.MULTILINE)
    return Run(folder[-1]) if folder else None


def train(data: Optional[PathLike] = None, *, model: Optional[str] = None,
          weights: Optional[PathLike] = None, epochs: Optional[int] = None,
          batch_size: Union[int, str, None] = None, out: Optional[PathLike] = None,
          resume: Optional[PathLike] = None, **flags: Any) -> Optional[Run]:
    """Runs `engine train` and returns the run, or None if the flags ask for none (dry_run,
    lr_find).

    data: a folder with train/CLASS/… and val/CLASS/…, or what else --data takes.
    weights: to start from: a file, "imagenet", or a name of `engine weights list`.
    out: the run's folder; by default runs/MODEL-DATE-TIME.
    resume: a run to go on with, which needs no other argument.
    flags: `engine help train` lists them.
    """
    return trained("train", [], {**flags, "data": data, "model": model, "weights": weights,
                                 "epochs": epochs, "batch_size": batch_size, "out": out,
                                 "resume": resume})


def finetune(data: PathLike, **flags: Any) -> Optional[Run]:
    """Runs `engine finetune`: `train` with a recipe that it chooses for these images and says.
    Every flag of `train` overrides it."""
    return trained("finetune", [data], flags)


MOST_WORDS = 1000  # of images on a command line; longer lists go to standard input


def predict_lines(images: Images, weights: Union[PathLike, Run], flags: Dict[str, Any]) -> str:
    files = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    weights = weights.best if isinstance(weights, Run) else weights
    listed = b""
    if len(files) > MOST_WORDS:
        listed = b"".join(os.fsencode(file) + b"\0" for file in files)
        files = ["-"]
    return run("predict", files, listed, weights=weights, **flags)[0]


def predict(images: Images, weights: Union[PathLike, Run],
            **flags: Any) -> List[Dict[str, Any]]:
    """The class of each image: a list of {"path", "class", "class_index", "probability", "logits"}.

    images: a file, a folder or a pattern such as "images/*.jpg", or several of them.
    weights: a weight file, or a run, whose best weights are taken.
    flags: `engine help predict` lists them. With `top=3` there is also "top", a list of {"class",
        "class_index", "probability"}, with `probabilities=True` "probabilities", a dict by class;
        `tta="flips"` and `calibrated=True` change these; `explain="folder"` writes class activation
        maps there; with `out="FILE.jsonl"` the objects go there, line by line, and none is
        returned.

    An image that cannot be read is an EngineError of kind "data"; the lines of the others are in
    its `output`.
    """
    lines = predict_lines(images, weights, {**flags, "json": True})
    return [json.loads(line) for line in lines.split("\n") if line]


def embed(images: Images, weights: Union[PathLike, Run], out: Optional[PathLike] = None,
          **flags: Any) -> Tuple[List[str], "numpy.ndarray"]:
    """What the last layer reads of each image: paths, and an array (images, features) of float32.

    out: a file FILE.npy that stays, with the paths in FILE.csv; the array is then a view of it.
    The other arguments are those of `predict`. Needs numpy, which the extra "plots" brings.
    """
    import numpy
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "features.npy" if out is None else Path(out)
        predict_lines(images, weights, {"csv": True, **flags, "embeddings": file})
        with file.with_suffix(".csv").open(newline="", encoding="utf-8",
                                           errors="surrogateescape") as table:
            paths = [row["path"] for row in csv.DictReader(table)]
        return paths, numpy.load(file, mmap_mode=None if out is None else "r")


def version() -> Dict[str, Any]:
    """The program's version, build and libraries, and this machine."""
    return json.loads(call("version", json=True))
