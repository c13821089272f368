"""TAEHV for Wan 2.1 latents (taew2_1): a tiny decoder of 11 million parameters, for previews, written to its layout.

Layout and meaning of the weights are those of github.com/madebyollin/taehv. Each block works on single frames; a
MemBlock also sees its input of the frame before, a TGrow makes two frames of one. So a video is decoded frame by frame,
with the memory of one. Shapes in this module: f h w of a latent, F H W of the video; n frames at once.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sana.bucket import LATENT_CHANNELS
from sana.config.places import at_home
from sana.errors import ConfigError

_CHANNELS = (256, 128, 64, 64)
_TRIMMED = 3  # frames before the first: a latent frame gives four, and the first stands for one
_PREFIX = "decoder."


class _Clamp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class _MemBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * channels, channels),
            nn.ReLU(),
            _conv(channels, channels),
            nn.ReLU(),
            _conv(channels, channels),
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        return torch.relu(self.conv(torch.cat([x, before], 1)) + x)


class _TGrow(nn.Module):
    def __init__(self, channels: int, num_frames: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels * num_frames, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        grown: Tensor = self.conv(x)
        return grown.reshape(-1, *x.shape[1:])


def _conv(inputs: int, outputs: int, *, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


def _stage(inputs: int, outputs: int, num_frames: int) -> list[nn.Module]:
    memory = [_MemBlock(inputs) for _ in range(3)]
    return [*memory, nn.Upsample(scale_factor=2), _TGrow(inputs, num_frames), _conv(inputs, outputs, bias=False)]


class Taehv(nn.Module):
    """The decoder; frozen, in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        first, second, third, last = _CHANNELS
        self.decoder = nn.Sequential(
            _Clamp(),
            _conv(LATENT_CHANNELS, first),
            nn.ReLU(),
            *_stage(first, second, 1),
            *_stage(second, third, 2),
            *_stage(third, last, 2),
            nn.ReLU(),
            _conv(last, 3),
        )
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decode normalised latents [1, 16, f, h, w] to uint8 [1 + 4 (f - 1), 8 h, 8 w, 3]."""
        memory: dict[int, Tensor] = {}
        weight = next(self.decoder.parameters())
        frames = []
        for latent in latents[0].to(weight.device, weight.dtype).unbind(1):
            x = latent[None]
            for index, block in enumerate(self.decoder):
                if isinstance(block, _MemBlock):
                    before = torch.cat([memory.get(index, torch.zeros_like(x[:1])), x[:-1]])
                    memory[index] = x[-1:]
                    x = block(x, before)
                else:
                    x = block(x)
            frames.append((x.clamp(0, 1) * 255).round().to(torch.uint8).cpu())
        video: NDArray[np.uint8] = torch.cat(frames)[_TRIMMED:].permute(0, 2, 3, 1).numpy()
        return video


def load_taehv(path: str, *, device: str | torch.device = "cpu", where: str) -> Taehv:
    """Load taew2_1 weights of the user, .safetensors or .pth; the encoder's are left out.

    `where` names the setting in errors. A .pth is read as tensors alone: nothing in it is run.

    Raises:
        ConfigError: the file is not there, cannot be read, or is of another model.
    """
    model = Taehv()
    try:
        stored = _read(at_home(path))
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        line = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(
            f"{where}: {path} cannot be read as weights ({line}); taew2_1.safetensors or taew2_1.pth of "
            "github.com/madebyollin/taehv is needed, or leave it out"
        ) from error
    found = {name.removeprefix(_PREFIX): tensor for name, tensor in stored.items() if name.startswith(_PREFIX)}
    wanted = model.decoder.state_dict()
    for name, tensor in wanted.items():
        if name in found and found[name].ndim and found[name].shape[0] > tensor.shape[0] and _is_tgrow(model, name):
            found[name] = found[name][-tensor.shape[0] :]  # of weights that could make two frames, the later one's
    wrong = [name for name, tensor in wanted.items() if name not in found or found[name].shape != tensor.shape]
    if wrong:
        name = f"{_PREFIX}{wrong[0]}"
        is_there = f"has {name} of shape {list(found[wrong[0]].shape)}" if wrong[0] in found else f"has no {name}"
        raise ConfigError(
            f"{where}: {path} {is_there}, which the decoder of Wan 2.1 latents needs with shape "
            f"{list(wanted[wrong[0]].shape)}; taew2_1 of github.com/madebyollin/taehv is needed"
        )
    model.decoder.load_state_dict({name: found[name].float() for name in wanted})
    return model.to(device)


def _is_tgrow(model: Taehv, name: str) -> bool:
    return isinstance(model.decoder[int(name.partition(".")[0])], _TGrow)


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        return load_file(path)
    stored: Any = torch.load(path, map_location="cpu", weights_only=True)
    named = stored.items() if isinstance(stored, Mapping) else ()
    return {str(name): tensor for name, tensor in named if isinstance(tensor, Tensor)}
