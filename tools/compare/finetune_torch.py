#!/usr/bin/env python3
"""PyTorch's side of the fine-tuning comparison, on a folder data set with train/ and val/.

Images are decoded once, resized to 256 (shorter side, PIL bilinear), cropped to a square at the
centre and kept on the device. Training has a random crop of 224, horizontal flips, Adam, cross
entropy, a batch of 64, and ReduceLROnPlateau(patience 2) on the validation loss; on CUDA also
autocast to fp16 with GradScaler and channels_last. Validation takes the centre crop. --weights
starts from a checkpoint without its head. The script prints one JSON object per epoch and one for
the best epoch (by top-1) of each seed.

--images files reads JPEG files in every epoch instead, with torchvision's transforms in a
DataLoader's worker processes. --target stops a seed at that top-1, and --save keeps its weights.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path
from typing import ContextManager, Dict, Iterator, Tuple

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional
from torchvision import transforms

import images
import models

STORED, CROP = 256, 224
Data = Tuple[torch.Tensor, torch.Tensor]  # (N, 3, 256, 256) uint8, (N) int64


class InMemory:
    """The batches of a data set that was decoded once and lies on the device."""

    def __init__(self, root: Path, options: argparse.Namespace, training: bool):
        self.data, self.classes = load_folder(root, options.device)
        self.batch, self.training = options.batch_size, training

    def __iter__(self) -> Iterator[Data]:
        pixels, labels = self.data
        if self.training:
            for picks in torch.randperm(len(labels), device=labels.device).split(self.batch):
                yield random_crops(pixels[picks]), labels[picks]
        else:
            edge = (STORED - CROP) // 2
            centre = pixels[:, :, edge : edge + CROP, edge : edge + CROP]
            yield from zip(centre.split(self.batch), labels.split(self.batch))


class FromFiles:
    """The batches of image files, which worker processes decode anew in every epoch."""

    def __init__(self, root: Path, options: argparse.Namespace, training: bool):
        crop = transforms.RandomCrop(CROP) if training else transforms.CenterCrop(CROP)
        flip = [transforms.RandomHorizontalFlip()] if training else []
        steps = [transforms.Resize(STORED), crop, *flip, transforms.PILToTensor()]
        folder = torchvision.datasets.ImageFolder(str(root), transforms.Compose(steps))
        self.classes, self.device = len(folder.classes), options.device
        self.loader = torch.utils.data.DataLoader(
            folder,
            options.batch_size,
            shuffle=training,
            num_workers=options.workers,
            pin_memory=options.device == "cuda",
            persistent_workers=options.workers > 0,
        )

    def __iter__(self) -> Iterator[Data]:
        for pixels, labels in self.loader:
            yield (
                pixels.to(self.device, non_blocking=True),
                labels.to(self.device, non_blocking=True),
            )


def load_folder(root: Path, device: str) -> Tuple[Data, int]:
    files, labels, classes = images.list_images(str(root))
    pixels = np.stack([images.load_image(file, str(STORED), STORED) for file in files])
    stored = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return (stored.to(device), torch.tensor(labels, device=device)), len(classes)


def normalize(pixels: torch.Tensor) -> torch.Tensor:
    mean = torch.tensor(models.IMAGENET_MEAN, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(models.IMAGENET_STD, device=pixels.device).view(3, 1, 1)
    return ((pixels / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def random_crops(pixels: torch.Tensor) -> torch.Tensor:
    """One random 224x224 crop of each image, mirrored with probability one half."""
    count, device = len(pixels), pixels.device
    corner = torch.randint(STORED - CROP + 1, (2, count, 1), device=device)
    span = torch.arange(CROP, device=device)
    mirrored = torch.rand(count, 1, device=device) < 0.5
    rows, columns = corner[0] + span, corner[1] + torch.where(mirrored, CROP - 1 - span, span)
    image = torch.arange(count, device=device).view(-1, 1, 1)
    picked = pixels.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return picked.permute(0, 3, 1, 2)


def macro_auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """The mean area under the ROC curve of each class against the rest; ties count half."""
    areas = []
    for label in np.unique(labels):
        own, rest = scores[labels == label, label], np.sort(scores[labels != label, label])
        below = np.searchsorted(rest, own, "left") + np.searchsorted(rest, own, "right")
        areas.append(below.mean() / 2 / len(rest))
    return float(np.mean(areas))


def is_head(name: str) -> bool:
    return name.startswith("classifier.")


def half_precision(options: argparse.Namespace) -> ContextManager:
    """Autocast to fp16 on CUDA; nothing on the CPU."""
    cuda = options.device == "cuda"
    return torch.autocast("cuda", torch.float16) if cuda else contextlib.nullcontext()


def build(options: argparse.Namespace, classes: int) -> nn.Module:
    model = models.build(options.model, classes, head_init=options.head_init)
    if options.weights:
        stored = torch.load(options.weights, map_location="cpu")
        head = {name: value for name, value in model.state_dict().items() if is_head(name)}
        model.load_state_dict({**stored, **head})
    return model.to(options.device, memory_format=torch.channels_last)


@torch.no_grad()
def evaluate(model: nn.Module, batches, options: argparse.Namespace) -> Dict[str, float]:
    model.eval()
    parts, classes = [], []
    for pixels, labels in batches:
        with half_precision(options):
            parts.append(model(normalize(pixels)).float())
        classes.append(labels)
    logits, labels = torch.cat(parts), torch.cat(classes)
    scores = logits.softmax(1).cpu().numpy()
    return {
        "val_loss": functional.cross_entropy(logits, labels).item(),
        "top1": (logits.argmax(1) == labels).float().mean().item(),
        "auc": macro_auc(scores, labels.cpu().numpy()),
    }


def train(options: argparse.Namespace, seed: int, batches, validation) -> Dict:
    """Trains with one seed and returns the best epoch."""
    torch.manual_seed(seed)
    model = build(options, batches.classes)
    run = torch.compile(model) if options.compile else model
    optimizer = torch.optim.Adam(model.parameters(), options.lr)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2)
    scaler = models.GradScaler(enabled=options.device == "cuda")
    best: Dict = {}
    for epoch in range(options.epochs):
        start, total, samples = time.perf_counter(), torch.zeros((), device=options.device), 0
        model.train()
        for pixels, labels in batches:
            with half_precision(options):
                loss = functional.cross_entropy(run(normalize(pixels)), labels)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            total += loss.detach() * len(labels)
            samples += len(labels)
        train_loss = total.item() / samples
        seconds = time.perf_counter() - start
        figures = evaluate(run, validation, options)
        schedule.step(figures["val_loss"])
        record = {"seed": seed, "epoch": epoch + 1, "train_loss": train_loss, **figures}
        record["train_seconds"] = seconds
        if options.save and figures["top1"] > best.get("top1", -1.0):
            torch.save(model.state_dict(), options.save)
        best = max(best, record, key=lambda r: r.get("top1", -1.0))
        print(json.dumps(record), flush=True)
        if best["top1"] >= options.target:
            break
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description="Fine-tuning with PyTorch, as JSON lines.")
    parser.add_argument("--data", type=Path, required=True, help="a folder with train/ and val/")
    parser.add_argument("--model", default="efficientnet_b3", choices=models.IMAGE_SIZES)
    parser.add_argument("--weights", help="a .pth state dictionary; its head is not used")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--head-init", choices=models.HEAD_INITS, default="linear")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--images", default="memory", choices=("memory", "files"))
    parser.add_argument("--workers", type=int, default=8, help="processes that read files")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--target", type=float, default=2.0, help="top-1 at which a seed ends")
    parser.add_argument("--save", help="where the best weights go")
    options = parser.parse_args()

    source = FromFiles if options.images == "files" else InMemory
    batches = source(options.data / "train", options, True)
    validation = source(options.data / "val", options, False)
    best = [train(options, seed, batches, validation) for seed in options.seeds]
    means = {key: float(np.mean([record[key] for record in best])) for key in ("top1", "auc")}
    print(json.dumps({"best": best, **means}))


if __name__ == "__main__":
    main()
