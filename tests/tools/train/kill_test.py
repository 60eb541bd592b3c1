#!/usr/bin/env python3
"""Kills a small training run at random moments and checks that it ends as the undisturbed run did.

An undisturbed run is watched first: when it wrote the pack, trained, validated, saved
checkpoints, wrote weights and scored them, as its own files say. Each trial begins the same run,
waits for one of these phases, sends a signal at a random moment of it, resumes with --resume auto,
and compares the SHA-256 of the last state, the weight files, the figures of results.csv and the
test scores. The last trial is killed again and again until it gets through. The end tells how often
each phase was hit. Only Python is needed.
"""

import argparse
import collections
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
from typing import Dict, List, NamedTuple, Optional, Tuple

SAVED, ABORTED = 75, 130  # exit codes: stopped by a request, all saved; by a second Ctrl-C
PHASES = ("start", "pack", "training", "validation", "checkpoint", "weights", "val scores",
          "test scores")  # fmt: skip
SIGNALS = ("SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT", "SIGINT twice")


class Span(NamedTuple):
    phase: str
    seconds: float
    before: int  # earlier spans of the same phase


class Progress:
    """What a run is doing, by its files. `ends`: the last step of each epoch."""

    def __init__(self, run: Path, cache: Path, ends: List[int]):
        self.run, self.cache, self.ends = run, cache, ends
        self.starts = sum(e["event"] == "cache" for e in events(run))  # of former processes

    def phase(self) -> str:
        for folder, phase in ((self.cache, "pack"), (self.run / "ckpt", "checkpoint"),
                              (self.run / "weights", "weights")):  # fmt: skip
            if any(folder.glob("*.tmp")):
                return phase
        past = events(self.run)
        last = past[-1] if past else {"event": "none"}
        if sum(e["event"] == "cache" for e in past) == self.starts or last["event"] == "cache":
            return "start"
        if last["event"] == "epoch":
            return "checkpoint"
        if last["step"] not in self.ends:
            return "training"
        if not any(e["event"] == "epoch" and e["step"] == last["step"] for e in past):
            return "validation"
        if last["step"] != self.ends[-1]:
            return "training"
        scores = self.run / "metrics.json"
        scored = json.loads(scores.read_text()) if scores.exists() else {}
        return "test scores" if "val" in scored else "val scores"


def draw(engine: str, folder: Path, options: argparse.Namespace) -> None:
    command = [engine, "draw", options.set, "--out", str(folder)]
    command += ["--train", str(options.images), "--val", str(options.images // 2)]
    subprocess.run(command, check=True, capture_output=True)
    shutil.copytree(folder / "val", folder / "test")


def command_line(options: argparse.Namespace, data: Path, run: Path) -> List[str]:
    ranks = "--gpus" if options.device == "cuda" else "--ranks"
    return [
        options.engine, "train", "--data", str(data), "--out", str(run), "--resume", "auto",
        "--model", options.model, "--epochs", str(options.epochs), "--batch-size", "8",
        "--checkpoint-every", "4", "--log-every", "1", "--deterministic",
        "--device", options.device, ranks, str(options.ranks), "--threads", str(options.ranks),
        "--precision", options.precision, "--cache", options.cache,
        "--cache-dir", str(cache_of(run)), *options.flags,
    ]  # fmt: skip


def cache_of(run: Path) -> Path:
    return run.with_name(run.name + ".cache")


def events(run: Path) -> List[Dict[str, object]]:
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [json.loads(line) for line in lines]


def figures(run: Path) -> List[List[str]]:
    """results.csv without what a clock measured."""
    with open(run / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name == "epoch" or name.split("/")[0] in
             ("train", "val", "metrics", "lr")]  # fmt: skip
    return [[row[name] for name in names] for row in rows]


def outcome(run: Path) -> Dict[str, object]:
    states = {e["step"]: e["state_sha256"] for e in events(run) if e["event"] == "checkpoint"}
    digest = {
        name: hashlib.sha256((run / "weights" / f"{name}.safetensors").read_bytes()).hexdigest()
        for name in ("best", "last")
    }
    scores = json.loads((run / "metrics.json").read_text())
    return {"state": states[max(states)], **digest, "results": figures(run), "scores": scores}


def watch(command: List[str], run: Path, ends: List[int]) -> List[Span]:
    """Runs undisturbed."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = Progress(run, cache_of(run), ends)
    spans: List[Span] = []
    phase, since = "start", time.monotonic()
    while process.poll() is None:
        now, at = progress.phase(), time.monotonic()
        if now != phase:
            spans.append(Span(phase, at - since, sum(s.phase == phase for s in spans)))
            phase, since = now, at
    spans.append(Span(phase, time.monotonic() - since, sum(s.phase == phase for s in spans)))
    if process.returncode != 0:
        sys.exit(f"calm run: ended with {process.returncode}")
    return spans


def seconds_of(spans: List[Span], phase: str) -> List[float]:
    return [span.seconds for span in spans if span.phase == phase]


def wait_for(span: Span, progress: Progress, process: subprocess.Popen) -> None:
    entered, phase = -1, ""
    while process.poll() is None:
        now = progress.phase()
        if now == span.phase and now != phase:
            entered += 1
            if entered == span.before:
                return
        phase = now


def interrupt(command: List[str], progress: Progress, how: str, span: Span,
              draws: random.Random) -> Optional[Tuple[str, int]]:  # fmt: skip
    """The phase it was in and the exit code; nothing if the run was over before the moment came."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(span, progress, process)
    end = time.monotonic() + draws.uniform(0, 0.8 * span.seconds)
    while time.monotonic() < end and process.poll() is None:
        time.sleep(0.0005)
    phase = progress.phase()
    if process.poll() is not None:
        return None
    process.send_signal(getattr(signal, how.split()[0]))
    if how.endswith("twice"):
        time.sleep(draws.uniform(0, 0.02))
        process.send_signal(signal.SIGINT)
    code = process.wait()
    return (progress.phase() if how == "SIGKILL" else phase), code


def expected(how: str, phase: str) -> List[int]:
    number = getattr(signal, how.split()[0])
    if how == "SIGKILL":
        return [-number]
    codes = [SAVED]
    if how == "SIGINT twice":
        codes.append(ABORTED)
    if phase == "start":
        codes.append(-number)  # the handlers are not there yet
    if phase == "test scores":
        codes.append(0)  # nothing was left to do
    return codes


def finish(command: List[str], label: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{label}: resuming ended with {done.returncode}:\n{done.stderr}")


def add_run(parser: argparse.ArgumentParser) -> None:
    """The flags that say which run is killed."""
    parser.add_argument("--engine", required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model", default="mnist_cnn")
    parser.add_argument("--set", default="digits", help="of engine draw")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--ranks", type=int, default=1, help="on a GPU each")
    parser.add_argument("--cache", default="disk")
    parser.add_argument("flags", nargs="*", help="further flags of engine train, after --")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_run(parser)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--images", type=int, default=8, help="of each of ten classes")
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    draws = random.Random(options.seed)
    hits: Dict[str, collections.Counter] = {how: collections.Counter() for how in SIGNALS}
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        data, calm_run = Path(folder) / "set", Path(folder) / "calm"
        draw(options.engine, data, options)
        steps = -(-10 * options.images // (8 * options.ranks))
        ends = [steps * (epoch + 1) for epoch in range(options.epochs)]
        spans = watch(command_line(options, data, calm_run), calm_run, ends)
        calm = outcome(calm_run)
        seen = [phase for phase in PHASES if any(s.phase == phase for s in spans)]
        print(f"calm run: {sum(s.seconds for s in spans):.2f} s, state {calm['state'][:16]}; "
              + ", ".join(f"{p} {sum(seconds_of(spans, p)):.3f} s" for p in seen))  # fmt: skip
        for trial in range(options.trials):
            run = Path(folder) / f"run{trial}"
            command = command_line(options, data, run)
            places = []
            last = trial == options.trials - 1
            for attempt in range(8) if last else [trial]:
                how, phase = SIGNALS[attempt % len(SIGNALS)], seen[trial % len(seen)]
                span = draws.choices([s for s in spans if s.phase == phase],
                                     seconds_of(spans, phase))[0]  # fmt: skip
                if last:
                    span = Span("start", 0.4 * sum(s.seconds for s in spans), 0)
                hit = interrupt(command, Progress(run, cache_of(run), ends), how, span, draws)
                if hit is None:
                    continue
                phase, code = hit
                hits[how][phase] += 1
                places.append(f"{how} in {phase} -> {code}")
                if code not in expected(how, phase):
                    bad += 1
                    places.append("wrong exit code")
            finish(command, f"trial {trial}")
            ours = outcome(run)
            wrong = [name for name in calm if calm[name] != ours[name]]
            bad += bool(wrong)
            verdict = f"differs in {', '.join(wrong)}" if wrong else "equal"
            print(f"trial {trial}: {'; '.join(places) or 'over before the signal'}: {verdict}",
                  flush=True)  # fmt: skip
            shutil.rmtree(run)
            shutil.rmtree(cache_of(run), ignore_errors=True)
    print(f"{'':12}" + "".join(f"{phase:>12}" for phase in PHASES))
    for how in SIGNALS:
        print(f"{how:12}" + "".join(f"{hits[how][phase]:12}" for phase in PHASES))
    killed = sum(sum(counts.values()) for counts in hits.values())
    print(f"{killed} interruptions in {options.trials} trials, {bad} failures")
    sys.exit(1 if bad or not killed else 0)


if __name__ == "__main__":
    main()
