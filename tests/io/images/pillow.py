"""What PIL makes of pictures, for the tests of io/. Usage: pillow.py VERB FOLDER

cases   FOLDER/cases.txt has lines `input|output|operation|argument|...`; the input is a raw picture
        or an image file. The operations are `decode`, `resize|WIDTH|HEIGHT|FILTER`,
        `shorter|SIZE|FILTER|CROP`, `jitter|BRIGHTNESS|CONTRAST|SATURATION|HUE` and
        `randaugment|NAME|BIN|SIGN` (torchvision's names).
corpus  writes image files of every odd kind, NAME.EXT, and what PIL reads in them, NAME.EXT.raw and
        NAME.EXT.gray.raw.
suite   FOLDER/files.txt has lines `input|output`, image files of any kind. What PIL reads in them
        is written to the outputs, and FOLDER/read.txt gets a line `input|format` for each of those.
        Gray of 16 bits, which PIL clips to 255, is scaled to 8 instead.
golden  writes FOLDER/resize.bin, the few cases that are checked where PIL is missing.

A raw picture is "width height channels\\n" and the bytes.
"""
import os
import struct
import sys
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FILTERS = {"bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}


def noise(width, height, channels, seed):
    values = np.empty(width * height * channels, np.uint8)
    for i in range(values.size):
        seed = (seed * 1664525 + 1013904223) % 2**32
        values[i] = seed >> 24
    return as_image(values.tobytes(), width, height, channels)


def as_image(data, width, height, channels):
    return Image.frombytes("RGB" if channels == 3 else "L", (width, height), data)


def read(path):
    if path.suffix != ".raw":
        return ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    header, _, data = path.read_bytes().partition(b"\n")
    return as_image(data, *map(int, header.split()))


def write(path, image):
    header = f"{image.width} {image.height} {len(image.getbands())}\n"
    path.write_bytes(header.encode() + image.tobytes())


def jitter(image, brightness, contrast, saturation, hue):
    from torchvision.transforms import functional
    image = functional.adjust_brightness(image, brightness)
    image = functional.adjust_contrast(image, contrast)
    image = functional.adjust_saturation(image, saturation)
    return functional.adjust_hue(image, hue)


def shorter(image, size, name, crop):
    from torchvision.transforms import functional
    resized = functional.resize(image, size, functional.InterpolationMode(name))
    return functional.center_crop(resized, crop)


def randaugment(image, name, bin_, sign):
    from torchvision.transforms import RandAugment, InterpolationMode, autoaugment
    height_width = (image.height, image.width)
    magnitudes, _ = RandAugment()._augmentation_space(31, height_width)[name]
    magnitude = float(magnitudes[bin_].item()) if magnitudes.ndim > 0 else 0.0
    return autoaugment._apply_op(image, name, sign * magnitude, InterpolationMode.NEAREST, None)


def run_case(line):
    source, target, operation, *arguments = line.split("|")
    image = read(Path(source))
    if operation == "resize":
        width, height, name = arguments
        image = image.resize((int(width), int(height)), FILTERS[name])
    elif operation == "shorter":
        image = shorter(image, int(arguments[0]), arguments[1], int(arguments[2]))
    elif operation == "jitter":
        image = jitter(image, *map(float, arguments))
    elif operation == "randaugment":
        image = randaugment(image, arguments[0], int(arguments[1]), int(arguments[2]))
    elif operation != "decode":
        sys.exit(f"unknown operation {operation}")
    write(Path(target), image)


def smooth(width, height):
    """Gradients with some noise, which compress like a photograph; every corner differs."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.stack([x, y, 0.5 + 0.5 * np.sin(9 * x + 5 * y)], -1) * 230
    grain = np.random.RandomState(1).uniform(0, 25, waves.shape)
    return Image.fromarray((waves + grain).astype(np.uint8))


def corpus(folder):
    picture, gray = smooth(61, 43), smooth(61, 43).convert("L")
    alpha = Image.linear_gradient("L").resize(picture.size)
    rgba = picture.copy()
    rgba.putalpha(alpha)
    la = gray.copy()
    la.putalpha(alpha)
    palette = picture.quantize(100)
    wide = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)

    def save(name, image, expected=None, **options):
        image.save(folder / name, **options)
        if name.startswith("wide"):
            expected = gray  # PIL clips 16-bit gray to 255; the high byte is what is wanted
        elif expected is None:
            expected = ImageOps.exif_transpose(Image.open(folder / name)).convert("RGB")
        write(folder / f"{name}.raw", expected.convert("RGB"))
        write(folder / f"{name}.gray.raw", expected.convert("RGB").convert("L"))

    for quality in (30, 95):
        for subsampling in (0, 1, 2):
            name = f"q{quality}_s{subsampling}.jpg"
            save(name, picture, quality=quality, subsampling=subsampling)
    save("progressive.jpg", picture, progressive=True)
    save("optimized.jpg", picture, optimize=True)
    save("gray.jpg", gray)
    save("gray_progressive.jpg", gray, progressive=True)
    save("cmyk.jpg", picture.convert("CMYK"), quality=90)
    for width, height in ((1, 1), (1, 40), (40, 1), (7, 9), (17, 16)):
        save(f"small_{width}x{height}.jpg", smooth(width, height))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"orientation{orientation}.jpg", picture, exif=exif)
    save("rgb.png", picture)
    save("gray.png", gray)
    save("bilevel.png", gray.convert("1"))
    save("palette.png", palette)
    save("palette4.png", picture.quantize(13), bits=4)
    save("palette_transparent.png", palette, transparency=3)
    save("gray_transparent.png", gray, transparency=77)
    save("rgb_transparent.png", picture, transparency=(1, 2, 3))
    save("rgba.png", rgba)
    save("la.png", la)
    save("wide.png", wide)
    save("rgb.bmp", picture)
    save("rgba.bmp", rgba)
    save("gray.bmp", gray)
    save("palette.bmp", palette)
    save("rgb.gif", picture)
    save("gray.gif", gray)
    save("animated.gif", picture, save_all=True, append_images=[smooth(61, 43).rotate(90)])
    save("rgb.tga", picture)
    save("rle.tga", picture, compression="tga_rle")
    save("rgba.tga", rgba)
    save("gray.tga", gray)
    save("palette.tga", palette)
    save("rgb.ppm", picture)
    save("gray.pgm", gray)
    save("bilevel.pbm", gray.convert("1"))
    save("two.mpo", picture, format="MPO", save_all=True, append_images=[picture.rotate(90)])
    save("rgb.webp", picture, quality=80)
    save("rgba.webp", rgba, lossless=True, exact=True)
    save("animated.webp", picture, save_all=True, append_images=[smooth(61, 43).rotate(90)])
    exif = Image.Exif()
    exif[0x0112] = 6
    save("turned.webp", picture, exif=exif)
    # Older versions of PIL turn a TIFF file twice.
    save("turned.tif", picture, expected=picture.transpose(Image.ROTATE_270), exif=exif)
    for name, image in (("bilevel", gray.convert("1")), ("gray", gray), ("palette", palette),
                        ("rgb", picture), ("rgba", rgba), ("la", la), ("wide", wide),
                        ("cmyk", picture.convert("CMYK"))):
        for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
            save(f"{name}_{compression}.tif", image, compression=compression)
    save("fax.tif", gray.convert("1"), compression="group4")
    save("jpeg.tif", picture, compression="jpeg")


def to_rgb(image, kind, bits):
    """As convert("RGB"), except for gray of 16 bits: the high byte, in PNM the nearest value."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> (bits - 8)).astype(np.uint8))
    if image.mode == "I" and kind == "PPM":
        return Image.fromarray(np.rint(np.asarray(image) / 65535 * 255).astype(np.uint8))
    return image.convert("RGB")


def suite(folder):
    """One file after the other; whatever PIL raises means that it does not read the file."""
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())  # libtiff writes there
    with open(folder / "read.txt", "w") as read_files:
        for line in (folder / "files.txt").read_text().splitlines():
            source, target = line.split("|")
            try:
                image = Image.open(source)
                kind = image.format
                twelve = kind == "TIFF" and image.tag_v2.get(258) == (12,)  # bits per sample
                upright = ImageOps.exif_transpose(image)
                write(Path(target), to_rgb(upright, kind, 12 if twelve else 16))
            except Exception:  # PIL raises many kinds, from SyntaxError to struct.error
                continue
            print(source, kind, sep="|", file=read_files)


def golden(folder):
    """Writes for each case seed, sizes (from, to), channels, filter and bytes of noise(…, seed)."""
    cases = [(1, 1, 5, 3), (5, 3, 1, 1), (31, 17, 31, 17), (31, 17, 13, 17), (31, 17, 31, 40),
             (64, 48, 33, 25), (33, 25, 64, 48), (100, 7, 9, 30), (7, 100, 30, 9), (224, 3, 50, 2),
             (2, 130, 3, 64)]
    with open(folder / "resize.bin", "wb") as file:
        seed = 0
        for source_width, source_height, width, height in cases:
            for channels in (1, 3):
                for bicubic, name in enumerate(FILTERS):
                    seed += 1
                    image = noise(source_width, source_height, channels, seed)
                    file.write(struct.pack("<7i", seed, source_width, source_height, width, height,
                                           channels, bicubic))
                    file.write(image.resize((width, height), FILTERS[name]).tobytes())


def main():
    verb, folder = sys.argv[1], Path(sys.argv[2])
    if verb == "cases":
        for line in (folder / "cases.txt").read_text().splitlines():
            run_case(line)
    else:
        {"corpus": corpus, "suite": suite, "golden": golden}[verb](folder)


if __name__ == "__main__":
    main()
