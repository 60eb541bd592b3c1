#!/usr/bin/env python3
"""Trains for a long time under random kills and checks that it ends as the undisturbed run did.

An undisturbed run of about --minutes goes on beside the same run that gets a signal at a random
moment, about every --every seconds, and is resumed with --resume auto until it is done. At the end
the SHA-256 of the last state, the weight files, the figures of results.csv and the scores must be
the calm run's. Memory and open files of the processes are told at the end. It is no part of CTest;
only Python is needed. The flags of the training itself are those of kill_test.py.
"""

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from concurrent import futures
from pathlib import Path
from typing import Counter, List

import kill_test

SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGUSR1", "SIGINT", "SIGINT twice")


class Peak:
    """The most memory and files that processes had; `kib` and `files` of one moment each."""

    def __init__(self) -> None:
        self.kib = self.files = 0

    def look(self, pid: int) -> None:
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            resident = [int(line.split()[1]) for line in lines if line.startswith("VmRSS")]
            self.kib = max([self.kib, *resident])
            self.files = max(self.files, len(os.listdir(f"/proc/{pid}/fd")))
        except OSError:  # it has ended
            return

    def __str__(self) -> str:
        return f"at most {self.kib / 1024:.0f} MiB and {self.files} open files"


def start(command: List[str], log: Path) -> subprocess.Popen:
    with open(log, "ab") as file:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)


def wait(process: subprocess.Popen, seconds: float, peak: Peak) -> bool:
    """Whether it has ended by then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            return True
        peak.look(process.pid)
        time.sleep(min(0.25, max(0.0, end - time.monotonic())))
    return process.poll() is not None


def disturb(process: subprocess.Popen, how: str, draws: random.Random) -> int:
    process.send_signal(getattr(signal, how.split()[0]))
    if how.endswith("twice"):
        time.sleep(draws.uniform(0, 0.02))
        process.send_signal(signal.SIGINT)
    return process.wait()


def soak(command: List[str], log: Path, options: argparse.Namespace) -> Counter:
    """Until the run is done; how often each signal ended it."""
    began = time.monotonic()
    draws = random.Random(options.seed)
    ends: Counter = collections.Counter()
    peak = Peak()
    while True:
        process = start(command, log)
        if wait(process, draws.uniform(0, 2 * options.every), peak):
            if process.returncode != 0:
                sys.exit(f"ended by itself with {process.returncode}: see the end of {log}:\n"
                         + log.read_text()[-2000:])  # fmt: skip
            print(f"under kills: {time.monotonic() - began:.0f} s, {peak}", flush=True)
            return ends
        how = draws.choice(SIGNALS)
        code = disturb(process, how, draws)
        if code not in [*kill_test.expected(how, "start"), 0]:
            sys.exit(f"{how} ended it with {code}:\n{log.read_text()[-2000:]}")
        ends[how] += 1


def calm(process: subprocess.Popen, log: Path) -> float:
    """Its seconds."""
    began, peak = time.monotonic(), Peak()
    while not wait(process, 3600, peak):
        pass
    if process.returncode != 0:
        sys.exit(f"calm run: ended with {process.returncode}:\n{log.read_text()[-2000:]}")
    print(f"calm run: {time.monotonic() - began:.0f} s, {peak}", flush=True)
    return time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kill_test.add_run(parser)
    parser.add_argument("--minutes", type=float, default=60, help="of the undisturbed run")
    parser.add_argument("--every", type=float, default=60, help="seconds between kills, on average")
    parser.add_argument("--images", type=int, default=40, help="of each of ten classes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        log, calm_log = folder / "log", folder / "calm.log"
        kill_test.draw(options.engine, folder / "set", options)
        options.epochs = 8  # to know how long one takes
        trial = kill_test.command_line(options, folder / "set", folder / "trial")
        options.epochs = max(1, round(
            60 * options.minutes / (calm(start(trial, calm_log), calm_log) / options.epochs)))
        runs = {run: folder / run for run in ("calm", "soaked")}
        commands = {run: kill_test.command_line(options, folder / "set", path)
                    for run, path in runs.items()}  # fmt: skip
        undisturbed = start(commands["calm"], calm_log)
        with futures.ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(calm, undisturbed, calm_log)
            try:
                ends = soak(commands["soaked"], log, options)
                waiting.result()
            finally:
                undisturbed.kill()
        ours, theirs = kill_test.outcome(runs["soaked"]), kill_test.outcome(runs["calm"])
        wrong = [part for part in theirs if ours[part] != theirs[part]]
        print(f"{options.epochs} epochs, {sum(ends.values())} kills: "
              + ", ".join(f"{how} {count}" for how, count in sorted(ends.items())))  # fmt: skip
        print(f"state {str(ours['state'])[:16]}: "
              + (f"differs in {', '.join(wrong)}" if wrong else "equal in everything"))  # fmt: skip
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
