#!/usr/bin/env python3
"""Times PyTorch's training step: forward, backward and Adam, on synthetic data on the device.

    bench_torch.py --model efficientnet_b3 --batch-size 128 --precision fp16 --mode channels_last
    torchrun --nproc_per_node 2 bench_torch.py --ddp ...

Modes
    eager            NCHW
    channels_last    NHWC
    compile          NHWC, torch.compile(mode="reduce-overhead"): Inductor and CUDA graphs
    max-autotune     NHWC, torch.compile(mode="max-autotune"): as compile, with tuned kernels
    graph            NHWC, eager kernels, the whole step captured in one CUDA graph
Precisions: fp32 (no TF32 anywhere), tf32, fp16 (autocast, GradScaler), bf16 (autocast).
Dropout and stochastic depth are on, as in training. cudnn.benchmark is on (--no-cudnn-benchmark).

Prints one JSON object per configuration: {"system": "pytorch", "hardware", "model", "batch_size",
"precision", "mode", "device", "image_size", "classes", "ranks", "steps", "warmup", "ms_median",
"ms_p10", "ms_p90", "images_per_second", "memory_mib" (peak allocated), "memory_reserved_mib",
"warmup_s", "samples_ms", "versions", "flags"}. Under DDP times are those of rank 0 and
images_per_second counts all ranks. A configuration that fails gives {..., "error"}.
"""

import argparse
import contextlib
import gc
import itertools
import json
import os
import platform
import sys
import time
from typing import Callable, Dict, List

import torch
import torchvision
from torch import nn
from torch.nn import functional

import models

MODES = ("eager", "channels_last", "compile", "max-autotune", "graph")
COMPILE_MODES = {"compile": "reduce-overhead", "max-autotune": "max-autotune"}
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
MIB = 2.0**20


def set_precision(precision: str) -> None:
    """Sets strict fp32, also for what half precisions leave in it, unless tf32 was asked for."""
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


class Trainer:
    """One model, its optimizer and one resident batch, on which `step()` trains once."""

    def __init__(self, options: argparse.Namespace, size: int, mode: str, precision: str):
        self.device = (
            torch.device(options.device, options.rank) if options.cuda else torch.device("cpu")
        )
        layout = torch.contiguous_format if mode == "eager" else torch.channels_last
        self.model = models.build(options.model_name, options.classes).to(
            self.device, memory_format=layout
        )
        self.forward: Callable = self.model
        if options.ddp:
            ids = [options.rank] if options.cuda else None
            self.forward = nn.parallel.DistributedDataParallel(
                self.model, device_ids=ids, gradient_as_bucket_view=True
            )
        if mode in COMPILE_MODES:
            self.forward = torch.compile(self.forward, mode=COMPILE_MODES[mode])
        fast = {"fused": True, "capturable": mode == "graph"} if options.cuda else {}
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, **fast)
        self.half = AUTOCAST.get(precision)
        self.scaler = models.GradScaler(enabled=precision == "fp16" and options.cuda)
        channels = models.input_channels(options.model_name)
        shape = (size, channels, options.image_size, options.image_size)
        self.images = torch.randn(shape, device=self.device).contiguous(memory_format=layout)
        self.labels = torch.randint(options.classes, (size,), device=self.device)

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        half = self.half
        with torch.autocast(self.device.type, dtype=half or torch.bfloat16, enabled=bool(half)):
            loss = functional.cross_entropy(self.forward(self.images), self.labels)
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()


def captured(trainer: Trainer, warmup: int) -> Callable[[], None]:
    """The trainer's step as one CUDA graph, recorded after a warm-up on a side stream."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warmup):
            trainer.step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        trainer.step()
    return graph.replay


def time_steps_cuda(step: Callable[[], None], count: int) -> List[float]:
    """Milliseconds between events after successive steps, with no synchronisation between them."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        step()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) for a, b in zip(events[:-1], events[1:])]


def time_steps_cpu(step: Callable[[], None], count: int) -> List[float]:
    times = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def quantile(times: List[float], fraction: float) -> float:
    ordered = sorted(times)
    return ordered[round(fraction * (len(ordered) - 1))]


def hardware(options: argparse.Namespace) -> str:
    if options.cuda:
        return torch.cuda.get_device_name(options.rank)
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith("model name"):
                return f"{line.split(':', 1)[1].strip()}, {options.threads} threads"
    return f"{platform.processor()}, {options.threads} threads"


def versions() -> Dict[str, str]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }


def measure(options: argparse.Namespace, size: int, precision: str, mode: str) -> Dict[str, object]:
    """Runs a warm-up, then `steps` timed steps; the peak of memory covers both."""
    set_precision(precision)
    begin = time.perf_counter()
    trainer = Trainer(options, size, mode, precision)
    if options.cuda:
        torch.cuda.reset_peak_memory_stats()
    step = captured(trainer, options.warmup) if mode == "graph" else trainer.step
    for _ in range(options.warmup):
        step()
    if options.cuda:
        torch.cuda.synchronize()
    warmup_s = time.perf_counter() - begin
    times = (time_steps_cuda if options.cuda else time_steps_cpu)(step, options.steps)
    median = quantile(times, 0.5)
    result = {
        "ms_median": median,
        "ms_p10": quantile(times, 0.1),
        "ms_p90": quantile(times, 0.9),
        "images_per_second": size * options.ranks / median * 1e3,
        "warmup_s": warmup_s,
        "samples_ms": times,
    }
    if options.cuda:
        result["memory_mib"] = torch.cuda.max_memory_allocated() / MIB
        result["memory_reserved_mib"] = torch.cuda.max_memory_reserved() / MIB
    return result


def run(options: argparse.Namespace, size: int, precision: str, mode: str) -> Dict[str, object]:
    """Calls measure(); a failure, such as a lack of memory, becomes the result."""
    record: Dict[str, object] = {
        "system": "pytorch" + (" ddp" if options.ddp else ""),
        "hardware": hardware(options),
        "model": options.model_name,
        "batch_size": size,
        "precision": precision,
        "mode": mode,
        **{key: getattr(options, key) for key in ("device", "image_size", "classes", "ranks")},
        **{key: getattr(options, key) for key in ("steps", "warmup", "threads")},
        "versions": versions(),
        "flags": {"cudnn_benchmark": torch.backends.cudnn.benchmark, "fused_adam": options.cuda},
    }
    try:
        record.update(measure(options, size, precision, mode))
    except RuntimeError as error:
        record["error"] = str(error).strip().split("\n")[0]
    if mode in COMPILE_MODES:
        torch._dynamo.reset()
    gc.collect()
    if options.cuda:
        torch.cuda.empty_cache()
    return record


def start_ddp(options: argparse.Namespace) -> None:
    options.rank, options.ranks = 0, 1
    if options.ddp:
        torch.distributed.init_process_group("nccl" if options.cuda else "gloo")
        options.rank = int(os.environ["LOCAL_RANK"])
        options.ranks = torch.distributed.get_world_size()
    if options.cuda:
        torch.cuda.set_device(options.rank)


def main() -> None:
    parser = argparse.ArgumentParser(description="Step times of the PyTorch twins, as JSON lines.")
    parser.add_argument(
        "--model", nargs="+", default=["efficientnet_b3"], choices=models.IMAGE_SIZES
    )
    parser.add_argument("--batch-size", nargs="+", type=int, default=[128])
    parser.add_argument(
        "--precision", nargs="+", default=["fp16"], choices=("fp32", "tf32", "fp16", "bf16")
    )
    parser.add_argument("--mode", nargs="+", default=["channels_last"], choices=MODES)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of CPU operators")
    parser.add_argument("--no-cudnn-benchmark", action="store_true")
    parser.add_argument("--ddp", action="store_true", help="under torchrun, one process per GPU")
    options = parser.parse_args()
    options.cuda = options.device == "cuda"
    torch.set_num_threads(options.threads)
    torch.backends.cudnn.benchmark = not options.no_cudnn_benchmark
    start_ddp(options)

    every = itertools.product(options.model, options.batch_size, options.precision, options.mode)
    for options.model_name, size, precision, mode in every:
        record = run(options, size, precision, mode)
        if options.rank == 0:
            print(json.dumps(record), flush=True)
            outcome = record.get("error") or f"{record['images_per_second']:.1f} img/s"
            print(f"{options.model_name} {size} {precision} {mode}: {outcome}", file=sys.stderr)
    if options.ddp:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
