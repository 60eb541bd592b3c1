#!/usr/bin/env python3
"""Records class activation maps of torchvision's models: tests/golden/activation_maps.json.

{"torch", "torchvision", "image": [height, width], "batch", "classes", "seed", "size": [h, w],
 "models": [{"model", "bias": [..], "logits": [[..]], "maps": [[[[..]]]], "features": [[..]],
             "enlarged": [[..]], "own": largest difference}]}

Parameters, running statistics and input follow the parameter rule of golden.py; evaluation mode, in
double. `maps` (batch, classes, height, width) are the features that a hook on the global average
sees (a hook on the classifier gives `features`, of which the first 8 of an image are stored) times
the weight of the classifier, without its bias; their mean and the bias are the logits, which is
checked here. `enlarged` is the first map of the first image, made `size` by interpolate(bilinear,
align_corners=False). `own` is how far PyTorch's maps in float32 are from these, over their largest
value. --check RUN compares a folder of `engine predict --explain` with the same
computation from a checkpoint and its photographs.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional

import golden
import images
import models

SEED, CLASSES, BATCH = 1, 5, 2
IMAGE = (64, 96)  # height and width differ, so that no map is transposed unnoticed
SIZE = (11, 16)
STORED = 8  # features of each image
MODELS = ("efficientnet_b0", "efficientnet_v2_s", "densenet121", "resnet18", "resnet50",
          "mobilenet_v2")


def classifier(model: nn.Module) -> nn.Linear:
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def explain(model: nn.Module, x: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    """Logits, features and maps of a batch. The features of a DenseNet are not a module's output:
    what is averaged is the activation of the last one."""
    seen: Dict[str, torch.Tensor] = {}
    head = classifier(model)
    hooks = [head.register_forward_hook(lambda _, inputs, __: seen.update(pooled=inputs[0]))]
    last = getattr(model, "features", None) or model.layer4
    hooks.append(last.register_forward_hook(lambda _, __, output: seen.update(features=output)))
    with torch.no_grad():
        logits = model(x)
        features = seen["features"]
        if isinstance(model, torchvision.models.DenseNet):
            features = functional.relu(features)
        maps = torch.einsum("ck,nkyx->ncyx", head.weight, features)
    for hook in hooks:
        hook.remove()
    mean = maps.mean((2, 3)) + head.bias
    scale = float(logits.abs().max())
    assert float((mean - logits).abs().max()) <= 1e-5 * scale, "a map's mean is not its logit"
    return logits, seen["pooled"], maps


def record(name: str) -> Dict:
    model = models.build(name, CLASSES, regularize=False).double().eval()
    golden.set_state_by_rule(model, SEED)
    x = torch.from_numpy(golden.rule_tensor("input", (BATCH, 3, *IMAGE), SEED)).double()
    logits, pooled, maps = explain(model, x)
    bias = classifier(model).bias.tolist()
    own = (explain(model.float(), x.float())[2].double() - maps).abs().max() / maps.abs().max()
    enlarged = functional.interpolate(maps[:1, :1], size=SIZE, mode="bilinear",
                                      align_corners=False)
    return {
        "model": name,
        "bias": bias,
        "logits": logits.tolist(),
        "features": pooled[:, :STORED].tolist(),
        "maps": maps.tolist(),
        "enlarged": enlarged[0, 0].tolist(),
        "own": own.item(),
    }


def check(options: argparse.Namespace) -> float:
    """The worst difference of the maps in the folder, over the largest value of each."""
    classes = models.head_classes(options.weights)
    model = models.build(options.model, classes, regularize=False).eval()
    models.load_weights(model, options.weights)
    stored = np.load(options.check / "maps.npy")
    worst = 0.0
    with (options.check / "maps.csv").open(newline="", encoding="utf-8") as file:
        rows: List[Dict[str, str]] = list(csv.DictReader(file))
    assert len(rows) == len(stored)
    for row, ours in zip(rows, stored):
        pixels = images.load_image(row["path"], options.resize, options.crop,
                                   options.interpolation)
        x = torch.from_numpy(images.normalize(pixels[None]))
        theirs = explain(model, x)[2][0, int(row["class_index"])].numpy()
        error = np.abs(ours - theirs).max() / np.abs(theirs).max()
        worst = float(np.maximum(worst, error))  # NaN stays NaN
    print(f"{options.check}: {len(rows)} maps, worst difference {worst:.1e} of the largest value")
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description="Class activation maps of torchvision's models.")
    parser.add_argument("--out", type=Path, help="the golden file")
    parser.add_argument("--check", type=Path, metavar="DIR", help="a folder of --explain")
    parser.add_argument("--model", default="efficientnet_b3", choices=models.IMAGE_SIZES)
    parser.add_argument("--weights", help="the .pth that the folder was made with")
    parser.add_argument("--resize", default="224x224", help="N (shorter side) or HxW")
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--interpolation", default="bilinear", choices=images.FILTERS)
    options = parser.parse_args()
    if options.check:
        raise SystemExit(0 if check(options) <= 1e-4 else 8)
    if not options.out:
        raise SystemExit("--out FILE is missing")
    written = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "image": IMAGE,
        "batch": BATCH,
        "classes": CLASSES,
        "seed": SEED,
        "size": SIZE,
        "models": [record(name) for name in MODELS],
    }
    options.out.write_text(json.dumps(written, separators=(",", ":")) + "\n")
    print(f"{options.out}: {len(MODELS)} models, {options.out.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
