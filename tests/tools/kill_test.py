#!/usr/bin/env python3
"""Kills a small training run at random moments and checks that it ends as the undisturbed run did.

Each trial begins a run, sends it a signal while it trains, validates, saves a checkpoint, writes weights or scores, resumes
it with --resume auto, and compares the SHA-256 of the last state, the weight files, the figures of results.csv and the
test scores with the calm run's. The last trial is killed again and again until it gets through. Needs Python alone.
"""

import argparse
import csv
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, Optional

SAVED = 75  # exit code: stopped by a request, checkpoint saved
MOMENTS = ("any", "any", "checkpoint", "any", "weights")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGINT)


def draw(engine: str, folder: Path, options: argparse.Namespace) -> None:
    command = [engine, "draw", options.set, "--out", str(folder)]
    command += ["--train", str(options.images), "--val", str(options.images // 2)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(folder / "val", folder / "test")


def command_line(options: argparse.Namespace, data: Path, out: Path) -> List[str]:
    return [
        options.engine, "train", "--data", str(data), "--out", str(out), "--resume", "auto",
        "--model", options.model, "--epochs", str(options.epochs), "--batch-size", "8",
        "--checkpoint-every", "4", "--device", options.device, "--threads", "1", "--deterministic",
        *options.flags,
    ]  # fmt: skip


def checkpoints(run: Path) -> Dict[int, str]:
    """The state's SHA-256 by step, as logged."""
    states = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "checkpoint":
            states[event["step"]] = event["state_sha256"]
    return states


def figures(run: Path) -> List[List[str]]:
    """results.csv without what a clock measured."""
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name == "epoch" or name.split("/")[0] in
             ("train", "val", "metrics", "lr")]  # fmt: skip
    return [[row[name] for name in names] for row in rows]


def outcome(run: Path) -> Dict[str, object]:
    states = checkpoints(run)
    digest = {
        name: hashlib.sha256((run / "weights" / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("best", "last")
    }
    scores = json.loads((run / "metrics.json").read_text())
    return {"state": states[max(states)], **digest, "results": figures(run), "scores": scores}


def is_saving(run: Path, folder: str) -> bool:
    return any((run / folder).glob("*.tmp"))


def interrupt(command: List[str], run: Path, how: signal.Signals, moment: str,
              delay: float) -> Optional[int]:  # fmt: skip
    """The exit code; None if the run was over before the moment came."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + delay
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.001)
    folder = {"checkpoint": "ckpt", "weights": "weights"}.get(moment)
    while folder and process.poll() is None and not is_saving(run, folder):
        pass
    if process.poll() is not None:
        return None
    process.send_signal(how)
    return process.wait()


def where(run: Path) -> str:
    """What the run directory says of the moment."""
    if is_saving(run, "ckpt"):
        return "writing a checkpoint"
    if is_saving(run, "weights"):
        return "writing weights"
    events = (run / "metrics.jsonl").read_text().splitlines() if run.exists() else []
    last = json.loads(events[-1]) if events and events[-1].endswith("}") else {"event": "start"}
    return f"after {last['event']} {last.get('step', '')}".strip()


def finish(command: List[str], label: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{label}: resuming ended with {done.returncode}:\n{done.stderr}")


def differences(calm: Dict[str, object], run: Path) -> List[str]:
    ours = outcome(run)
    return [name for name in calm if calm[name] != ours[name]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", required=True)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="mnist_cnn")
    parser.add_argument("--set", default="digits", help="of engine draw")
    parser.add_argument("--images", type=int, default=8, help="of each of ten classes")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("flags", nargs="*", help="further flags of engine train, after --")
    options = parser.parse_args()
    draws = random.Random(options.seed)
    bad = killed = 0
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "set"
        draw(options.engine, data, options)
        began = time.monotonic()
        finish(command_line(options, data, Path(folder) / "calm"), "calm run")
        length = time.monotonic() - began
        calm = outcome(Path(folder) / "calm")
        print(f"calm run: {length:.2f} s, state {calm['state'][:16]}")
        for trial in range(options.trials):
            run = Path(folder) / f"run{trial}"
            command = command_line(options, data, run)
            how, moment = SIGNALS[trial % len(SIGNALS)], MOMENTS[trial % len(MOMENTS)]
            places = []
            for _ in range(8 if trial == options.trials - 1 else 1):
                code = interrupt(command, run, how, moment, draws.uniform(0.02, 0.8 * length))
                if code is not None:
                    killed += 1
                    places.append(f"{how.name} {where(run)} -> {code}")
                    if how != signal.SIGKILL and code not in (SAVED, -how):
                        bad += 1
                        places.append("wrong exit code")
            finish(command, f"trial {trial}")
            wrong = differences(calm, run)
            bad += bool(wrong)
            print(f"trial {trial}: {'; '.join(places) or 'over before the signal'}: "
                  f"{'differs in ' + ', '.join(wrong) if wrong else 'equal'}")  # fmt: skip
            shutil.rmtree(run)
    print(f"{killed} interruptions in {options.trials} trials, {bad} failures")
    sys.exit(1 if bad or not killed else 0)


if __name__ == "__main__":
    main()
