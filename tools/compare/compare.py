#!/usr/bin/env python3
"""Times the engine and PyTorch on the same machine, in one go, and writes one table.

    compare.py --engine build/release/bin/engine --model efficientnet_b3 densenet121 \\
        --batch-size 64 128 --precision fp16 --mode channels_last compile --out results/h200

writes results/h200.md (the table) and results/h200.json (every record of both, samples included).
For each configuration the engine runs first; PyTorch then trains the same model with the number of
classes and the image size that the engine reports. `ratio` is img/s over the best PyTorch line of
the same model, batch and precision. Peak memory is that of PyTorch's allocator (what it reserved is
in brackets) and the engine's `memory_mib`. With --gpus N the batch is per GPU and PyTorch runs
DistributedDataParallel.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Dict, List

BENCH_TORCH = Path(__file__).with_name("bench_torch.py")
Record = Dict[str, object]


def json_lines(command: List[str]) -> List[Record]:
    """The JSON objects that a command prints; what it says on stderr passes through."""
    print("$", " ".join(command), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return records or [{"error": f"exit code {done.returncode}"}]


def step_flags(options: argparse.Namespace, model: str, size: int, precision: str) -> List[str]:
    """The flags that `engine bench step` and bench_torch.py have in common."""
    flags = ["--model", model, "--batch-size", str(size), "--precision", precision]
    flags += ["--device", options.device, "--threads", str(options.threads)]
    return flags + ["--steps", str(options.steps), "--warmup", str(options.warmup)]


def run_engine(options: argparse.Namespace, flags: List[str]) -> Record:
    several = ["--gpus", str(options.gpus)] if options.gpus > 1 else []
    record = json_lines([str(options.engine), "bench", "step", *flags, *several, "--json"])[0]
    return {"system": "engine", "mode": "engine", **record}


def run_torch(options: argparse.Namespace, flags: List[str], ours: Record) -> List[Record]:
    launcher = [options.python]
    if options.gpus > 1:
        launcher += ["-m", "torch.distributed.run", "--nproc_per_node", str(options.gpus)]
    command = [*launcher, str(BENCH_TORCH), *flags, "--mode", *options.mode]
    command += ["--ddp"] if options.gpus > 1 else []
    command += ["--image-size", str(ours.get("image_size", 224))]
    return json_lines([*command, "--classes", str(ours.get("classes", 1000))])


def memory(record: Record) -> str:
    if not record.get("memory_mib"):
        return "-"
    reserved = record.get("memory_reserved_mib")
    return f"{record['memory_mib']:.0f}" + (f" ({reserved:.0f})" if reserved else "")


def table_rows(records: List[Record]) -> List[List[str]]:
    """The rows of one model, batch size and precision."""
    rates = [
        r["images_per_second"] for r in records if r["system"] != "engine" and "error" not in r
    ]
    rows = []
    for record in records:
        system = (
            "engine" if record["system"] == "engine" else f"{record['system']} {record['mode']}"
        )
        row = [str(record[key]) for key in ("model", "batch_size", "precision")] + [system]
        if "error" in record:
            rows.append(row + [f"failed: {record['error']}", "", "", "", ""])
            continue
        rate, spread = record["images_per_second"], [record["ms_p10"], record["ms_p90"]]
        rows.append(
            row
            + [f"{record['ms_median']:.2f}", "–".join(f"{ms:.2f}" for ms in spread)]
            + [f"{rate:.1f}" if rate < 100 else f"{rate:,.0f}", memory(record)]
            + [f"{rate / max(rates):.2f}" if rates else "-"]
        )
    return rows


def table(head: List[str], rows: List[List[str]]) -> str:
    """As Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def markdown(rows: List[List[str]], title: str) -> str:
    head = [
        "model",
        "batch",
        "precision",
        "system",
        "ms/step",
        "p10–p90",
        "img/s",
        "peak MiB",
        "ratio",
    ]
    return f"{title}\n\n{table(head, rows)}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Engine beside PyTorch: one table, one JSON file.")
    parser.add_argument("--engine", type=Path, required=True, help="the engine's binary")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--model", nargs="+", default=["efficientnet_b3", "densenet121"])
    parser.add_argument("--batch-size", nargs="+", type=int, default=[128])
    parser.add_argument("--precision", nargs="+", default=["fp16"])
    parser.add_argument("--mode", nargs="+", default=["channels_last"], help="see bench_torch.py")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--out", type=Path, required=True, help="path without .md and .json")
    options = parser.parse_args()

    rows: List[List[str]] = []
    every: List[Record] = []
    for model, size, precision in itertools.product(
        options.model, options.batch_size, options.precision
    ):
        flags = step_flags(options, model, size, precision)
        ours = run_engine(options, flags)
        records = [ours, *run_torch(options, flags, ours)]
        asked = {"model": model, "batch_size": size, "precision": precision}
        records = [{"system": "pytorch", "mode": "", **record, **asked} for record in records]
        every += records
        rows += table_rows(records)

    theirs = next((record for record in every if "versions" in record), {})
    versions = ", ".join(
        f"{key} {value}" for key, value in dict(theirs.get("versions", {})).items()
    )
    title = f"{theirs.get('hardware', options.device)}; {versions}; {' '.join(sys.argv[1:])}"
    text = markdown(rows, title)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_name(options.out.name + ".md").write_text(text)
    options.out.with_name(options.out.name + ".json").write_text(json.dumps(every, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
