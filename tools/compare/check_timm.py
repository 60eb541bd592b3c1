#!/usr/bin/env python3
"""Opens weights that `engine train` wrote by safetensors with torchvision, and by timm's loader.

    check_timm.py --engine build/release/bin/engine --data DATA [--models NAME...]

Each model is trained for one small step on the CPU, from weights whose running statistics are those
of the images. The logits of `engine predict` in double, where rounding plays no part, are compared
with those of
- torchvision's model, load_state_dict(strict=True) of best.safetensors as it is,
- timm's model made by create_model(checkpoint_path=...) from `engine convert --names timm`.
The other way round, a model that timm made, with timm's names and its epsilon (1e-5 in B5 to B7
and V2, where torchvision has 1e-3), goes to `engine predict` as it is and by `engine convert`.

The script prints the largest difference of a logit, relative to the largest logit if that is above
1, and exits with 8 if one is above the tolerance. It needs timm and safetensors beside what the
other scripts need.
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List

import numpy as np
import timm
import timm.models
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import images
import models

TIMM = {  # where the names differ
    "mobilenet_v2": "mobilenetv2_100",
    "efficientnet_v2_s": "efficientnetv2_s",
    "efficientnet_v2_m": "efficientnetv2_m",
}
MODELS = ["efficientnet_b0", "efficientnet_b3", "efficientnet_b5", "efficientnet_v2_s",
          "densenet121", "resnet18", "resnet50", "mobilenet_v2"]  # fmt: skip
EPSILON_OF_TENSORFLOW = ("efficientnet_b5", "efficientnet_b6", "efficientnet_b7",
                         "efficientnet_v2_s", "efficientnet_v2_m")  # fmt: skip
SIZE = 64
USUAL = {"resize": str(SIZE), "crop": SIZE, "interpolation": "bilinear",
         "mean": models.IMAGENET_MEAN, "std": models.IMAGENET_STD}  # fmt: skip


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def logits_of(model: torch.nn.Module, pixels: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model.double().eval()(torch.from_numpy(pixels.copy())).numpy()


def network_input(files: List[Path], preprocess: Dict) -> np.ndarray:
    """In double, as the engine's reference has it."""
    pixels, _ = images.load_batch(files, preprocess, 3)
    mean, std = (np.array(preprocess[key], np.float32).astype(float) for key in ("mean", "std"))
    return ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2)


def predict(engine: str, weights: Path, files: List[Path], *flags: str) -> np.ndarray:
    printed = run(engine, "predict", "--json", "--device", "reference", "--precision", "fp64",
                  "--weights", str(weights), *flags, *map(str, files))  # fmt: skip
    return np.array([json.loads(line)["logits"] for line in printed.splitlines()])


def distance(theirs: np.ndarray, ours: np.ndarray) -> float:
    return float(np.abs(theirs - ours).max() / max(1.0, np.abs(ours).max()))


def check_theirs(engine: str, data: str, name: str, folder: Path) -> float:
    """Weights from timm, here."""
    files, labels, classes = images.list_images(f"{data}/val")
    files = images.round_robin(files, labels)[0][:4]
    torch.manual_seed(0)
    model = timm.create_model(TIMM.get(name, name), num_classes=len(classes)).train()
    epsilons = set()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all batches, of which there is one
            epsilons.add(module.eps)
    pixels = network_input(files, USUAL)
    with torch.no_grad():
        model(torch.from_numpy(images.load_batch(files, USUAL, 3)[1]))
    given, converted = folder / f"{name}_timm.safetensors", folder / f"{name}_back.safetensors"
    save_file(model.state_dict(), str(given))
    flags = ["--resize", str(SIZE), "--crop", str(SIZE), "--interpolation", "bilinear"]
    ours = predict(engine, given, files, "--model", name, *flags)
    run(engine, "convert", str(given), str(converted))
    back = predict(engine, converted, files, "--model", name, *flags)
    assert np.array_equal(ours, back), "engine predict differs after engine convert"
    apart = distance(logits_of(model, pixels), ours)
    print(f"{name:16} timm's own, epsilon {epsilons.pop():g}: {apart:.1e}", flush=True)
    return apart


def check(engine: str, data: str, name: str, folder: Path) -> float:
    """Weights from here, in torchvision and timm."""
    files, labels, classes = images.list_images(f"{data}/val")
    files = images.round_robin(files, labels)[0][:4]
    start, out = folder / f"{name}.pth", folder / name
    models.make_weights(name, start, len(classes), images.load_batch(files, USUAL, 3)[1])
    run(engine, "train", "--data", data, "--model", name, "--weights", str(start), "--lr", "1e-7",
        "--max-steps", "1", "--batch-size", "4", "--device", "cpu", "--resize", str(SIZE),
        "--crop", str(SIZE), "--out", str(out))  # fmt: skip
    best, converted = out / "weights/best.safetensors", folder / f"{name}.safetensors"
    run(engine, "convert", "--names", "timm", str(best), str(converted))
    with safe_open(best, "pt") as file:
        preprocess = json.loads(file.metadata()["preprocess"])
    pixels = network_input(files, preprocess)

    theirs = models.build(name, len(classes), regularize=False)
    theirs.load_state_dict(load_file(best), strict=True)
    wanted = {}
    if name in EPSILON_OF_TENSORFLOW:
        wanted["bn_eps"] = 1e-3  # as torchvision's and ours; timm's default is 1e-5
    name_there = TIMM.get(name, name)
    created = timm.create_model(
        name_there, num_classes=len(classes), checkpoint_path=str(converted), **wanted
    )
    loaded = timm.create_model(name_there, num_classes=len(classes), **wanted)
    timm.models.load_checkpoint(loaded, str(converted), strict=True)

    ours, back = (predict(engine, weights, files) for weights in (best, converted))
    assert np.array_equal(ours, back), "engine predict differs with timm's names"
    spread = float(np.ptp(ours, axis=0).max())  # over the images: what the layers contribute
    distances = [
        distance(logits_of(model, pixels), ours) for model in (theirs, created, loaded)
    ]
    print(f"{name:16} torchvision {distances[0]:.1e}  timm.create_model {distances[1]:.1e}  "
          f"timm.models.load_checkpoint {distances[2]:.1e}  "
          f"(images differ by {spread:.2g})", flush=True)  # fmt: skip
    return max(distances)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="build/release/bin/engine")
    parser.add_argument("--data", required=True, help="a folder with train/ and val/")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--tolerance", type=float, default=1e-5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        worst = max(
            look(options.engine, options.data, name, Path(folder))
            for name in options.models for look in (check_theirs, check)
        )  # fmt: skip
    print(f"timm {timm.__version__}: largest difference {worst:.1e}, "
          f"allowed {options.tolerance:.0e}")  # fmt: skip
    raise SystemExit(0 if worst <= options.tolerance else 8)


if __name__ == "__main__":
    main()
