#!/usr/bin/env python3
"""Sends a run's folder to MLflow: flags as parameters, epochs and totals as metrics, files as
artifacts. Where --tracking and $MLFLOW_TRACKING_URI are not given it stays on this machine."""

import argparse
from pathlib import Path
from typing import Optional

import logged
from run_files import Run

MOST_BYTES = 500  # of a parameter's value, which is what MLflow takes everywhere


def send(run: Run, tracking: Optional[str], experiment: str, artifacts: Optional[Path], name: str,
         weights: bool) -> str:
    """Returns the id that MLflow gave the run."""
    mlflow = logged.tracker("mlflow")
    if tracking:
        mlflow.set_tracking_uri(tracking)
    if artifacts and mlflow.get_experiment_by_name(experiment) is None:
        mlflow.create_experiment(experiment, artifact_location=artifacts.resolve().as_uri())
    mlflow.set_experiment(experiment)
    with mlflow.start_run(run_name=name) as there:
        mlflow.log_params({key: str(value)[:MOST_BYTES]
                           for key, value in logged.parameters(run).items()})  # fmt: skip
        for epoch, measures in logged.history(run):
            mlflow.log_metrics(measures, step=epoch)
        mlflow.log_metrics(logged.finals(run))
        for file in logged.files(run, weights):
            mlflow.log_artifact(str(file))
        return there.info.run_id


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("--tracking", help="URI of MLflow: a server, sqlite:///FILE, file:FOLDER")
    parser.add_argument("--experiment", default="engine")
    parser.add_argument("--artifacts", type=Path,
                        help="folder of the files of a new experiment (default: MLflow's)")
    parser.add_argument("--name", help="default: the folder's")
    parser.add_argument("--weights", action="store_true", help="with the best weights")
    options = parser.parse_args()
    print(send(Run(options.run), options.tracking, options.experiment, options.artifacts,
               options.name or options.run.resolve().name, options.weights))  # fmt: skip


if __name__ == "__main__":
    main()
