#!/usr/bin/env python3
"""Studies how training scales over the GPUs of one machine, beside PyTorch's
DistributedDataParallel, in one go.

    scaling.py --engine build/release/bin/engine --gpus 1 2 4 --data DIR --weights FILE --out four

Parts, which --parts picks
    presets    `engine scale --preset`: R2 and R5-gpu
    weak       `engine scale`, a batch on each GPU
    strong     `engine scale`, one batch that the GPUs divide
    ddp        DistributedDataParallel with the batches of weak and strong, channels_last
    train      `engine train` from the files of --data on one GPU; on all, with the batch on each;
               and on all with the update of one, by --sync-bn
    failures   one rank's process is killed, and one is stopped: exit code, seconds and words

writes scaling.md (the tables) and, in folders, rows, reports and pictures of each study. What a
part has measured is kept: the same command goes on where it was interrupted. With --device cpu the
numbers are of ranks with one core each, and the preset is R5-cpu.
"""

import argparse
import csv
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, List

from compare import Record, run_torch, table

HERE = Path(__file__).resolve().parent
PARTS = ("presets", "weak", "strong", "ddp", "train", "failures")


def run(command: List[object], log: Path, **more: object) -> int:
    """The exit code; what the command says is shown and kept."""
    words = [str(word) for word in command]
    print("$", " ".join(words), file=sys.stderr, flush=True)
    with log.open("w") as kept:
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
        )
        for line in process.stdout:
            kept.write(line)
            print(line, end="", file=sys.stderr, flush=True)
    return process.wait()


def rows_of(file: Path) -> List[Dict[str, str]]:
    if not file.exists():
        return []
    with file.open(newline="") as text:
        return list(csv.DictReader(text))


def records_of(file: Path) -> List[Record]:
    return json.loads(file.read_text()) if file.exists() else []


class Study:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.most = max(options.gpus)
        self.cpu = options.device == "cpu"

    def out(self, name: str) -> Path:
        return self.options.out / name

    # ---- engine scale

    def scale(self, name: str, *flags: object) -> None:
        folder = self.out(name)
        counts = ",".join(map(str, self.options.gpus))
        command = [self.options.engine, "scale", "--out", folder, *flags]
        command += ["--ranks" if self.cpu else "--gpus", counts, "--steps", self.options.steps]
        command += ["--resume"] if folder.exists() else []
        if run(command, self.out(f"{name}.log")) == 0:
            plots = [sys.executable, HERE.parent / "plots" / "scale.py", folder]
            run(plots, self.out(f"{name}.plots.log"))

    def shared_flags(self) -> List[object]:
        return ["--model", ",".join(self.options.model), "--precision", self.options.precision]

    def presets(self) -> None:
        for preset in ("R5-cpu",) if self.cpu else ("R2", "R5-gpu"):
            # DenseNet121 on cores takes an hour: a preset's models can be narrowed there.
            narrowed = ["--model", ",".join(self.options.model)] if self.cpu else []
            self.scale(preset, "--preset", preset, *narrowed)

    def weak(self) -> None:
        self.scale("weak", *self.shared_flags(), "--batch-size", self.options.batch_size)

    def strong(self) -> None:
        flags = ["--batch-size", self.options.global_batch, "--scaling", "strong"]
        self.scale("strong", *self.shared_flags(), *flags)

    # ---- DistributedDataParallel

    def ddp(self) -> None:
        o = self.options
        for count in o.gpus:
            for model in o.model:
                kept = self.out(f"ddp_{count}_{model}.json")
                done = [record for record in records_of(kept) if "error" not in record]
                if len(done) < len(self.ddp_batches(count)):
                    self.ddp_once(model, count, kept)

    def ddp_batches(self, count: int) -> List[int]:
        """Of a rank, as `engine scale` has them in weak and strong."""
        return sorted({self.options.batch_size, -(-self.options.global_batch // count)})

    def ddp_once(self, model: str, count: int, kept: Path) -> None:
        o = self.options
        flags = ["--model", model, "--batch-size", *map(str, self.ddp_batches(count))]
        flags += ["--precision", o.precision]
        flags += ["--steps", str(o.steps), "--device", o.device]
        flags += ["--threads", "1"] if self.cpu else []
        how = argparse.Namespace(python=o.python, gpus=count, mode=["channels_last"])
        records = run_torch(how, flags, self.shape(model))
        kept.write_text(json.dumps(records, indent=1) + "\n")

    def shape(self, model: str) -> Record:
        """Classes and image size as `engine scale` had them."""
        for name in ("weak", "strong"):
            facts = self.out(name) / "study.json"
            if facts.exists():
                said = json.loads(facts.read_text())["models"].get(model, "")
                found = re.match(r"(\d+) classes, (\d+) px", said)
                if found:
                    return {"classes": found[1], "image_size": found[2]}
        return {}

    def ddp_rate(self, row: Dict[str, str]) -> str:
        records = records_of(self.out(f"ddp_{row['ranks']}_{row['model']}.json"))
        for record in records:
            # One that failed as a whole has no batch.
            if str(record.get("batch_size", row["batch_per_rank"])) == row["batch_per_rank"]:
                return "failed" if "error" in record else f"{record['images_per_second']:,.0f}"
        return "-"

    # ---- training from files

    def train(self) -> None:
        o = self.options
        if not o.data:
            print("train: left out, for --data names no images", file=sys.stderr)
            return
        share = max(1, o.train_batch // self.most)
        self.train_once("train_1", 1, o.train_batch)
        if self.most > 1:
            self.train_once(f"train_{self.most}", self.most, o.train_batch)
            self.train_once(f"train_{self.most}_shared", self.most, share, "--sync-bn")

    def train_once(self, name: str, count: int, batch: int, *flags: str) -> None:
        o = self.options
        command = [o.engine, "train", "--data", o.data, "--model", o.model[0], "--out"]
        command += [self.out(name), "--resume", "auto", "--batch-size", batch, *flags]
        command += ["--epochs", o.epochs, "--lr", o.lr, "--seed", 1, "--device", o.device]
        command += ["--ranks", count, "--threads", count] if self.cpu else ["--gpus", count]
        command += ["--precision", o.precision, *o.train_flags.split()]
        command += ["--weights", o.weights] if o.weights else []
        run(command, self.out(f"{name}.log"))

    def train_rates(self) -> Dict[str, float]:
        """Images per second of an epoch, by run; the first epoch fills the cache."""
        rates = {}
        for name in ("train_1", f"train_{self.most}", f"train_{self.most}_shared"):
            epochs = rows_of(self.out(name) / "results.csv")
            if epochs:
                each = [float(epoch["images_per_second"]) for epoch in epochs]
                rates[name] = statistics.median(each[1:] or each)
        return rates

    def train_row(self, name: str, rate: float, alone: float) -> List[str]:
        last = rows_of(self.out(name) / "results.csv")[-1]
        count = 1 if name == "train_1" else self.most
        keys = ("metrics/accuracy_top1", "metrics/auc_macro")
        figures = [f"{float(last[key]):.4f}" for key in keys]
        return [name, str(count), f"{rate:,.0f}", f"{rate / (count * alone):.1%}", *figures]

    # ---- failures

    def failures(self) -> None:
        if self.out("failures.json").exists():
            return
        digits = self.out("digits")
        if not digits.exists():
            drawn = [self.options.engine, "draw", "digits", "--out", digits]
            run([*drawn, "--train", 400, "--val", 4], self.out("digits.log"))
        rows = []
        for kind in ("kill", "stop"):
            rank = self.most - 1
            command = [self.options.engine, "train", "--data", digits, "--model", "mnist_cnn"]
            command += ["--out", self.out(f"{kind}_{int(time.time())}"), "--batch-size", 4]
            command += ["--epochs", 3, "--checkpoint-every", 2, "--launch", "process"]
            command += ["--collective-timeout", 10, "--device", self.options.device]
            command += ["--ranks" if self.cpu else "--gpus", self.most]
            command += ["--threads", self.most] if self.cpu else []
            fault = {"ENGINE_TEST_FAULT": f"rank={rank},step=100,kind={kind}"}
            log, began = self.out(f"{kind}.log"), time.monotonic()
            code = run(command, log, env={**os.environ, **fault})
            said = [line.strip() for line in log.read_text().splitlines() if line.strip()]
            seconds = f"{time.monotonic() - began:.0f}"
            story = next((line for line in said if f"rank {rank} (host" in line), said[-1])
            rows.append([kind, str(rank), str(code), seconds, story.replace("|", "/")])
        self.out("failures.json").write_text(json.dumps(rows) + "\n")

    # ---- the tables

    def scale_table(self, name: str) -> str:
        beside = name in ("weak", "strong")  # published figures stand in a preset's own report
        head = ["model", "precision", "batch of a rank", "ranks", "img/s", "efficiency"]
        lines = []
        for row in rows_of(self.out(name) / "summary.csv"):
            if row["status"] != "ok" or row["scaling"] == "independent":
                continue
            line = [row["model"], row["precision"], row["batch_per_rank"], row["ranks"]]
            line += [f"{float(row['images_per_second']):,.0f}", f"{float(row['efficiency']):.1%}"]
            lines.append(line + ([self.ddp_rate(row)] if beside else []))
        return table(head + (["DDP, img/s"] if beside else []), lines)

    def report(self) -> str:
        text = f"`{' '.join(sys.argv)}`\n"
        presets = sorted(file.parent.name for file in self.options.out.glob("R*/summary.csv"))
        for name in ("weak", "strong", *presets):
            if (self.out(name) / "summary.csv").exists():
                text += f"\n{name}\n\n{self.scale_table(name)}"
        rates = self.train_rates()
        if "train_1" in rates:
            head = ["training", "ranks", "img/s", "of so many alone", "top-1", "AUC"]
            rows = [self.train_row(*item, rates["train_1"]) for item in rates.items()]
            text += "\n" + table(head, rows)
        failures = self.out("failures.json")
        if failures.exists():
            head = ["failure", "rank", "exit code", "seconds", "said"]
            text += "\n" + table(head, json.loads(failures.read_text()))
        return text


def main() -> None:
    parser = argparse.ArgumentParser(description="Scaling over the GPUs of one machine, whole.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's binary")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--model", nargs="+", default=["efficientnet_b3", "densenet121"])
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--batch-size", type=int, default=128, help="of a GPU, in weak scaling")
    parser.add_argument("--global-batch", type=int, default=256, help="of all, in strong scaling")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", type=Path, help="images for the part train")
    parser.add_argument("--weights", type=Path, help="to begin the part train with")
    parser.add_argument("--train-batch", type=int, default=64)
    parser.add_argument("--train-flags", default="", help="more flags of engine train, in one word")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    study = Study(options)
    for part in options.parts:
        getattr(study, part)()
        (options.out / "scaling.md").write_text(study.report())
    print(study.report())


if __name__ == "__main__":
    main()
