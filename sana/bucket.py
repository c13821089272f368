"""Buckets: the shapes a clip may take. `sana.data.bucketing.assignment` decides which of them a clip gets.

Shapes in this module: F frames, H height, W width (pixels); f h w the same after the VAE.
"""

import math
import re
from dataclasses import dataclass
from typing import Self

LATENT_CHANNELS = 16  # Wan 2.1 VAE
TEMPORAL_STRIDE = 4  # one latent frame for the first frame, then one for every 4
SPATIAL_STRIDE = 8
PATCH = 2  # the transformer's spatial patch, in latent pixels
TOKENS_480P = 32_760  # latent tokens of 81x480x832, the model's own shape

_BYTES_PER_VALUE = {"fp32": 4, "fp16": 2, "bf16": 2}
_NAME = re.compile(r"^(\d+)x(\d+)x(\d+)$")


@dataclass(frozen=True, order=True)
class Bucket:
    """A shape (frames, height, width) that every window in it is cut to; written `81x480x832`."""

    num_frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        multiple = SPATIAL_STRIDE * PATCH
        if self.num_frames < 1 or (self.num_frames - 1) % TEMPORAL_STRIDE:
            raise ValueError(
                f"bucket {self}: {self.num_frames} frames is not 4k + 1 (1, 5, 9, ... 81); "
                f"the nearest below is {max(1, self.num_frames - (self.num_frames - 1) % TEMPORAL_STRIDE)}"
            )
        for side, size in (("height", self.height), ("width", self.width)):
            if size < multiple or size % multiple:
                raise ValueError(
                    f"bucket {self}: {side} {size} is not a multiple of {multiple}; "
                    f"the nearest is {max(multiple, round(size / multiple) * multiple)}"
                )

    def __str__(self) -> str:
        return f"{self.num_frames}x{self.height}x{self.width}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `frames x height x width`, for example `81x480x832`.

        Raises:
            ValueError: the text is not of that form, or the shape is not one the model takes.
        """
        match = _NAME.match(text)
        if match is None:
            comma = "; between two of them a `,` is needed" if len(text.split()) > 1 else ""
            raise ValueError(f"bucket {text!r} is not frames x height x width, for example 81x480x832{comma}")
        return cls(*(int(part) for part in match.groups()))

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """`(16, 1 + (F - 1) / 4, H / 8, W / 8)`: the Wan VAE's output for one window of this bucket."""
        frames = 1 + (self.num_frames - 1) // TEMPORAL_STRIDE
        return LATENT_CHANNELS, frames, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE

    @property
    def num_tokens(self) -> int:
        """Tokens of one sample of this bucket in the transformer."""
        _, frames, height, width = self.latent_shape
        return frames * (height // PATCH) * (width // PATCH)

    def latent_bytes(self, dtype: str) -> int:
        """Bytes of one stored latent; `dtype` is fp32, fp16 or bf16."""
        return math.prod(self.latent_shape) * _BYTES_PER_VALUE[dtype]

    @property
    def log_aspect(self) -> float:
        """Natural logarithm of width / height: symmetric about square."""
        return math.log(self.width / self.height)


def sizes_for(resolution: float, resolution_type: str) -> tuple[tuple[int, int], ...]:
    """Return a (height, width) for each aspect ratio of the official table, as near to `resolution` as 16s allow.

    `resolution_type` pixel_area: the area is resolution squared; area: resolution megapixels; pixel: the shorter side.
    """
    multiple = SPATIAL_STRIDE * PATCH
    sizes: set[tuple[int, int]] = set()
    for table_height, table_width in OFFICIAL_480P:
        aspect = table_width / table_height
        if resolution_type == "pixel":
            rows, columns = resolution * max(1.0, 1 / aspect), resolution * max(1.0, aspect)
        else:
            area = resolution**2 if resolution_type == "pixel_area" else resolution * 1e6
            rows, columns = math.sqrt(area / aspect), math.sqrt(area * aspect)
        height, width = (max(multiple, round(side / multiple) * multiple) for side in (rows, columns))
        sizes.add((height, width))
    return tuple(sorted(sizes))


# The official 480p and 720p tables (height, width), as in diffusers' SanaVideoPipeline and NVlabs/Sana.
OFFICIAL_480P = (
    (448, 896), (480, 832), (528, 768), (560, 720), (624, 624), (672, 592),
    (720, 560), (768, 528), (816, 496), (832, 480), (896, 448),
)  # fmt: skip
OFFICIAL_720P = (
    (672, 1344), (704, 1280), (800, 1152), (832, 1088), (960, 960), (1024, 896),
    (1088, 832), (1152, 800), (1248, 736), (1280, 704), (1344, 672),
)  # fmt: skip
