#!/usr/bin/env python3
"""Measures the seconds from the start of a process to a validation top-1 with the weights on disk:
engine train and PyTorch, eager and compiled, one after the other on one machine, from the same
image files.

The recipe is that of finetune_torch.py; PyTorch reads the files by DataLoader workers. The clock
runs outside and includes imports, compilation, decoding and validation. The script prints one JSON
object per run and keeps the output of the runs in --out.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, List, Tuple

HERE = Path(__file__).resolve().parent


def torch_command(options: argparse.Namespace, seed: int, compiled: bool) -> List[str]:
    command = [sys.executable, str(HERE / "finetune_torch.py"), "--images", "files"]
    command += ["--data", str(options.data), "--weights", str(options.weights)]
    command += ["--lr", str(options.lr), "--epochs", str(options.epochs), "--seeds", str(seed)]
    command += ["--batch-size", str(options.batch_size), "--workers", str(options.workers)]
    command += ["--target", str(options.target), "--save", str(options.out / "torch.pth")]
    command += ["--device", options.device]
    return command + (["--compile"] if compiled else [])


def engine_command(options: argparse.Namespace, seed: int, run: Path) -> List[str]:
    command = [str(options.engine), "train", "--model", "efficientnet_b3", "--out", str(run)]
    command += ["--data", str(options.data), "--weights", str(options.weights)]
    command += ["--lr", str(options.lr), "--epochs", str(options.epochs), "--seed", str(seed)]
    command += ["--batch-size", str(options.batch_size), "--device", options.device]
    return command + ["--resize", "256", "--interpolation", "bilinear", "--crop", "224"]


def torch_epochs(log: Path) -> Iterator[Tuple[int, float]]:
    for line in log.read_text().splitlines():
        if line.startswith("{"):
            record = json.loads(line)
            if "epoch" in record:
                yield record["epoch"], record["top1"]


def engine_epochs(run: Path) -> Iterator[Tuple[int, float]]:
    """The epochs whose weights are on disk, which an event tells."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []  # the last may be half there
    records = [json.loads(line) for line in lines]
    saved = max((r["epoch"] for r in records if r["event"] == "weights"), default=0)
    for record in records:
        if record["event"] == "epoch" and record["epoch"] <= saved:
            yield record["epoch"], record["top1"]


def measure(name: str, command: List[str], epochs, options: argparse.Namespace, seed: int) -> dict:
    log = options.out / f"{name}_{seed}.log"
    start = time.perf_counter()
    first = reached = None
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while reached is None:
            ended = process.poll() is not None
            for epoch, top1 in epochs(log):
                first = first or time.perf_counter() - start
                if top1 >= options.target and reached is None:
                    reached = (time.perf_counter() - start, epoch, top1)
            if ended:
                break
            time.sleep(0.02)
        process.terminate()
        process.wait()
    seconds, epoch, top1 = reached or (None, None, None)
    record = {"system": name, "seed": seed, "first_epoch_seconds": first, "seconds": seconds}
    return {**record, "epoch": epoch, "top1": top1}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time to accuracy, ours and PyTorch's.")
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--target", type=float, default=0.68)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--systems", nargs="+", default=["engine", "eager", "compile"])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    for seed in options.seeds:
        for name in options.systems:
            run = options.out / f"run_{seed}"
            if name == "engine":
                command, epochs = engine_command(options, seed, run), lambda _: engine_epochs(run)
            else:
                command, epochs = torch_command(options, seed, name == "compile"), torch_epochs
            print(json.dumps(measure(name, command, epochs, options, seed)), flush=True)


if __name__ == "__main__":
    main()
