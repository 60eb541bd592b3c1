#!/usr/bin/env python3
"""Writes reference files for `engine parity`: what PyTorch computes for one training step.

The parameter rule
------------------
Parameters, running statistics and the input are not stored but generated, so that a golden file
stays small and C++ makes the same bits. Element i (flat, in PyTorch's memory order) of tensor
`name` comes from
    u = uniform(philox({seed, epoch 0, position 0, purpose(name)}, i / 4).bits[i % 4])
(kernels/random.h), by the first line that applies, in double and then rounded to float, so that one
state serves every precision:
    the input, name "input", order N, C, H, W       (2u - 1) * 2
    running_mean and bias                           u - 0.5
    running_var, and weights with one dimension     0.5 + u
    weights with more dimensions                    (2u - 1) * sqrt(6 / fan_in)
where fan_in = elements / shape[0] (a depthwise 3x3: 9). num_batches_tracked is 0. The label of
image i of the batch is (7 i + 3) mod classes.

The step
--------
The step is one forward and one backward in training mode, without dropout, stochastic depth and
optimizer; the loss is the mean cross entropy. `after/...` are the running statistics after the
forward. fp16 and bf16 are PyTorch's autocast; the loss is multiplied by `loss_scale` before the
backward, and the gradients are divided by it afterwards.

The file: safetensors
---------------------
Metadata, all strings: form digest | full; model; classes; image_size; batch_size; seed; precision
f64 | f32 | fp16 | bf16; reference_precision; loss_scale; torch; torchvision; recipe; state and
input, each rule | stored; mean and std ("0.485,0.456,0.406") of a stored input.

labels I64 (N), logits F64 (N, classes) and loss F64 (1) are those of the reference precision.
input "rule": see above. "stored": image_u8 U8 (N, H, W, C); the input is (image_u8 / 255 - mean) /
    std in double, rounded to float.
state "rule": see above. "stored": state/<name> F32, every parameter and running statistic before
    the step, in the model's order.
form "digest": digest/grad/<name> and digest/after/<name>, F64 vectors [l2 norm, sum, p0 .. p7,
    samples ..]. p_j = sum_i sign_j(i) x_i, where sign_j(i) is -1 if bit j of word i of the stream
    with purpose(name) xor 0x5eed is set, else +1 (`name` without its prefix; words as in the rule).
    Samples: x at floor(k n / m) for k = 0 .. m - 1, m = min(32, n).
    The root mean square over j of p_j - q_j estimates the l2 distance of two tensors. --verify
    divides it by max(l2 norm, 1e-5 G), G the norm of all gradients together: some exact gradients
    are zero (the bias of a batch norm that only a pointwise convolution and a batch norm follow),
    and what is stored of them is rounding.
form "full": grad/<name> and after/<name> whole: F64 if the reference is f64, else F32.
    A file of precision f32 holds the float64 step as its reference (state and input are floats,
    hence exact in double); one of fp16 or bf16 holds the strict f32 step. How far PyTorch itself
    is from that reference at `precision`: own/grad/<name> and own/logits F64 (3): relative l2
    error, 1 - cosine, absolute l2 error; own/loss F64 (1): its loss.
"""

import argparse
import os
from pathlib import Path
from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

import images
import models
import philox
import tensorfile

SIGNS_PURPOSE = 0x5EED
SAMPLES = 32
ZERO_GRADIENT = 1e-5
AUTOCAST = {"fp16": torch.float16, "bf16": torch.bfloat16}
REFERENCE = {"f64": "f64", "f32": "f64", "fp16": "f32", "bf16": "f32"}

# What is committed under tests/golden/parity: model, classes, image size.
STANDARD = [
    ("mnist_cnn", 10, 28),
    ("efficientnet_b0", 1000, 64),
    ("efficientnet_b3", 35, 64),
    ("efficientnet_b5", 10, 64),
    ("efficientnet_v2_s", 10, 64),
    ("densenet121", 10, 64),
    ("resnet18", 10, 64),
    ("resnet50", 10, 64),
    ("mobilenet_v2", 10, 64),
]

Arrays = Dict[str, np.ndarray]


class Step(NamedTuple):
    """One training step in double (f32 steps are widened)."""

    logits: np.ndarray
    loss: float
    gradients: Arrays
    after: Arrays


def rule_tensor(name: str, shape: Tuple[int, ...], seed: int) -> np.ndarray:
    """The tensor `name` by the parameter rule, float32."""
    count = int(np.prod(shape))
    u = philox.uniform(seed, name, count)
    if name == "input":
        values = (2 * u - 1) * 2
    elif name.endswith(("running_mean", "bias")):
        values = u - 0.5
    elif len(shape) == 1:
        values = 0.5 + u
    else:
        values = (2 * u - 1) * np.sqrt(6 / (count / shape[0]))
    return values.astype(np.float32).reshape(shape)


def set_state_by_rule(model: nn.Module, seed: int) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(rule_tensor(name, tuple(tensor.shape), seed)))


def rule_labels(batch_size: int, classes: int) -> np.ndarray:
    return (7 * np.arange(batch_size, dtype=np.int64) + 3) % classes


def float_state(model: nn.Module, buffers_only: bool = False) -> Arrays:
    """Copies of the floating-point tensors: parameters and running statistics, or these alone."""
    tensors = dict(model.named_buffers()) if buffers_only else model.state_dict()
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
    }


def run_step(
    model: nn.Module,
    state: Arrays,
    batch: Tuple[np.ndarray, np.ndarray],
    precision: str,
    device: str,
    loss_scale: float,
) -> Step:
    """One step from `state`, whatever `model` held before."""
    storage = torch.float64 if precision == "f64" else torch.float32
    model.to(device=device, dtype=storage).train()
    model.load_state_dict(
        {name: torch.from_numpy(value) for name, value in state.items()}, strict=False
    )
    model.zero_grad(set_to_none=True)
    x = torch.from_numpy(batch[0]).to(device=device, dtype=storage)
    labels = torch.from_numpy(batch[1]).to(device)
    half = AUTOCAST.get(precision)
    with torch.autocast(
        device.split(":")[0], dtype=half or torch.bfloat16, enabled=half is not None
    ):
        logits = model(x).to(storage)
    loss = functional.cross_entropy(logits, labels)
    scale = loss_scale if half else 1.0
    (loss * scale).backward()
    gradients = {
        name: parameter.grad.double().cpu().numpy() / scale
        for name, parameter in model.named_parameters()
    }
    after = {
        name: value.astype(np.float64)
        for name, value in float_state(model, buffers_only=True).items()
    }
    return Step(logits.detach().double().cpu().numpy(), float(loss), gradients, after)


def digest(name: str, tensor: np.ndarray, seed: int) -> np.ndarray:
    """See "form digest" above."""
    x = tensor.reshape(-1)
    words = philox.bits(seed, philox.purpose(name) ^ SIGNS_PURPOSE, x.size)
    products = [np.sum(np.where(words >> np.uint32(j) & np.uint32(1), -x, x)) for j in range(8)]
    samples = min(SAMPLES, x.size)
    picks = np.arange(samples) * x.size // samples
    return np.concatenate([[np.sqrt(np.sum(x * x)), np.sum(x)], products, x[picks]])


def distance(ours: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Relative l2 error, 1 - cosine, absolute l2 error."""
    a, b = ours.reshape(-1), exact.reshape(-1)
    error, norms = np.linalg.norm(a - b), (np.linalg.norm(a), np.linalg.norm(b))
    tiny = np.finfo(np.float64).tiny
    cosine = np.dot(a, b) / max(norms[0] * norms[1], tiny)
    return np.array([error / max(norms[1], tiny), 1 - cosine, error])


def reference_tensors(step: Step, labels: np.ndarray) -> Arrays:
    return {"labels": labels, "logits": step.logits, "loss": np.array([step.loss])}


def digest_tensors(step: Step, seed: int) -> Arrays:
    tensors = {
        f"digest/grad/{name}": digest(name, value, seed) for name, value in step.gradients.items()
    }
    tensors.update(
        {f"digest/after/{name}": digest(name, value, seed) for name, value in step.after.items()}
    )
    return tensors


def full_tensors(step: Step, own: Optional[Step], reference_precision: str) -> Arrays:
    kind = np.float64 if reference_precision == "f64" else np.float32
    tensors = {f"grad/{name}": value.astype(kind) for name, value in step.gradients.items()}
    tensors.update({f"after/{name}": value.astype(kind) for name, value in step.after.items()})
    if own:
        tensors.update(
            {
                f"own/grad/{name}": distance(value, step.gradients[name])
                for name, value in own.gradients.items()
            }
        )
        tensors["own/logits"] = distance(own.logits, step.logits)
        tensors["own/loss"] = np.array([own.loss])
    return tensors


def image_batch(options: argparse.Namespace) -> Tuple[np.ndarray, np.ndarray]:
    """(image_u8, labels) of the first images of a folder data set, class by class in turn."""
    files, labels, _ = images.list_images(options.images)
    files, labels = images.round_robin(files, labels)
    count, resize = (
        options.batch_size,
        options.resize or f"{options.image_size}x{options.image_size}",
    )
    pixels = np.stack(
        [
            images.load_image(file, resize, options.image_size, options.interpolation)
            for file in files[:count]
        ]
    )
    return pixels, np.array(labels[:count], np.int64)


def compute(options: argparse.Namespace) -> Tuple[Arrays, Dict[str, str]]:
    """The tensors and metadata of one reference file."""
    classes = options.classes or (models.head_classes(options.weights) if options.weights else 10)
    model = models.build(options.model, classes, regularize=False)
    tensors: Arrays = {}
    if options.weights:
        models.load_weights(model, options.weights)
    else:
        set_state_by_rule(model, options.seed)
    state = float_state(model)
    if options.images:
        pixels, labels = image_batch(options)
        batch = (images.normalize(pixels), labels)
        tensors["image_u8"] = pixels
    else:
        shape = (
            options.batch_size,
            models.input_channels(options.model),
            options.image_size,
            options.image_size,
        )
        batch = (
            rule_tensor("input", shape, options.seed),
            rule_labels(options.batch_size, classes),
        )

    reference_precision = REFERENCE[options.precision]
    exact = run_step(model, state, batch, reference_precision, options.device, options.loss_scale)
    tensors.update(reference_tensors(exact, batch[1]))
    if options.full:
        own = None
        if options.precision != reference_precision:
            own = run_step(
                model, state, batch, options.precision, options.device, options.loss_scale
            )
        if options.weights:
            tensors.update({f"state/{name}": value for name, value in state.items()})
        tensors.update(full_tensors(exact, own, reference_precision))
    else:
        tensors.update(digest_tensors(exact, options.seed))

    metadata = {
        "form": "full" if options.full else "digest",
        "model": options.model,
        "classes": classes,
        "image_size": options.image_size,
        "batch_size": len(batch[1]),
        "seed": options.seed,
        "precision": options.precision,
        "reference_precision": reference_precision,
        "loss_scale": options.loss_scale,
        "state": "stored" if options.weights else "rule",
        "input": "stored" if options.images else "rule",
        "mean": ",".join(map(str, models.IMAGENET_MEAN)),
        "std": ",".join(map(str, models.IMAGENET_STD)),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "recipe": "training mode, dropout and stochastic depth off, mean cross entropy",
    }
    return tensors, {key: str(value) for key, value in metadata.items()}


def job_of(metadata: Dict[str, str]) -> argparse.Namespace:
    """The options that made a digest file."""
    keys = ("model", "classes", "image_size", "batch_size", "seed", "precision")
    return parse([word for key in keys for word in (f"--{key.replace('_', '-')}", metadata[key])])


def verify(path: str) -> bool:
    """Recomputes a digest file with the PyTorch at hand and prints the worst error of each kind."""
    stored, metadata = tensorfile.load(Path(path))
    again, _ = compute(job_of(metadata))
    floor = ZERO_GRADIENT * float(
        np.linalg.norm(
            [value[0] for name, value in stored.items() if name.startswith("digest/grad/")]
        )
    )
    worst: Dict[str, Tuple[float, str]] = {}
    for name, value in stored.items():
        if name.startswith("digest/"):
            error = np.sqrt(np.mean((value[2:10] - again[name][2:10]) ** 2)) / max(value[0], floor)
        else:
            error = distance(again[name].astype(np.float64), value.astype(np.float64))[0]
        kind = name.rsplit("/", 1)[0]
        if not error <= worst.get(kind, (-1.0, ""))[0]:  # NaN is the worst
            worst[kind] = (float(error), name)
    print(f"{path}: stored by torch {metadata['torch']}, recomputed by {torch.__version__}")
    for kind, (error, name) in worst.items():
        print(f"  {kind:14} worst relative error {error:.1e}  {name}")
    return all(error <= 1e-9 for error, _ in worst.values())


def parse(arguments: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Reference files for `engine parity`.",
        epilog="Rules and format: see this file's head.",
    )
    parser.add_argument("--model", default="efficientnet_b3", choices=models.IMAGE_SIZES)
    parser.add_argument("--classes", type=int, default=0, help="default: the checkpoint's, else 10")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--precision", default="f64", choices=REFERENCE)
    parser.add_argument("--loss-scale", type=float, default=1024.0, help="of fp16 and bf16 steps")
    parser.add_argument("--device", default="cpu", help="cpu | cuda")
    parser.add_argument("--full", action="store_true", help="whole gradients instead of digests")
    parser.add_argument("--weights", help="a .pth state dictionary instead of the parameter rule")
    parser.add_argument(
        "--images", help="a folder with one folder per class instead of the rule's input"
    )
    parser.add_argument("--resize", help="N (shorter side) or HxW; default: the crop's size")
    parser.add_argument("--interpolation", default="bilinear", choices=images.FILTERS)
    parser.add_argument("--out", type=Path, help="the file to write")
    parser.add_argument(
        "--standard", type=Path, metavar="DIR", help="write the project's committed files there"
    )
    parser.add_argument(
        "--verify", nargs="+", metavar="FILE", help="recompute digest files and compare"
    )
    return parser.parse_args(arguments)


def main() -> None:
    options = parse()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    if options.verify:
        raise SystemExit(0 if all([verify(path) for path in options.verify]) else 8)
    if (options.weights or options.precision != "f64") and not options.full:
        raise SystemExit("digest files hold a float64 step of the parameter rule: add --full")
    jobs = [(options, options.out)]
    if options.standard:
        jobs = [
            (
                parse(["--model", model, "--classes", str(classes), "--image-size", str(size)]),
                options.standard / f"{model}.safetensors",
            )
            for model, classes, size in STANDARD
        ]
    for job, path in jobs:
        if path is None:
            raise SystemExit("--out FILE is missing")
        tensors, metadata = compute(job)
        os.makedirs(path.parent, exist_ok=True)
        tensorfile.save(path, tensors, metadata)
        print(
            f"{path}: {len(tensors)} tensors, {path.stat().st_size / 1e6:.2f} MB, "
            f"loss {tensors['loss'][0]:.6f}"
        )


if __name__ == "__main__":
    main()
