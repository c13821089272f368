"""Dropout before an adapter whose mask is a function of a sample's key, the layer and the element's place alone.

torch's own draws from the device's generator: a mask would depend on what was drawn before, so on the number of ranks,
the micro batch size and where a run was stopped. Here an integer hash of a counter decides, on the device.
"""

import zlib

import torch
from torch import Tensor, nn

_MASK32 = 2**32 - 1
# odd, and below 2**31, so that no product overflows 64 bits; of the usual rounds of xor, shift and multiply
_MULTIPLIERS = (0x45D9F3B, 0x119DE1F3)


class KeyedDropout(nn.Module):
    """Inverted dropout: zeroes each element with probability `p`, and divides the others by 1 - p.

    It acts where a gradient is computed, in training mode; elsewhere, as in evaluation, it is the identity. `keys`,
    int64 [B, 2] of 32 bits each, are those of the samples of the micro batch: the leading dimension of what comes is
    B, or B times frames with a sample's own together. `name` is the layer's.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p = p
        self.salt = zlib.crc32(name.encode())
        # no buffers: they would be broadcast from rank 0, whose samples are others
        self.keys: Tensor | None = None

    def set_keys(self, keys: Tensor) -> None:
        """Set the keys of the samples that come next, [B, 2]; the layer's own are made of them."""
        self.keys = (keys + self.salt) & _MASK32

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and torch.is_grad_enabled()):
            return x
        assert self.keys is not None  # the objective's part sets them
        return torch.where(kept(self.keys, x.shape, self.p), x / (1.0 - self.p), 0.0)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def kept(keys: Tensor, shape: torch.Size, p: float) -> Tensor:
    """Return which elements are kept, bool of `shape`; `keys` int64 [B, 2] of one layer."""
    counter = torch.arange(shape.numel() // len(keys), device=keys.device)  # element of the sample
    bits = _mixed((counter + keys[:, :1]) & _MASK32)
    bits = _mixed(bits ^ keys[:, 1:])
    return (bits >= round(p * 2**32)).view(shape)


def _mixed(bits: Tensor) -> Tensor:
    """Return 32 bits of which each depends on all of those that came; int64."""
    for multiplier in _MULTIPLIERS:
        bits = ((bits ^ (bits >> 16)) * multiplier) & _MASK32
    return bits ^ (bits >> 16)
