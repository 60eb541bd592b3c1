#!/usr/bin/env python3
"""Sends a run's folder to Weights & Biases: flags as the configuration, epochs as history, totals
as the summary, files as an artifact. With --offline nothing leaves this machine: the folder that is
printed can be sent later, by `wandb sync`."""

import argparse
import re
from pathlib import Path

import logged
from run_files import Run


def send(run: Run, project: str, name: str, folder: Path, offline: bool, weights: bool) -> str:
    """Returns the folder that the client wrote."""
    wandb = logged.tracker("wandb")
    folder.mkdir(parents=True, exist_ok=True)
    there = wandb.init(project=project, name=name, dir=str(folder), config=logged.parameters(run),
                       mode="offline" if offline else "online")  # fmt: skip
    for epoch, measures in logged.history(run):
        there.log({"epoch": epoch, **measures})
    for key, value in logged.finals(run).items():
        there.summary[key] = value
    artifact = wandb.Artifact(re.sub(r"[^A-Za-z0-9_.-]", "-", name), type="run")
    for file in logged.files(run, weights):
        artifact.add_file(str(file))
    there.log_artifact(artifact)
    written = there.dir
    there.finish()
    return str(Path(written).parent)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("--project", default="engine")
    parser.add_argument("--name", help="default: the folder's")
    parser.add_argument("--dir", type=Path, default=Path(),
                        help="where the client writes its folder wandb/ (default: here)")
    parser.add_argument("--offline", action="store_true")
    parser.add_argument("--weights", action="store_true", help="with the best weights")
    options = parser.parse_args()
    print(send(Run(options.run), options.project, options.name or options.run.resolve().name,
               options.dir, options.offline, options.weights))  # fmt: skip


if __name__ == "__main__":
    main()
