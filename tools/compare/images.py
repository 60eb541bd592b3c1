"""The images of a folder data set, decoded and resized by PIL and cropped at the centre."""

from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
from PIL import Image

from models import IMAGENET_MEAN, IMAGENET_STD

EXTENSIONS = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def list_images(root: str) -> Tuple[List[Path], List[int], List[str]]:
    """(files, labels, classes): classes are sorted folder names, files sorted by class and path."""
    classes = sorted(folder.name for folder in Path(root).iterdir() if folder.is_dir())
    files: List[Path] = []
    labels: List[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            path for path in (Path(root) / name).rglob("*") if path.suffix.lower() in EXTENSIONS
        )
        files += found
        labels += [label] * len(found)
    if not files:
        raise SystemExit(f"{root}: no images in class folders")
    return files, labels, classes


def round_robin(files: List[Path], labels: List[int]) -> Tuple[List[Path], List[int]]:
    """The first image of every class, then every second, …, which mixes batches without chance."""
    seen: dict = {}
    ranks = []
    for label in labels:
        ranks.append(seen.get(label, 0))
        seen[label] = ranks[-1] + 1
    order = sorted(range(len(files)), key=lambda i: (ranks[i], labels[i]))
    return [files[i] for i in order], [labels[i] for i in order]


def parse_size(text: str) -> Tuple[int, ...]:
    """'256' → (256,): the shorter side; '224x320' → (224, 320): height and width."""
    return tuple(int(side) for side in text.split("x"))


def load_image(
    path: Path, resize: str, crop: int, interpolation: str = "bilinear", channels: int = 3
) -> np.ndarray:
    """(crop, crop, C) uint8; sizes and centre are rounded as torchvision rounds them."""
    image = Image.open(path).convert("RGB" if channels == 3 else "L")
    size = parse_size(resize)
    if len(size) == 1:
        short, long = sorted(image.size)
        other = int(size[0] * long / short)
        size = (size[0], other) if image.width >= image.height else (other, size[0])
    image = image.resize((size[1], size[0]), FILTERS[interpolation])
    top, left = round((size[0] - crop) / 2), round((size[1] - crop) / 2)
    pixels = np.asarray(image)[top : top + crop, left : left + crop]
    return pixels.reshape(crop, crop, channels)


def normalize(images: np.ndarray) -> np.ndarray:
    """(N,H,W,3) uint8 → (N,3,H,W) float32: computed in double, rounded once."""
    scaled = (images / 255.0 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)).astype(np.float32)


def load_batch(files: List[Path], preprocess: Dict, channels: int) -> Tuple[np.ndarray, np.ndarray]:
    """Bytes (N, H, W, C) and normalised floats (N, C, H, W) as the model's metadata say."""
    settings = preprocess["resize"], preprocess["crop"], preprocess["interpolation"]
    pixels = np.stack([load_image(f, *settings, channels) for f in files])
    mean, std = (np.array(preprocess[key])[:channels] for key in ("mean", "std"))
    floats = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    return pixels, np.ascontiguousarray(floats)
