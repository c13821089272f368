"""Every random number of training and evaluation: counter-based draws, keyed by their purpose.

A draw is a pure function of its key, so resuming, the number of ranks, the batch size and the order of work
cannot change it. Keys in use: ("train", seed, step, position in the global batch), ("eval", sample_id, grid
size, level), ("adapter", seed, name of a tensor). The bits are Philox 4x64 (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011).
"""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_UNIFORM_BITS = 23  # (k + 1/2) / 2**23 is exact in float32, and never 0 or 1


def philox_normal(shape: Sequence[int], *, key: tuple[str | int, ...]) -> Tensor:
    """Draw standard normals: float32 of `shape` on the CPU, the same for the same key on any machine."""
    return torch.from_numpy(_generator("normal", key).standard_normal(tuple(shape), dtype=np.float32))


def philox_uniform(shape: Sequence[int], *, key: tuple[str | int, ...]) -> Tensor:
    """Draw uniforms from the open interval (0, 1): float32 of `shape` on the CPU, the same for the same key."""
    steps = _generator("uniform", key).integers(2**_UNIFORM_BITS, size=tuple(shape), dtype=np.int64)
    return torch.from_numpy(((steps + 0.5) / 2**_UNIFORM_BITS).astype(np.float32))


def philox_integers(shape: Sequence[int], *, bits: int, key: tuple[str | int, ...]) -> Tensor:
    """Draw integers of so many bits, at most 62: int64 of `shape` on the CPU, the same for the same key."""
    return torch.from_numpy(_generator("integers", key).integers(2**bits, size=tuple(shape), dtype=np.int64))


def _generator(distribution: str, key: tuple[str | int, ...]) -> np.random.Generator:
    # The distribution is part of the key: otherwise a step's sigma and its noise would be made of the same bits.
    text = json.dumps([distribution, *key], separators=(",", ":"))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
