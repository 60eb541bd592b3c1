"""The project's random numbers in numpy: Philox4x32-10 as in kernels/random.h, bit for bit."""

import numpy as np

LOW = np.uint64(0xFFFFFFFF)
WORD = np.uint64(32)


def purpose(name: str) -> int:
    """The 32-bit FNV-1a hash of a name, as purpose() in kernels/random.h."""
    value = 2166136261
    for byte in name.encode():
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value


def bits(seed: int, purpose: int, count: int, position: int = 0) -> np.ndarray:
    """The first words of a stream (epoch 0): word i is lane i % 4 of block i // 4."""
    blocks = (count + 3) // 4
    c0 = np.arange(blocks, dtype=np.uint64)
    c1, c2, c3 = (np.full(blocks, value, np.uint64) for value in (position, 0, purpose))
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0 = (p1 >> WORD) ^ c1 ^ np.uint64(k0)
        c2 = (p0 >> WORD) ^ c3 ^ np.uint64(k1)
        c1, c3 = p1 & LOW, p0 & LOW
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).reshape(-1)[:count].astype(np.uint32)


def uniform(seed: int, name: str, count: int) -> np.ndarray:
    """`count` doubles in [0, 1) with 24 bits each, from the stream of that name."""
    return (bits(seed, purpose(name), count) >> np.uint32(8)) * 2.0**-24
