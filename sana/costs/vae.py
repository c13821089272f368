"""Counts of the Wan 2.1 VAE, from its config.json alone: parameters and floating point operations of a clip.

A multiplication and an addition are two FLOPs; convolutions and attention count. The VAE works through a clip in
chunks of 1, 4, 4, ... frames, whose first frame skips the convolutions over time. Units in this module: F frames, f
frames of the latent, P pixels of a frame.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from sana.bucket import Bucket
from sana.errors import SanaError

CUBE = 3 * 3 * 3
SQUARE = 3 * 3
TILE, TILE_STRIDE = 256, 192  # pixels, of a VAE that tiles


@dataclass(frozen=True)
class _Layer:
    """A convolution: its parameters, and the positions (over frames and pixels) at which it is computed."""

    inputs: int
    outputs: int
    kernel: int
    positions: float

    @property
    def num_parameters(self) -> int:
        return self.inputs * self.outputs * self.kernel + self.outputs

    @property
    def flops(self) -> float:
        return 2 * self.inputs * self.outputs * self.kernel * self.positions


@dataclass(frozen=True)
class _Gain:
    """The scale of a norm: parameters, and no FLOPs that count."""

    num_parameters: int
    flops: float = 0.0


@dataclass(frozen=True)
class _Attention:
    """Attention within each frame: no parameters but those of the layers around it."""

    channels: int
    frames: float
    pixels: float
    num_parameters: int = 0

    @property
    def flops(self) -> float:
        return self.frames * 2 * 2 * self.pixels * self.pixels * self.channels


_Part = _Layer | _Gain | _Attention


@dataclass(frozen=True)
class VaeSizes:
    """What of an AutoencoderKLWan decides its costs; the names are those of its config.json."""

    base_dim: int
    z_dim: int
    dim_mult: tuple[int, ...]
    num_res_blocks: int
    temperal_downsample: tuple[bool, ...]
    decoder_base_dim: int
    in_channels: int = 3
    out_channels: int = 3

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str = "vae/config.json") -> Self:
        """Read the values of a config.json. Raises SanaError: one is missing, or the VAE is of another kind."""
        if config.get("is_residual") or config.get("patch_size") or config.get("attn_scales"):
            raise SanaError(f"{where}: the costs of a VAE with is_residual, patch_size or attn_scales are not known")
        try:
            return cls(
                base_dim=int(config["base_dim"]),
                z_dim=int(config["z_dim"]),
                dim_mult=tuple(int(multiple) for multiple in config["dim_mult"]),
                num_res_blocks=int(config["num_res_blocks"]),
                temperal_downsample=tuple(bool(halved) for halved in config["temperal_downsample"]),
                decoder_base_dim=int(config.get("decoder_base_dim") or config["base_dim"]),
                in_channels=int(config.get("in_channels", 3)),
                out_channels=int(config.get("out_channels", 3)),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise SanaError(
                f"{where}: the sizes of the VAE cannot be read ({type(error).__name__}: {error}); is it a Sana Video "
                "checkpoint in diffusers layout?"
            ) from error

    @property
    def num_parameters(self) -> int:
        """Parameters of encoder and decoder."""
        some = Bucket(5, 64, 64)
        parts = (*self._encoder(some.num_frames, 64, 64), *self._decoder(some))
        return sum(part.num_parameters for part in parts)

    def encode_flops(self, bucket: Bucket, *, tiling: bool = False) -> int:
        """FLOPs of encoding one clip; tiles overlap, so `tiling` computes more."""
        tiles = tiles_of(bucket) if tiling else [bucket]
        return round(
            sum(part.flops for tile in tiles for part in self._encoder(tile.num_frames, tile.height, tile.width))
        )

    def decode_flops(self, bucket: Bucket, *, tiling: bool = False) -> int:
        """FLOPs of decoding one clip; tiles overlap, so `tiling` computes more."""
        tiles = tiles_of(bucket) if tiling else [bucket]
        return round(sum(part.flops for tile in tiles for part in self._decoder(tile)))

    def _encoder(self, num_frames: int, height: int, width: int) -> Iterator[_Part]:
        frames, pixels, channels = num_frames, float(height * width), self.base_dim
        yield _Layer(self.in_channels, channels, CUBE, frames * pixels)
        for level, multiple in enumerate(self.dim_mult):
            for _ in range(self.num_res_blocks):
                yield from _residual(channels, self.base_dim * multiple, frames * pixels)
                channels = self.base_dim * multiple
            if level < len(self.dim_mult) - 1:
                pixels /= 4
                yield _Layer(channels, channels, SQUARE, frames * pixels)
                if self.temperal_downsample[level]:
                    frames = 1 + (frames - 1) // 2
                    yield _Layer(channels, channels, 3, (frames - 1) * pixels)
        yield from _middle(channels, frames, pixels)
        yield _Gain(channels)
        yield _Layer(channels, 2 * self.z_dim, CUBE, frames * pixels)
        yield _Layer(2 * self.z_dim, 2 * self.z_dim, 1, frames * pixels)

    def _decoder(self, bucket: Bucket) -> Iterator[_Part]:
        _, frames, height, width = bucket.latent_shape
        pixels, channels = float(height * width), self.decoder_base_dim * self.dim_mult[-1]
        upsampled = self.temperal_downsample[::-1]
        yield _Layer(self.z_dim, self.z_dim, 1, frames * pixels)
        yield _Layer(self.z_dim, channels, CUBE, frames * pixels)
        yield from _middle(channels, frames, pixels)
        for level, multiple in enumerate(self.dim_mult[::-1]):
            for _ in range(self.num_res_blocks + 1):
                yield from _residual(channels, self.decoder_base_dim * multiple, frames * pixels)
                channels = self.decoder_base_dim * multiple
            if level < len(self.dim_mult) - 1:
                if upsampled[level]:
                    yield _Layer(channels, 2 * channels, 3, (frames - 1) * pixels)
                    frames = 1 + 2 * (frames - 1)
                pixels *= 4
                yield _Layer(channels, channels // 2, SQUARE, frames * pixels)
                channels //= 2
        yield _Gain(channels)
        yield _Layer(channels, self.out_channels, CUBE, frames * pixels)


def _residual(inputs: int, outputs: int, positions: float) -> Iterator[_Part]:
    yield _Gain(inputs + outputs)
    yield _Layer(inputs, outputs, CUBE, positions)
    yield _Layer(outputs, outputs, CUBE, positions)
    if inputs != outputs:
        yield _Layer(inputs, outputs, 1, positions)


def _middle(channels: int, frames: float, pixels: float) -> Iterator[_Part]:
    """Two residual blocks around attention."""
    yield from _residual(channels, channels, frames * pixels)
    yield _Gain(channels)
    yield _Layer(channels, 3 * channels, 1, frames * pixels)
    yield _Attention(channels, frames, pixels)
    yield _Layer(channels, channels, 1, frames * pixels)
    yield from _residual(channels, channels, frames * pixels)


def tiles_of(bucket: Bucket) -> list[Bucket]:
    """Return the shapes of the tiles that a clip is cut into, the largest first; one that fits a tile is one."""
    heights, widths = _tiles(bucket.height), _tiles(bucket.width)
    if max(bucket.height, bucket.width) <= TILE:
        return [bucket]
    return [Bucket(bucket.num_frames, height, width) for height in heights for width in widths]


def _tiles(side: int) -> list[int]:
    """Return the sizes of the tiles along a side, as the VAE cuts them."""
    return [min(TILE, side - start) for start in range(0, side, TILE_STRIDE)]
