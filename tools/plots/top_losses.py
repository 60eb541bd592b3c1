#!/usr/bin/env python3
"""A contact sheet of the images with the largest losses, with true class and prediction."""

import argparse
import gzip
import struct
from pathlib import Path
from typing import Optional

import matplotlib
from PIL import Image, ImageDraw, ImageFont, ImageOps

from run_files import BLUE, RED, Run, shorten

TILE, CAPTION, MARGIN = 150, 46, 8  # pixels
FONT = str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf")


def idx_image(path: Path, position: int) -> Image.Image:
    opened = gzip.open(path) if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        _, _, height, width = struct.unpack(">IIII", file.read(16))
        file.seek(16 + position * height * width)
        return Image.frombytes("L", (width, height), file.read(height * width))


def open_image(path: str, root: Optional[Path]) -> Optional[Image.Image]:
    """Opens a path of predictions.csv, relative to where the run started, or "FILE#7" of idx."""
    file, mark, position = path.rpartition("#")
    if not mark or not position.isdigit() or Path(path).exists():
        file, position = path, ""
    for candidate in (Path(file), *([root / file, root / Path(file).name] if root else [])):
        if not candidate.exists():
            continue
        try:
            if position:
                return idx_image(candidate, int(position)).convert("RGB")
            return ImageOps.exif_transpose(Image.open(candidate)).convert("RGB")
        except (OSError, struct.error, ValueError):
            return None
    return None


def draw(run: Run, count: int = 40, columns: int = 8,
         root: Optional[Path] = None) -> Optional[Image.Image]:
    rows = sorted(run.of_part("predictions.csv"), key=lambda row: -float(row[5]))[:count]
    if not rows:
        return None
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

    for i, (path, label, prediction, p_prediction, p_label, loss, *_) in enumerate(rows):
        x = MARGIN + i % columns * (TILE + MARGIN)
        y = MARGIN + i // columns * (TILE + CAPTION + MARGIN)
        picture = open_image(path, root)
        if picture is None:
            pen.rectangle((x, y, x + TILE, y + TILE), outline="#bbbbbb")
            text(x + 4, y + TILE // 2, shorten(Path(path).name), small, "#777777")
        else:
            # Small pictures are enlarged by whole pixels, so that one sees what the network sees.
            scale = min(TILE / picture.width, TILE / picture.height)
            size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
            picture = picture.resize(size, Image.NEAREST if scale > 2 else Image.BICUBIC)
            sheet.paste(picture, (x + (TILE - size[0]) // 2, y + (TILE - size[1]) // 2))
        right = label == prediction
        text(x, y + TILE + 2, f"true: {label}", font, "black")
        text(x, y + TILE + 16, f"pred: {prediction}  {float(p_prediction):.2f}", font,
             BLUE if right else RED)
        text(x, y + TILE + 31, f"loss {float(loss):.2f}, p(true) {float(p_label):.2g}", small,
             "#555555")
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="run directory, or --out of engine eval")
    parser.add_argument("--part", choices=["val", "test", "eval"])
    parser.add_argument("--out", type=Path, help="default: RUN/top_losses.png")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--root", type=Path, help="where relative paths begin (default: here)")
    options = parser.parse_args()
    run = Run(options.run, options.part)
    sheet = draw(run, options.count, options.columns, options.root)
    if sheet is None:
        raise SystemExit(f"{options.run}: no predictions.csv")
    out = options.out or options.run / (("test_" if run.part == "test" else "") + "top_losses.png")
    sheet.save(out)
    print(out)


if __name__ == "__main__":
    main()
