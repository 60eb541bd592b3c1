#!/usr/bin/python3
"""Writes the small weight files of tests/golden/ and the models of weights/manifest.json.

  make_weight_goldens.py files      tests/golden/weights_*.pth (torch 1.13)
  make_weight_goldens.py layouts    tensor counts, parameters and layout digests (torchvision), JSON
  make_weight_goldens.py names      tests/golden/names: the tensors of some models (torchvision)

Element i (row-major) of tensor number k is (7i + 13k) mod 61 · 0.25 − 5, which is exact in every
float type; integers take (7i + 13k) mod 61, booleans its lowest bit. tests/io/weights/pth_test.cpp
has the same list.
"""

import argparse
import collections
import hashlib
import io
import json
import pathlib
import struct
import sys
import zipfile

import numpy
import torch

MODELS = [f"efficientnet_b{i}" for i in range(8)] + ["efficientnet_v2_s", "efficientnet_v2_m"]
MODELS += [f"densenet{depth}" for depth in (121, 161, 169, 201)]
MODELS += [f"resnet{depth}" for depth in (18, 34, 50, 101, 152)] + ["mobilenet_v2"]
NAMED = ["efficientnet_b0", "efficientnet_b3", "efficientnet_b7", "efficientnet_v2_s",
         "efficientnet_v2_m", "densenet121", "densenet161", "resnet18", "resnet50",
         "mobilenet_v2"]  # fmt: skip
GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"


def filled(k, shape, dtype):
    count = int(numpy.prod(shape, dtype=int))
    raw = (7 * torch.arange(count) + 13 * k) % 61
    if dtype == torch.bool:
        raw = raw % 2
    elif dtype.is_floating_point:
        raw = raw * 0.25 - 5
    return raw.to(dtype).reshape(shape)


def with_layout(value, like):
    """The same values, as a view that lies in memory as `like` does."""
    return like.copy_(value)


def state_dict():
    base = torch.zeros(40)
    tensors = collections.OrderedDict()
    tensors["weight"] = filled(0, (2, 3, 4), torch.float32)
    tensors["half"] = filled(1, (5,), torch.float16)
    tensors["bfloat"] = filled(2, (5,), torch.bfloat16)
    tensors["double"] = filled(3, (3,), torch.float64)
    tensors["counter"] = filled(4, (), torch.int64)
    tensors["int"] = filled(5, (4,), torch.int32)
    tensors["byte"] = filled(6, (4,), torch.uint8)
    tensors["flags"] = filled(7, (6,), torch.bool)
    tensors["empty"] = filled(8, (0, 3), torch.float32)
    tensors["transposed"] = with_layout(filled(9, (3, 5), torch.float32), torch.zeros(5, 3).t())
    tensors["channels_last"] = filled(10, (2, 3, 2, 2), torch.float32).to(
        memory_format=torch.channels_last
    )
    tensors["shared.first"] = with_layout(filled(11, (8,), torch.float32), base[2:10])
    tensors["shared.strided"] = with_layout(
        filled(12, (2, 5), torch.float32), base[10:30].view(2, 10)[:, ::2]
    )
    tensors["expanded"] = torch.tensor([[-1.75]]).expand(3, 2)
    tensors["parameter"] = torch.nn.Parameter(filled(14, (2, 2), torch.float32))
    tensors._metadata = collections.OrderedDict([("", {"version": 1})])
    return tensors


def checkpoint():
    """What a training script leaves: nesting, prefixes, an optimizer, numpy and argparse values."""
    layer = torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(layer.parameters())
    layer(torch.ones(1, 3)).sum().backward()
    adam.step()
    return {
        "epoch": 1,
        "arch": "densenet121",
        "optimizer": adam.state_dict(),
        "best": numpy.float64(0.5),
        "args": argparse.Namespace(lr=0.1),
        "history": collections.defaultdict(dict, {"loss": {1: 2.0}}),
        "state_dict": {"module._orig_mod." + name: tensor for name, tensor in state_dict().items()},
    }


def as_zip64(data):
    """The same archive with every size, offset and count in zip64 records."""
    archive, out, central = zipfile.ZipFile(io.BytesIO(data)), io.BytesIO(), b""
    for entry in archive.infolist():
        content, name, at = archive.read(entry), entry.filename.encode(), out.tell()
        all_ones = 0xFFFFFFFF
        local_extra = struct.pack("<HHQQ", 1, 16, len(content), len(content))
        out.write(
            struct.pack(
                "<IHHHHHIIIHH",
                0x04034B50,
                45,
                0,
                0,
                0,
                0,
                entry.CRC,
                all_ones,
                all_ones,
                len(name),
                len(local_extra),
            )
            + name
            + local_extra
            + content
        )
        extra = struct.pack("<HHQQQ", 1, 24, len(content), len(content), at)
        central += (
            struct.pack(
                "<IHHHHHHIIIHHHHHII",
                0x02014B50,
                45,
                45,
                0,
                0,
                0,
                0,
                entry.CRC,
                all_ones,
                all_ones,
                len(name),
                len(extra),
                0,
                0,
                0,
                0,
                all_ones,
            )
            + name
            + extra
        )
    start, count = out.tell(), len(archive.infolist())
    out.write(central)
    end = out.tell()
    out.write(
        struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(central), start)
    )
    out.write(struct.pack("<IIQI", 0x07064B50, 0, end, 1))
    out.write(struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    return out.getvalue()


def write_files():
    torch.manual_seed(1)
    GOLDEN.mkdir(exist_ok=True)
    torch.save(state_dict(), GOLDEN / "weights_zip.pth")
    torch.save(state_dict(), GOLDEN / "weights_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(state_dict(), GOLDEN / "weights_protocol4.pth", pickle_protocol=4)
    torch.save(checkpoint(), GOLDEN / "weights_nested_zip.pth")
    torch.save(
        checkpoint(), GOLDEN / "weights_nested_legacy.pth", _use_new_zipfile_serialization=False
    )
    (GOLDEN / "weights_zip64.pth").write_bytes(as_zip64((GOLDEN / "weights_zip.pth").read_bytes()))


def write_names():
    """A line per tensor: its name and dimensions."""
    import torchvision

    for name in NAMED:
        state = getattr(torchvision.models, name)(weights=None).state_dict()
        lines = [" ".join([key, *map(str, state[key].shape)]) + "\n" for key in state]
        (GOLDEN / "names" / f"{name}.txt").write_text("".join(lines))


def write_layouts():
    import torchvision

    models = {}
    for name in MODELS:
        model = getattr(torchvision.models, name)(weights=None)
        state = model.state_dict()
        lines = [
            f"{key} {list(state[key].shape)}\n"
            for key in sorted(state)
            if not key.endswith("num_batches_tracked")
        ]
        models[name] = {
            "tensors": len(state),
            "counters": len(state) - len(lines),
            "parameters": sum(p.numel() for p in model.parameters()),
            "layout": hashlib.sha256("".join(lines).encode()).hexdigest(),
        }
    json.dump(models, sys.stdout, indent=1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["files", "layouts", "names"])
    {"files": write_files, "layouts": write_layouts, "names": write_names}[
        parser.parse_args().what
    ]()
