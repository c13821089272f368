"""The VAE's encoder compiled: element-wise kernels fused around the convolutions.

Its encoder and not the whole `AutoencoderKLWan`, which changes attributes of itself while it runs (diffusers issue
14770). The encoder is given the frames one and then four at a time with what the last ones left, so there are three
graphs for each height and width: of the first frame, the next four and all others, whatever the length of a window.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from sana.errors import ConfigError
from sana.model.device import use_compile_cache

_MAX_GRAPHS = 3 * 512  # sizes; beyond it dynamo would go on uncompiled, with other last bits


def compile_encoder(
    vae: AutoencoderKLWan, *, cache: Path | None, backend: str | Callable[..., object] = "inductor"
) -> None:
    """Compile the encoder with its first windows of each size; `cache` is where later processes find what was compiled.

    Sizes are constants of the code: inductor fails on the padding of the first convolution otherwise.
    """
    if cache is not None:
        use_compile_cache(cache)
    vae.encoder.compile(dynamic=False, backend=backend)
    vae.encoder = _Contiguous(vae.encoder)


class _Contiguous(nn.Module):
    """Gives the encoder frames that lie side by side: the strides of a slice tell how long its window is."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, **cache: Any) -> Tensor:
        encoded: Tensor = self.encoder(x.contiguous(), **cache)
        return encoded


@contextmanager
def compiling(vae: AutoencoderKLWan) -> Iterator[None]:
    """Around an encoding; does nothing for a VAE that is not compiled.

    Raises:
        ConfigError: the encoder cannot be compiled here, for instance without a C++ compiler.
    """
    if not isinstance(vae.encoder, _Contiguous):
        yield  # and torch._dynamo, which takes a second, is not imported
        return
    limits = dict.fromkeys(("recompile_limit", "accumulated_recompile_limit"), _MAX_GRAPHS)
    try:
        with torch._dynamo.config.patch({**limits, "fail_on_recompile_limit_hit": True}):
            yield
    except (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit) as error:
        why = " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:200]
        raise ConfigError(
            f"encode_latents.compile: the VAE's encoder cannot be compiled here ({why}); set it to false"
        ) from error
