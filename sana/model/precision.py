"""How a GPU multiplies float32: said by whoever computes, and put back after it.

torch has two sets of process-wide flags for it. On its own it lets cuDNN's convolutions use TF32 (19 bits of a float32:
10 of the mantissa) and lets no matrix product, whatever a config says; another library may change either. A CPU has no
TF32: there all of this computes in float32.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch

from sana.config.encode import VaePrecision
from sana.errors import ConfigError

_OVERRIDE = "NVIDIA_TF32_OVERRIDE"  # read by cuDNN and cuBLAS themselves, over any flag


class Float32Math(NamedTuple):
    """Whether float32 convolutions and matrix products may use TF32 on a GPU."""

    tf32_convolutions: bool
    tf32_matmuls: bool


STRICT = Float32Math(tf32_convolutions=False, tf32_matmuls=False)
# of a VAE, where convolutions are all that counts: as torch does on its own, so earlier latents keep their address
TF32_CONVOLUTIONS = Float32Math(tf32_convolutions=True, tf32_matmuls=False)
TF32 = Float32Math(tf32_convolutions=True, tf32_matmuls=True)

VAE_DTYPES: dict[VaePrecision, torch.dtype] = {"tf32": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16}
VAE_MATH: dict[VaePrecision, Float32Math] = {"tf32": TF32_CONVOLUTIONS, "fp32": STRICT, "bf16": STRICT}
# by train.mixed_precision; autocast in bf16 leaves no large float32 product
MODEL_MATH: dict[Literal["fp32", "tf32", "bf16"], Float32Math] = {"fp32": STRICT, "tf32": TF32, "bf16": STRICT}

_lock = threading.Lock()
_active: list[tuple[int, Float32Math]] = []  # thread, what it computes in; the last one holds
_outside: list["_Flags"] = []  # the flags before the first of them


@contextmanager
def float32_math(math: Float32Math) -> Iterator[None]:
    """Compute so within it; the flags are then as they were, also after an exception.

    The flags are the process's: backward threads of autograd see them, and a `with` in another one holds inside.
    Threads may compute at the same time if they want the same.

    Raises:
        RuntimeError: another thread computes in another precision at this moment.
        ConfigError: on a GPU, an environment variable would override the choice.
    """
    if _OVERRIDE in os.environ and torch.cuda.is_available():
        raise ConfigError(
            f"{_OVERRIDE} is {os.environ[_OVERRIDE]!r}: NVIDIA's libraries would then use TF32 always or never, "
            "whatever the config says; unset it and set encode_latents.vae_precision, sample.vae_precision or "
            "train.mixed_precision"
        )
    entry = (threading.get_ident(), math)
    with _lock:
        others = {wanted for thread, wanted in _active if thread != entry[0]} - {math}
        if others:
            raise RuntimeError(f"cannot compute with {math} while another thread computes with {others.pop()}")
        if not _active:
            _outside.append(_Flags.now())
        _active.append(entry)
        _set(math)
    try:
        yield
    finally:
        with _lock:
            # the last one of this thread: another's may lie above it
            at = max(number for number, other in enumerate(_active) if other == entry)
            del _active[at]
            if _active:
                _set(_active[-1][1])
            else:
                _outside.pop().restore()


class _Flags(NamedTuple):
    """What the flags were: the old ones, and the new ones since torch 2.9, which also know "none" (inherited)."""

    convolutions: bool
    matmuls: bool
    by_operation: tuple[str, str, str] | None

    @classmethod
    def now(cls) -> "_Flags":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch 2.9 to 2.12 call the old ones deprecated
            old = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        return cls(*old, tuple(one.fp32_precision for one in _operations()) or None)  # type: ignore[arg-type]

    def restore(self) -> None:
        _set(Float32Math(self.convolutions, self.matmuls))
        for one, value in zip(_operations(), self.by_operation or (), strict=True):
            one.fp32_precision = value


def _set(math: Float32Math) -> None:
    """Set the old flags and then the new ones to the same.

    The new ones alone would do for eager kernels, but inductor and dynamo read the old ones, which then raise; the old
    ones alone leave a convolution to the flag above it ("none").
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.backends.cudnn.allow_tf32 = math.tf32_convolutions
        torch.backends.cuda.matmul.allow_tf32 = math.tf32_matmuls
    for one, tf32 in zip(_operations(), (*[math.tf32_convolutions] * 2, math.tf32_matmuls), strict=False):
        one.fp32_precision = "tf32" if tf32 else "ieee"


def _operations() -> tuple[Any, ...]:
    """Return where the new flags of convolutions, RNNs and matrix products are; nothing before torch 2.9."""
    cudnn = torch.backends.cudnn
    return (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul) if hasattr(cudnn, "conv") else ()
