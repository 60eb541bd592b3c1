#!/usr/bin/env python3
"""The first losses of a training on real images, with two convolution implementations.

The distance between PyTorch's two curves is the yardstick for ours: rounding alone moves losses
apart from the second step on. Training is in fp32 without TF32, with Adam and the mean cross
entropy, without dropout and stochastic depth. The images are the first of every class, then every
second, ...; batch k holds images k B .. (k + 1) B - 1, from the start again when they run out.
Labels are folder numbers; if the checkpoint has more classes the others stay unused.

--out FILE.json:  {"model", "weights", "classes", "batch_size", "steps", "lr", "resize", "crop",
    "torch", "device", "files": [..], "labels": [..], "implementations": [a, b],
    "losses": {a: [..], b: [..]}, "spread": [|a - b| / |a| ..]}
--reference FILE.safetensors, for `engine parity`: metadata form "curve", model, classes,
    batch_size, steps, lr, mean, std; image_u8 U8 (files, H, W, C), labels I64 (files),
    state/<name> F32 (the checkpoint), losses F64 (2, steps): one row for each implementation.
"""

import argparse
import contextlib
import json
from pathlib import Path
from typing import Callable, ContextManager, Dict, List

import numpy as np
import torch
from torch.nn import functional

import golden
import images
import models
import tensorfile

Flags = Callable[[], ContextManager]
# name: (the context in which its steps run, memory format)
IMPLEMENTATIONS: Dict[str, tuple] = {
    "mkldnn": (contextlib.nullcontext, torch.contiguous_format),
    "native": (lambda: torch.backends.mkldnn.flags(enabled=False), torch.contiguous_format),
    "cudnn": (contextlib.nullcontext, torch.contiguous_format),
    "cudnn_channels_last": (contextlib.nullcontext, torch.channels_last),
    "mkldnn_channels_last": (contextlib.nullcontext, torch.channels_last),
}
PAIRS = {"cpu": ["mkldnn", "mkldnn_channels_last"], "cuda": ["cudnn", "cudnn_channels_last"]}


def losses(
    options: argparse.Namespace, implementation: str, x: np.ndarray, labels: np.ndarray
) -> List[float]:
    """The loss of every step, before its update."""
    flags, layout = IMPLEMENTATIONS[implementation]
    model = models.build(options.model, options.classes, regularize=False)
    models.load_weights(model, options.weights)
    model.to(options.device, memory_format=layout).train()
    optimizer = torch.optim.Adam(model.parameters(), options.lr)
    curve = []
    for step in range(options.steps):
        batch = np.arange(step * options.batch_size, (step + 1) * options.batch_size) % len(labels)
        inputs = torch.from_numpy(x[batch]).to(options.device).contiguous(memory_format=layout)
        targets = torch.from_numpy(labels[batch]).to(options.device)
        with flags():
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
        curve.append(float(loss))
        print(f"{implementation} step {step + 1}: {curve[-1]:.9f}", flush=True)
    return curve


def main() -> None:
    parser = argparse.ArgumentParser(description="Loss curves of two convolution implementations.")
    parser.add_argument("--model", default="efficientnet_b3", choices=models.IMAGE_SIZES)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resize", default="224x224")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--device", default="cpu", help="cpu | cuda")
    parser.add_argument("--implementations", nargs=2, choices=IMPLEMENTATIONS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--reference", type=Path)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    options.classes = models.head_classes(options.weights)
    files, all_labels = images.round_robin(*images.list_images(options.images)[:2])
    count = min(len(files), options.steps * options.batch_size)
    pixels = [images.load_image(file, options.resize, options.crop) for file in files[:count]]
    labels = np.array(all_labels[:count], np.int64)
    x = images.normalize(np.stack(pixels))

    names = options.implementations or PAIRS[options.device.split(":")[0]]
    curves = {name: losses(options, name, x, labels) for name in names}
    a, b = (np.array(curves[name]) for name in names)
    record = {
        **{key: getattr(options, key) for key in ("model", "weights", "classes", "batch_size")},
        **{key: getattr(options, key) for key in ("steps", "lr", "resize", "crop", "device")},
        "torch": torch.__version__,
        "files": [str(file.relative_to(options.images)) for file in files[:count]],
        "labels": labels.tolist(),
        "implementations": names,
        "losses": curves,
        "spread": (np.abs(a - b) / np.abs(a)).tolist(),
    }
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    if options.reference:
        model = models.build(options.model, options.classes)
        models.load_weights(model, options.weights)
        tensors = {"image_u8": np.stack(pixels), "labels": labels, "losses": np.stack([a, b])}
        tensors.update({f"state/{k}": v for k, v in golden.float_state(model).items()})
        metadata = {
            **{key: str(record[key]) for key in ("model", "classes", "batch_size", "steps", "lr")},
            "form": "curve",
            "mean": ",".join(map(str, models.IMAGENET_MEAN)),
            "std": ",".join(map(str, models.IMAGENET_STD)),
        }
        tensorfile.save(options.reference, tensors, metadata)


if __name__ == "__main__":
    main()
