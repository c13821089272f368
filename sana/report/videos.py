"""What the videos are, as probe found them: how long, how fast, how large, and how they are coded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sana.artifact import Artifact
from sana.report.histogram import Histogram, histogram
from sana.report.tables import coded, columns
from sana.store import Store

MAX_RATES, MAX_CODECS, MAX_SIZES, GRID = 12, 30, 200, 32
_BITS = 20  # of a number that is joined to others: far more than a side of a video has pixels
_TEXTS = ["codec", "pixel_format"]
_NUMBERS = ["width", "height", "fps", "duration_s", "num_frames", "num_bytes", "bit_depth"]


@dataclass(frozen=True)
class Size:
    """A display size, or several that lie close together: the mean width and height, pixels, and how many clips."""

    width: float
    height: float
    num_clips: int


@dataclass(frozen=True)
class Videos:
    """Of the clips that probe kept. `rates`: (frames per second as text, clips), the rest as "other"."""

    num_clips: int
    num_frames: int
    num_bytes: int
    seconds: float
    durations_s: Histogram | None
    rates: Sequence[tuple[str, int]]
    sizes: Sequence[Size]
    num_sizes: int
    codecs: Sequence[tuple[str, str, int, int]]  # codec, pixel format, bits, clips


def videos(store: Store, probe: Artifact) -> Videos:
    """Read what probe found. Raises SanaError when its table is gone or damaged."""
    table = columns(store, probe, "clips.parquet", [*_TEXTS, *_NUMBERS], dictionary=_TEXTS)
    number = {name: table.column(name).to_numpy() for name in _NUMBERS}
    sizes, num_sizes = _sizes(number["width"], number["height"])
    codecs, codec = coded(table.column("codec"))
    formats, pixels = coded(table.column("pixel_format"))
    kinds, clips = np.unique(_joined(codec, pixels, number["bit_depth"]), return_counts=True)
    kept = sorted(zip(_parts(kinds, 3), clips.tolist(), strict=True), key=lambda kind: (-kind[1], kind[0]))
    rows = [(codecs[c], formats[p], bits, num) for (c, p, bits), num in kept[:MAX_CODECS]]
    if rest := sum(num for _, num in kept[MAX_CODECS:]):
        rows.append(("other", "", 0, rest))
    return Videos(
        num_clips=table.num_rows,
        num_frames=int(number["num_frames"].sum(dtype=np.int64)),
        num_bytes=int(number["num_bytes"].sum()),
        seconds=float(number["duration_s"].sum()),
        durations_s=histogram(number["duration_s"]),
        rates=_rates(number["fps"]),
        sizes=sizes,
        num_sizes=num_sizes,
        codecs=rows,
    )


def _rates(fps: np.ndarray) -> list[tuple[str, int]]:
    """The commonest rates in ascending order, to 1/100; the others in one row at the end."""
    values, counts = np.unique(np.round(fps, 2), return_counts=True)
    common = np.sort(np.argsort(-counts, kind="stable")[:MAX_RATES])
    rows = [(f"{values[i]:g}", int(counts[i])) for i in common]
    rest = int(counts.sum()) - sum(num for _, num in rows)
    return [*rows, ("other", rest)] if rest else rows


def _sizes(width: np.ndarray, height: np.ndarray) -> tuple[list[Size], int]:
    """Return the distinct sizes, and how many; when they are too many to draw, those of one cell of a grid together."""
    distinct, place, counts = np.unique(_joined(width, height), return_inverse=True, return_counts=True)
    num_sizes = len(distinct)
    if num_sizes > MAX_SIZES:
        cell = max(1, -(-int(max(width.max(), height.max())) // GRID))
        _, place, counts = np.unique(_joined(width // cell, height // cell), return_inverse=True, return_counts=True)
    means = [np.bincount(place, values) / counts for values in (width, height)]
    found = [Size(float(w), float(h), int(n)) for w, h, n in zip(*means, counts, strict=True)]
    return sorted(found, key=lambda size: (-size.num_clips, size.width, size.height)), num_sizes


def _joined(*numbers: np.ndarray) -> np.ndarray:
    """Make one number of several below 2**20 each: these sort in a tenth of the time that rows of a matrix take."""
    whole = np.zeros(len(numbers[0]), np.int64)
    for part in numbers:
        whole = (whole << _BITS) | part.astype(np.int64)
    return whole


def _parts(joined: np.ndarray, num: int) -> list[tuple[int, ...]]:
    """Take apart what `_joined` made of `num` arrays."""
    shifts = [_BITS * (num - 1 - place) for place in range(num)]
    return [tuple(int(whole >> shift) & ((1 << _BITS) - 1) for shift in shifts) for whole in joined.tolist()]
