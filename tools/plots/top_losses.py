#!/usr/bin/env python3
"""A contact sheet of the images with the largest losses, with true class and prediction."""

import argparse
import gzip
import heapq
import math
import struct
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from run_files import BLUE, PARTS, RED, Run, shorten

TILE, CAPTION, MARGIN = 150, 46, 8  # pixels
FONT = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


def idx_image(path: Path, position: int) -> Image.Image:
    opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        _, _, height, width = struct.unpack(">IIII", file.read(16))
        file.seek(16 + position * height * width)
        return Image.frombytes("L", (width, height), file.read(height * width))


def open_image(path: str, roots: Sequence[Path]) -> Optional[Image.Image]:
    """Opens a path of predictions.csv, or "FILE#7" of idx. Below each of the roots it is looked for
    as it stands, then without its first folders: data may have moved since."""
    file, mark, position = path.rpartition("#")
    if not mark or not position.isdigit() or Path(path).exists():
        file, position = path, ""
    parts = Path(file).parts
    whole = [root / file for root in roots]
    ends = [root.joinpath(*parts[first:]) for first in range(1, len(parts)) for root in roots]
    for candidate in whole + ends:
        if not candidate.is_file():
            continue
        try:
            if position:
                return idx_image(candidate, int(position)).convert("RGB")
            return ImageOps.exif_transpose(Image.open(candidate)).convert("RGB")
        except (OSError, struct.error, ValueError):
            return None
    return None


def loss_of(row: Dict[str, str]) -> float:
    """The loss that stands there; of several labels the mean cross entropy of those that are
    known."""
    if "loss" in row:
        return float(row["loss"])
    losses = [-math.log(max(1e-12, p if known == "1" else 1 - p)) for known, p in labels_of(row)]
    return sum(losses) / len(losses) if losses else 0.0


def labels_of(row: Dict[str, str]) -> Iterator[Tuple[str, float]]:
    """Of several labels: "0" or "1", and the probability, of each that is known."""
    for name, known in row.items():
        if name.startswith("y:") and known:
            yield known, float(row["p:" + name[2:]])


def captions(row: Dict[str, str]) -> Tuple[str, str, bool]:
    """What is true, what was said, and whether that is right."""
    if "label" in row:
        said = f"{row['prediction']}  {float(row['p_prediction']):.2f}"
        return row["label"], said, row["label"] == row["prediction"]
    names = [name[2:] for name in row if name.startswith("y:")]
    true = [name for name in names if row["y:" + name] == "1"]
    said = [name for name in names if float(row["p:" + name]) >= 0.5]
    right = all((p >= 0.5) == (known == "1") for known, p in labels_of(row))
    return ", ".join(true) or "none", ", ".join(said) or "none", right


def largest(run: Run, count: int) -> List[Dict[str, str]]:
    return heapq.nlargest(count, run.predictions(), key=loss_of)


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """Within a square. Small pictures are enlarged by whole pixels, so that one sees what the
    network sees."""
    scale = min(side / picture.width, side / picture.height)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.NEAREST if scale > 2 else Image.BICUBIC)


def draw(run: Run, count: int = 40, columns: int = 8,
         root: Optional[Path] = None) -> Optional[Image.Image]:
    rows = largest(run, count)
    if not rows:
        return None
    roots = run.roots(root)
    font, small = ImageFont.truetype(FONT, 12), ImageFont.truetype(FONT, 11)
    columns = min(columns, len(rows))
    lines = -(-len(rows) // columns)
    sheet = Image.new("RGB", (columns * (TILE + MARGIN) + MARGIN,
                              lines * (TILE + CAPTION + MARGIN) + MARGIN),
                      "white")
    pen = ImageDraw.Draw(sheet)

    def text(x, y, words, font, colour):
        while pen.textlength(words, font=font) > TILE and len(words) > 1:
            words = words[:-2] + "…"
        pen.text((x, y), words, font=font, fill=colour)

    for i, row in enumerate(rows):
        x = MARGIN + i % columns * (TILE + MARGIN)
        y = MARGIN + i // columns * (TILE + CAPTION + MARGIN)
        picture = open_image(row["path"], roots)
        if picture is None:
            pen.rectangle((x, y, x + TILE, y + TILE), outline="#bbbbbb")
            text(x + 4, y + TILE // 2, shorten(Path(row["path"]).name), small, "#777777")
        else:
            picture = fitted(picture, TILE)
            sheet.paste(picture, (x + (TILE - picture.width) // 2,
                                  y + (TILE - picture.height) // 2))
        label, prediction, right = captions(row)
        text(x, y + TILE + 2, f"true: {label}", font, "black")
        text(x, y + TILE + 16, f"pred: {prediction}", font, BLUE if right else RED)
        of_label = f", p(true) {float(row['p_label']):.2g}" if "p_label" in row else ""
        text(x, y + TILE + 31, f"loss {loss_of(row):.2f}{of_label}", small, "#555555")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("--part", choices=PARTS)
    parser.add_argument("--out", type=Path, help="default: RUN/top_losses.png")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--root", type=Path, help="where else images are looked for")
    options = parser.parse_args()
    run = Run(options.run, options.part)
    sheet = draw(run, options.count, options.columns, options.root)
    if sheet is None:
        raise SystemExit(f"{options.run}: no predictions.csv")
    out = options.out or options.run / run.name_of_part("top_losses.png")
    sheet.save(out)
    print(out)


if __name__ == "__main__":
    main()
