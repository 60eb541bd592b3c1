#!/usr/bin/python3
"""Writes tests/fuzz/seeds: small files of every kind that the program reads, one folder per target.

A file that once ended a parser goes beside them by hand, named after what was wrong.
"""

import gzip
import hashlib
import io
import json
import pathlib
import shutil
import struct

import numpy
from PIL import Image

SEEDS = pathlib.Path(__file__).resolve().parent / "seeds"
GOLDEN = SEEDS.parents[1] / "golden"


def put(target, name, data):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def picture(mode, width=9, height=7):
    y, x = numpy.mgrid[0:height, 0:width]
    rgb = numpy.stack([x * 28, y * 36, (x + y) * 16], axis=-1).astype(numpy.uint8)
    return Image.fromarray(rgb, "RGB").convert(mode)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def tiff(order, kind=3):
    """An Exif structure that says orientation 6, as SHORT (3) or LONG (4)."""
    mark, value = (b"II", "<") if order == "little" else (b"MM", ">")
    number = struct.pack(value + ("HH" if kind == 3 else "I"), *((6, 0) if kind == 3 else (6,)))
    entry = struct.pack(value + "HHI", 0x112, kind, 1) + number
    return mark + struct.pack(value + "HIH", 42, 8, 1) + entry + bytes(4)


def write_images():
    for name, image, options in [
        ("baseline", picture("RGB", 24, 20), {"quality": 80}),
        ("progressive", picture("RGB"), {"progressive": True}),
        ("gray", picture("L"), {}),
        ("cmyk", picture("CMYK"), {}),
        ("sampled", picture("RGB", 33, 17), {"subsampling": 2}),
        ("exif", picture("RGB"), {"exif": b"Exif\0\0" + tiff("little")}),
        ("restarts", picture("RGB", 40, 24), {"restart_marker_blocks": 2}),
    ]:
        put("jpeg", name + ".jpg", encoded(image, "JPEG", **options))
    for mode in ["RGB", "RGBA", "L", "LA", "P", "1"]:
        put("png", mode + ".png", encoded(picture(mode), "PNG"))
    sixteen = numpy.arange(63, dtype=numpy.uint16).reshape(7, 9) * 999
    put("png", "sixteen.png", encoded(Image.fromarray(sixteen), "PNG"))
    put("png", "exif.png", encoded(picture("RGB"), "PNG", exif=b"Exif\0\0" + tiff("big")))
    for kind, mode in [("BMP", "RGB"), ("BMP", "P"), ("BMP", "1"), ("GIF", "P"), ("PPM", "RGB"),
                       ("PPM", "L"), ("TGA", "RGB"), ("TGA", "P"), ("WEBP", "RGB"),
                       ("TIFF", "RGB"), ("TIFF", "L")]:
        put("images", f"{mode}.{kind.lower()}", encoded(picture(mode), kind))
    put("images", "packed.tga", encoded(picture("RGB"), "TGA", compression="tga_rle"))
    put("images", "lossless.webp", encoded(picture("RGBA"), "WEBP", lossless=True))
    deflated = encoded(picture("RGB"), "TIFF", compression="tiff_adobe_deflate")
    put("images", "deflated.tiff", deflated)
    put("images", "plain.pgm", "P2 3 2 255\n0 1 2\n3 4 5\n")
    put("images", "two.gif", encoded(picture("P"), "GIF", save_all=True,
                                     append_images=[picture("P")], transparency=3))
    for order in ["little", "big"]:
        for kind in [3, 4]:
            put("exif", f"{order}{kind}", tiff(order, kind))
            put("exif", f"app1-{order}{kind}", b"Exif\0\0" + tiff(order, kind))


def safetensors(tensors, metadata):
    header, data = {"__metadata__": metadata}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


PREPROCESS = json.dumps({"channels": 1, "crop": 28, "interpolation": "bilinear",
                         "mean": [0.1, 0.1, 0.1], "resize": "28", "std": [0.3, 0.3, 0.3]})


def checkpoint():
    """With the digests of tools/train/checkpoint.cpp."""
    content = struct.pack("<2f", 1, 2)
    tensors = {"model/a": ("F32", [2], content)}
    position = ('{"epoch":1,"position":0,"step":3,"scheduled":3,"validated":3,"loss_sums":[0.0],'
                '"weight":0.0,"schedule":{"factor":1.0,"best":null,"bad_epochs":0},'
                '"early_stop":{"best":0.5,"size":28,"bad_epochs":0},'
                '"best":{"epoch":1,"step":3,"size":28,"top1":0.5,"loss":0.25}}')
    lines = "".join(f"{name} {dtype} [2] {hashlib.sha256(data).hexdigest()}\n"
                    for name, (dtype, _, data) in tensors.items())
    metadata = {"algorithms": "{}", "batches": "4 x 2 x 3, seed 5", "cache": "none",
                "classes": '["a","b"]', "image_contents": "", "image_sizes": "s", "images": "i",
                "model": "mnist_cnn", "position": position, "preprocess": PREPROCESS,
                "recipe": '{"lr":0.1}', "seconds": "1.5",
                "state_sha256": hashlib.sha256((lines + position).encode()).hexdigest()}
    facts = hashlib.sha256()
    for name in sorted(metadata):
        facts.update(f"{len(name)} {len(metadata[name])} {name}{metadata[name]}".encode())
    return safetensors(tensors, metadata | {"facts_sha256": facts.hexdigest(), "format": "pt"})


def write_weights():
    small = safetensors({"a": ("F32", [2, 1], bytes(8)), "b": ("I64", [], bytes(8)),
                         "c": ("F16", [0, 3], b"")},
                        {"classes": '["x","y"]', "format": "pt", "model": "mnist_cnn"})
    put("safetensors", "small.safetensors", small)
    put("safetensors", "empty.safetensors", safetensors({}, {}))
    for name in ["zip", "legacy", "protocol4", "nested_legacy", "zip64"]:
        (SEEDS / "pth").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(GOLDEN / f"weights_{name}.pth", SEEDS / "pth" / f"{name}.pth")
    put("weights", "small.safetensors", small)
    put("weights", "legacy.pth", (GOLDEN / "weights_legacy.pth").read_bytes())
    put("checkpoint", "step.safetensors", checkpoint())
    put("manifest", "manifest.json", json.dumps({
        "models": {"m": {"tensors": 3, "counters": 1, "parameters": 9, "layout": "ab"}},
        "files": [{"names": ["a.pth"], "model": "m", "licence": "BSD", "source": "x/a.pth",
                   "sha256": "00"}]}))
    put("metadata", "run", "\n".join(
        ['["a","b"]', PREPROCESS, "mnist_cnn", "digest", "4 x 2 x 3, seed 5, balanced",
         '{"lr":0.1,"model":"x"}', "sizes", "contents", "disk", "0.001",
         "1.25", '{"rule":"youden","classes":{"a":{"threshold":0.5,"sensitivity":1,'
                 '"specificity":null}}}']))


def write_data():
    images = struct.pack(">4I", 0x803, 2, 3, 4) + bytes(range(24))
    put("idx", "images", images)
    put("idx", "images.gz", gzip.compress(images, mtime=0))
    put("idx", "labels", struct.pack(">2I", 0x801, 3) + b"\0\1\2")
    put("csv", "labels.csv", 'path,label,split\na.png,cat,train\n"b,1.png","do""g",val\r\n')
    put("csv", "marked.csv", b"\xef\xbb\xbfpath,label\n\xc3\xa9.png,\"two\nlines\"\n")
    record = struct.pack("<QiiQQQq", 0, 3, 2, 0, 0, 0, 0)
    index = record + struct.pack("<I", 5) + b"a.png"
    at = 4096 + 64
    header = b"ENGPACK\n" + struct.pack("<I4iI3QQ", 2, 28, 0, 1, 3, 1, at, len(index), 0, 0)
    put("pack", "one.pack", header.ljust(at, b"\0") + index)


def write_command_line():
    values = {"on": True, "count": 3, "seed": 18446744073709551615, "rate": 0.5, "text": "t",
              "file": "f", "maybe": None, "files": ["a", "b"], "colour": "green"}
    put("config", "all.json", json.dumps(values))
    put("config", "deep.json", '{"files":' + "[" * 40 + "]" * 40 + "}")
    put("yaml", "all.yaml",
        "# flags\non: true\ncount: 3\nrate: 1.0e-3\ntext: 't'\nfile: \"f\\u00e4\"\nmaybe: ~\n"
        "files: [a, b]\ncolour: green\n")
    put("yaml", "block.yaml", "files:\n- a\n- &x b\n- *x\ntext: |\n  two\n  lines\n")
    put("yaml", "deep.yaml", "files: " + "[" * 40 + "]" * 40 + "\n")
    put("command_line", "all", "\n".join(
        ["-o", "--count=3", "--seed", "18446744073709551615", "--rate", "1e-3", "--text", "",
         "--maybe", "-1.5", "--colour", "green", "--", "--file", "a"]))
    put("command_line", "wrong", "\n".join(["--on=false", "--cuont", "3", "-c"]))


if __name__ == "__main__":
    write_images()
    write_weights()
    write_data()
    write_command_line()
