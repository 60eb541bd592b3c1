"""Trains and uses image classifiers by running the program `engine`.

    import engine

    run = engine.train("images", model="efficientnet_b3", weights="imagenet", epochs=10)
    run.metrics                 # a row per epoch: a pandas.DataFrame, or a dict of lists
    run.plot("confusion")       # a matplotlib figure, which a notebook shows
    run.predict("picture.jpg")  # [{"path": …, "class": …, "probability": …, "logits": …}]
    run.embed("pictures")       # paths, and what the last layer reads of each: a numpy array

Keyword arguments are the program's flags: `batch_size=64` is `--batch-size=64`, `True` and `False`
turn a switch on and off, a list is written with commas, `None` leaves the default. What the program
reports as an error is raised as `EngineError`, with its message and exit code. `engine.call` runs
any verb; `engine --help` and `engine help VERB`, in a shell, list verbs and flags.
"""

from .program import EngineError, call, program
from .run import Run
from .verbs import embed, finetune, predict, train, version

__all__ = ["EngineError", "Run", "call", "embed", "finetune", "predict", "program", "train",
           "version"]
