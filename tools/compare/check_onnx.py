#!/usr/bin/env python3
"""Runs what `engine export --onnx` writes in onnxruntime, beside PyTorch and `engine predict`.

    check_onnx.py --engine build/release/bin/engine --images DATA [--weights F.pth MODEL]...

Each of the models below, with weights made here (PyTorch's initial values, running statistics of
the images), and each weight file that is given is exported plainly, with --fold-norms, with
--with-normalisation and with both, and runs on 1 and on 5 images. The script prints the largest
difference of a logit from `engine predict` (fp32 on the CPU, from the files) and from PyTorch in
double, relative to the largest logit if that is above 1, and exits with 8 if one is above the
tolerance. It needs onnxruntime beside what the other scripts need
(`python3 -m venv --system-site-packages`).
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import onnxruntime
import torch

import images
import models

MODELS = ["efficientnet_b0", "efficientnet_v2_s", "densenet121", "resnet18", "resnet50",
          "mobilenet_v2", "mnist_cnn"]  # fmt: skip
WAYS = [[], ["--fold-norms"], ["--with-normalisation"], ["--fold-norms", "--with-normalisation"]]
SIZE = 96  # for the models with weights made here


def torch_logits(name: str, weights: Path, pixels: np.ndarray) -> np.ndarray:
    model = models.build(name, models.head_classes(str(weights)), regularize=False)
    models.load_weights(model, str(weights))
    with torch.no_grad():
        return model.double().eval()(torch.from_numpy(pixels).double()).numpy()


def engine_logits(engine: str, flags: List[str], weights: Path, files: List[Path]) -> np.ndarray:
    command = [engine, "predict", "--json", "--weights", str(weights), "--device", "cpu", *flags]
    command += ["--precision", "fp32", *map(str, files)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return np.array([json.loads(line)["logits"] for line in printed.splitlines()])


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))


def check(options: argparse.Namespace, name: str, weights: Path, flags: List[str]) -> float:
    """The worst distance over all ways to export a weight file."""
    flags = ["--model", name, *flags]
    channels = models.input_channels(name)
    worst = 0.0
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/model.onnx"
            command = [options.engine, "export", str(weights), "--onnx", path, *flags, *way]
            subprocess.run(command, check=True, capture_output=True)
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = session.get_modelmeta().custom_metadata_map
        assert metadata["model"] == name
        for count in (1, 5):
            files = options.files[:count]
            data, floats = images.load_batch(files, json.loads(metadata["preprocess"]), channels)
            feed = {"pixels": data} if "--with-normalisation" in way else {"images": floats}
            logits = session.run(["logits"], feed)[0]
            ours = distance(logits, engine_logits(options.engine, flags, weights, files))
            theirs = distance(logits, torch_logits(name, weights, floats))
            print(f"{name:16} {count} images  {ours:.1e} from engine predict  "
                  f"{theirs:.1e} from PyTorch in double  {' '.join(way)}", flush=True)
            worst = float(np.max([worst, ours, theirs]))  # NaN stays NaN
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="build/release/bin/engine")
    parser.add_argument("--images", required=True, help="a folder of class folders")
    parser.add_argument(
        "--weights", nargs=2, action="append", default=[], metavar=("FILE", "MODEL")
    )
    parser.add_argument("--tolerance", type=float, default=1e-4)
    options = parser.parse_args()
    files, labels, _ = images.list_images(options.images)
    options.files = images.round_robin(files, labels)[0]

    distances = [check(options, name, Path(file), []) for file, name in options.weights]
    for name in MODELS:
        size = models.IMAGE_SIZES[name] if name == "mnist_cnn" else SIZE
        flags = ["--resize", str(size), "--crop", str(size), "--interpolation", "bilinear"]
        flags += ["--mean", "0.5", "--std", "0.25"]  # the images are those of the statistics
        usual = {"mean": [0.5] * 3, "std": [0.25] * 3, "interpolation": "bilinear"}
        channels = models.input_channels(name)
        preprocess = {**usual, "resize": str(size), "crop": size}
        _, floats = images.load_batch(options.files[:8], preprocess, channels)
        with tempfile.TemporaryDirectory() as folder:
            models.make_weights(name, Path(folder) / "weights.pth", 7, floats)
            distances.append(check(options, name, Path(folder) / "weights.pth", flags))
    print(f"largest difference {max(distances):.1e}, allowed {options.tolerance:.0e}")
    raise SystemExit(0 if np.max(distances) <= options.tolerance else 8)


if __name__ == "__main__":
    main()
