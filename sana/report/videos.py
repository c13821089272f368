"""What the videos are, as probe found them: how long, how fast, how large, and how they are coded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sana.artifact import Artifact
from sana.report.histogram import Histogram, histogram
from sana.report.tables import coded, columns
from sana.store import Store

MAX_RATES, MAX_CODECS, GRID = 12, 30, 32
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
    kinds, clips = np.unique(np.stack([codec, pixels, number["bit_depth"]]), axis=1, return_counts=True)
    kept = sorted(zip(kinds.T.tolist(), clips.tolist(), strict=True), key=lambda kind: (-kind[1], kind[0]))
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
    pairs, place, counts = np.unique(np.stack([width, height]), axis=1, return_inverse=True, return_counts=True)
    num_sizes = pairs.shape[1]
    if num_sizes > 200:
        cell = max(1, int(np.ceil(pairs.max() / GRID)))
        _, place, counts = np.unique(
            np.stack([width // cell, height // cell]), axis=1, return_inverse=True, return_counts=True
        )
    place = place.reshape(-1)
    means = [np.bincount(place, values) / counts for values in (width, height)]
    found = [Size(float(w), float(h), int(n)) for w, h, n in zip(*means, counts, strict=True)]
    return sorted(found, key=lambda size: (-size.num_clips, size.width, size.height)), num_sizes
