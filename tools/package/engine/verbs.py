"""The verbs that have a function of their own."""

import json
import os
import re
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Union

from .program import call, run
from .run import PathLike, Run


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


def predict(images: Union[PathLike, Iterable[PathLike]], weights: Union[PathLike, Run],
            **flags: Any) -> List[Dict[str, Any]]:
    """The class of each image: a list of {"path", "class", "class_index", "probability", "logits"}.

    images: a file or a folder, or several of them.
    weights: a weight file, or a run, whose best weights are taken.
    flags: `engine help predict` lists them.

    An image that cannot be read is an EngineError of kind "data"; the lines of the others are in
    its `output`.
    """
    files = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    weights = weights.best if isinstance(weights, Run) else weights
    lines = call("predict", *files, weights=weights, json=True, **flags)
    return [json.loads(line) for line in lines.split("\n") if line]


def version() -> Dict[str, Any]:
    """The program's version, build and libraries, and this machine."""
    return json.loads(call("version", json=True))
