#!/usr/bin/env python3
"""PyTorch's side of a training with several labels, on what `engine draw scenes` writes.

The same network (torchvision's by its name, with a new head), images of the same size normalised
alike, BCEWithLogitsLoss with pos_weight over the labels that are known, Adam with a cosine of the
rate by step, flips, and a batch of 64. Prints one JSON object per epoch: the loss and, by
scikit-learn, the AUC of every label on the validation images.

python3 labels_torch.py --data scenes --model efficientnet_b0 --epochs 8 --image-size 64
"""

import argparse
import csv
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(root: Path, part: str, size: int):
    """Normalised images (N, 3, size, size), labels with NaN where they are missing, their names."""
    with open(root / "labels.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == part]
    names = [name for name in rows[0] if name not in ("path", "split")]
    pixels = np.stack([
        np.asarray(Image.open(root / row["path"]).convert("RGB").resize((size, size)))
        for row in rows])
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    images = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    labels = [[float(row[name] or "nan") for name in names] for row in rows]
    return images, torch.tensor(labels), names


def loss_of(logits: torch.Tensor, labels: torch.Tensor, weight) -> torch.Tensor:
    known = ~labels.isnan()
    entries = functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), known.float(), pos_weight=weight, reduction="sum")
    return entries / known.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="efficientnet_b0")
    parser.add_argument("--weights", type=Path,
                        help="a state_dict to start from; a head of another size starts anew")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="cpu | cuda")
    o = parser.parse_args()
    torch.manual_seed(o.seed)
    images, labels, names = load(o.data, "train", o.image_size)
    val_images, val_labels, _ = load(o.data, "val", o.image_size)
    images, labels, val_images = (x.to(o.device) for x in (images, labels, val_images))
    weight = (labels == 0).sum(0) / (labels == 1).sum(0)
    model = getattr(torchvision.models, o.model)(num_classes=len(names))
    if o.weights:
        state = torch.load(o.weights, map_location="cpu")
        own = model.state_dict()
        model.load_state_dict({name: state[name] if state[name].shape == value.shape else value
                               for name, value in own.items()})
    model.to(o.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=o.lr)
    steps = o.epochs * math.ceil(len(images) / o.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    began = time.time()
    for epoch in range(o.epochs):
        model.train()
        losses = []
        for picks in torch.randperm(len(images)).split(o.batch_size):
            batch = images[picks]
            flips = torch.rand(len(batch), device=o.device) < 0.5
            batch = torch.where(flips[:, None, None, None], batch.flip(3), batch)
            loss = loss_of(model(batch), labels[picks], weight)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        model.eval()
        with torch.no_grad():
            logits = torch.cat([model(part) for part in val_images.split(256)]).cpu()
        p = torch.sigmoid(logits).numpy()
        areas = {name: round(roc_auc_score(val_labels[:, c].numpy(), p[:, c]), 4)
                 for c, name in enumerate(names)}
        print(json.dumps({"epoch": epoch + 1, "train_loss": round(float(np.mean(losses)), 4),
                          "val_loss": round(loss_of(logits, val_labels, None).item(), 4),
                          "auc": areas, "seconds": round(time.time() - began, 1)}), flush=True)


if __name__ == "__main__":
    main()
