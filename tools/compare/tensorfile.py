"""Reads and writes safetensors files with numpy alone."""

import json
import struct
from pathlib import Path
from typing import Dict, Tuple

import numpy as np

TYPES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "U8": "|u1"}
NAMES = {np.dtype(code): name for name, code in TYPES.items()}


def save(path: Path, tensors: Dict[str, np.ndarray], metadata: Dict[str, str]) -> None:
    """Writes the header's length, the JSON header padded to 8 bytes, then the tensors in order."""
    header: Dict[str, object] = {"__metadata__": metadata}
    offset = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def load(path: Path) -> Tuple[Dict[str, np.ndarray], Dict[str, str]]:
    """(tensors, metadata) of a file that `save` wrote."""
    data = Path(path).read_bytes()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        tensors[name] = np.frombuffer(
            data[start + first : start + last], TYPES[entry["dtype"]]
        ).reshape(entry["shape"])
    return tensors, metadata
