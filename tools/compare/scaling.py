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
from typing import Dict, List, Optional

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


def table(head: List[str], rows: List[List[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


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
                kept = self.out(f"ddp_{count}_{model}.jsonl")
                if not kept.exists():
                    self.ddp_once(model, count, kept)

    def ddp_once(self, model: str, count: int, kept: Path) -> None:
        o = self.options
        command = [o.python]
        if count > 1:
            command += ["-m", "torch.distributed.run", "--nproc_per_node", count]
        batches = sorted({o.batch_size, max(1, o.global_batch // count)})
        command += [HERE / "bench_torch.py", "--model", model, "--precision", o.precision]
        command += ["--batch-size", *batches, "--steps", o.steps, "--device", o.device]
        command += self.shape_flags(model)
        command += ["--threads", 1] if self.cpu else []
        command += ["--ddp"] if count > 1 else []
        log = kept.with_suffix(".log")
        if run(command, log) == 0:
            lines = [line for line in log.read_text().splitlines() if line.startswith("{")]
            kept.write_text("".join(line + "\n" for line in lines))

    def shape_flags(self, model: str) -> List[object]:
        """Classes and image size as `engine scale` had them."""
        for name in ("weak", "strong"):
            facts = self.out(name) / "study.json"
            if facts.exists():
                said = json.loads(facts.read_text())["models"].get(model, "")
                found = re.match(r"(\d+) classes, (\d+) px", said)
                if found:
                    return ["--classes", found[1], "--image-size", found[2]]
        return []

    def ddp_rate(self, row: Dict[str, str]) -> str:
        file = self.out(f"ddp_{row['ranks']}_{row['model']}.jsonl")
        for line in file.read_text().splitlines() if file.exists() else []:
            record = json.loads(line)
            if str(record["batch_size"]) == row["batch_per_rank"]:
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

    def train_row(self, name: str, count: int, alone: Optional[float]) -> Optional[List[str]]:
        epochs = rows_of(self.out(name) / "results.csv")
        if not epochs:
            return None
        # The first epoch fills the cache.
        rate = statistics.median(float(e["images_per_second"]) for e in epochs[1:] or epochs)
        of_one = f"{rate / (count * alone):.1%}" if alone else "100%"
        top1, auc = (
            float(epochs[-1][key]) for key in ("metrics/accuracy_top1", "metrics/auc_macro")
        )
        return [name, str(count), f"{rate:,.0f}", of_one, f"{top1:.4f}", f"{auc:.4f}"]

    # ---- failures

    def failures(self) -> None:
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

    def report(self) -> str:
        text = f"`{' '.join(sys.argv)}`\n"
        names = ["weak", "strong"] + sorted(p.parent.name for p in self.out("").glob("R*/runs.csv"))
        for name in names:
            rows = rows_of(self.out(name) / "summary.csv")
            if not rows:
                continue
            head = ["model", "precision", "batch of a rank", "ranks", "img/s", "efficiency"]
            lines = [
                [row["model"], row["precision"], row["batch_per_rank"], row["ranks"]]
                + [f"{float(row['images_per_second'] or 0):,.0f}"]
                + [f"{float(row['efficiency'] or 0):.1%}", self.ddp_rate(row)]
                for row in rows
                if row["status"] == "ok" and row["scaling"] != "independent"
            ]
            if name not in ("weak", "strong"):  # published figures stand in its own report
                lines = [line[:-1] for line in lines]
            else:
                head = [*head, "DDP, img/s"]
            text += f"\n{name}\n\n{table(head, lines)}"
        alone = self.train_row("train_1", 1, None)
        if alone:
            rate = float(alone[2].replace(",", ""))
            names = [f"train_{self.most}", f"train_{self.most}_shared"]
            more = [self.train_row(name, self.most, rate) for name in names]
            head = ["training", "ranks", "img/s", "of so many alone", "top-1", "AUC"]
            text += "\n" + table(head, [alone, *(row for row in more if row)])
        if self.out("failures.json").exists():
            rows = json.loads(self.out("failures.json").read_text())
            text += "\n" + table(["failure", "rank", "exit code", "seconds", "said"], rows)
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
