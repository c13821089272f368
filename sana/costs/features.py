"""Counts of an image encoder's features, from its config.json and a bucket alone.

Shapes in this module: f frames, h height, w width of a latent; a grid is rows x columns of features of one frame.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sana.bucket import PATCH, Bucket
from sana.errors import SanaError

KIND = "dinov2"  # model_type of a config.json
_BYTES = 2  # of a number: features are stored in fp16


@dataclass(frozen=True)
class FeatureSizes:
    """What of a Dinov2Model decides what its features are; the names are those of its config.json."""

    hidden_size: int
    patch_size: int

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str) -> Self:
        """Read the values of a config.json. Raises SanaError: it is of another kind of model, or one is missing."""
        kind = config.get("model_type")
        if kind != KIND:
            raise SanaError(
                f"{where}: model_type is {kind!r}, and encode_features.encoder must be a {KIND}, such as "
                "facebook/dinov2-giant (dinov2-large, -base, -small)"
            )
        try:
            return cls(hidden_size=int(config["hidden_size"]), patch_size=int(config.get("patch_size", 14)))
        except (KeyError, TypeError, ValueError) as error:
            raise SanaError(f"{where}: the encoder's sizes cannot be read ({type(error).__name__}: {error})") from error


def feature_grid(bucket: Bucket, tokens_per_cell: int) -> tuple[int, int]:
    """Return rows and columns of the features of one frame: as many as cells of so many tokens a side cover it.

    Raises nothing: a last cell that would be cut makes all cells a little smaller, in equal parts.
    """
    _, _, height, width = bucket.latent_shape
    return math.ceil(height // PATCH / tokens_per_cell), math.ceil(width // PATCH / tokens_per_cell)


def feature_shape(bucket: Bucket, tokens_per_cell: int, sizes: FeatureSizes) -> tuple[int, int, int, int]:
    """Return the shape of a window's features: frames of its latent, rows, columns, numbers of one feature."""
    return bucket.latent_shape[1], *feature_grid(bucket, tokens_per_cell), sizes.hidden_size


def feature_bytes(bucket: Bucket, tokens_per_cell: int, sizes: FeatureSizes) -> int:
    """Return the bytes of a window's features, as they are stored."""
    return _BYTES * math.prod(feature_shape(bucket, tokens_per_cell, sizes))


def encoder_size(bucket: Bucket, short_side: int, patch_size: int) -> tuple[int, int]:
    """Return height and width of a frame for the encoder: the aspect kept to the nearest multiple of its patch."""
    scale = short_side / min(bucket.height, bucket.width)
    height, width = (max(1, round(side * scale / patch_size)) * patch_size for side in (bucket.height, bucket.width))
    return height, width
