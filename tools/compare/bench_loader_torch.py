"""Measures how many images per second PIL with torchvision's transforms and `engine bench data`
bring from the same JPEG files to augmented crops, on one core and in one run, in which both take
turns.

    bench_loader_torch.py --engine build/release/bin/engine --data DATA
    bench_loader_torch.py --engine … --photographs PHOTOGRAPHS   # 200 of 500x400
    bench_loader_torch.py --data … --torch-only

The recipe is --augment light: resize, random crop, horizontal flip. Rates are per second of CPU
time, and the best round of each counts, so that other load on the machine disturbs both little.
`crop` ends with the 8-bit crop, as ours does; `tensor` adds ToTensor and Normalize, which we leave
to the device; `loader` is torch's DataLoader without worker processes. It needs Debian's
python3-torchvision and python3-pil.
"""
import argparse
import csv
import os
import subprocess
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision import datasets, transforms

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def make_photographs(source, folder, count=200, size=(500, 400)):
    """`count` JPEG files of that size and quality 90; each photograph gives several."""
    paths = sorted(p for p in Path(source).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    for i in range(count):
        path = paths[i % len(paths)]
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        part = i // len(paths)  # 0 keeps all of it, the others leave an eighth out at two sides
        if part:
            x, y = image.width // 8, image.height // 8
            left, top = x * (part & 1), y * (part >> 1 & 1)
            image = image.crop((left, top, left + image.width - x, top + image.height - y))
        target = Path(folder) / "train" / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        ImageOps.fit(image, size, Image.BICUBIC).save(target / f"{i:03}.jpg", quality=90)
    for name in (Path(folder) / "train").iterdir():  # the engine wants validation images, too
        target = Path(folder) / "val" / name.name
        target.mkdir(parents=True, exist_ok=True)
        first = sorted(name.iterdir())[0]
        (target / first.name).write_bytes(first.read_bytes())


def rate(count, work):
    begin = time.process_time()
    work()
    return count / (time.process_time() - begin)


def load(path):
    with open(path, "rb") as file:
        return Image.open(file).convert("RGB")


def torch_rates(paths, folder, resize, crop):
    to_crop = transforms.Compose([transforms.Resize(resize), transforms.RandomCrop(crop),
                                  transforms.RandomHorizontalFlip()])
    to_tensor = transforms.Compose(
        [to_crop, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    data = torch.utils.data.Subset(datasets.ImageFolder(folder, to_tensor), range(len(paths)))
    loader = torch.utils.data.DataLoader(data, batch_size=64)
    return {
        "decode": rate(len(paths), lambda: [load(path) for path in paths]),
        "crop": rate(len(paths), lambda: [to_crop(load(path)) for path in paths]),
        "tensor": rate(len(paths), lambda: [to_tensor(load(path)) for path in paths]),
        "loader": rate(len(paths), lambda: [None for _ in loader]),
    }


def engine_rates(engine, folder, resize, crop, images):
    with tempfile.NamedTemporaryFile(suffix=".csv") as out:
        subprocess.run([engine, "bench", "data",
                        "--data", folder, "--steps-only", "--device", "cpu",
                        "--images", str(images), "--passes", "3", "--augment", "light",
                        "--resize", str(resize), "--crop", str(crop), "--interpolation", "bilinear",
                        "--out", out.name], check=True, capture_output=True)
        with open(out.name, newline="") as file:
            return {row["what"]: float(row["images_per_second_per_core"])
                    for row in csv.DictReader(file)}


def best(rounds):
    return {name: max(r[name] for r in rounds) for name in rounds[0]}


def compare(options, folder):
    paths = [path for path, _ in datasets.ImageFolder(Path(folder) / "train").samples]
    paths = paths[:options.images]
    theirs, ours = [], []
    for _ in range(options.rounds):
        theirs.append(torch_rates(paths, Path(folder) / "train", options.resize, options.crop))
        if not options.torch_only:
            ours.append(engine_rates(options.engine, folder, options.resize, options.crop,
                                     len(paths)))
    theirs = best(theirs)
    size = load(paths[0]).size
    print(f"{len(paths)} images, the first of {size[0]}x{size[1]}; images per second and core")
    for name, value in theirs.items():
        print(f"  PIL and torchvision  {name:24} {value:8.0f}")
    if ours:
        for name, value in best(ours).items():
            print(f"  engine               {name:24} {value:8.0f}   "
                  f"{value / theirs['crop']:5.2f}x crop")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="build/release/bin/engine")
    parser.add_argument("--data", help="a folder with train/CLASS/*.jpg and val/")
    parser.add_argument("--photographs",
                        help="a folder of large photographs to make 500x400 ones of")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resize", type=int, default=256)
    parser.add_argument("--crop", type=int, default=224)
    parser.add_argument("--core", type=int, default=0, help="that everything is kept on")
    parser.add_argument("--torch-only", action="store_true")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    torch.set_num_threads(1)
    if options.data:
        compare(options, options.data)
    if options.photographs:
        with tempfile.TemporaryDirectory() as folder:
            make_photographs(options.photographs, folder)
            compare(options, folder)


if __name__ == "__main__":
    main()
