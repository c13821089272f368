"""What the videos are, as probe found them: how long, how fast, how large, and how they are coded."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sana.artifact import Artifact
from sana.data.columns import batches, coded
from sana.report.histogram import Histogram, histogram
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
    durations: list[np.ndarray] = []  # 4 bytes a clip, whatever their number
    rates: Counter[float] = Counter()
    sizes: Counter[int] = Counter()  # by width and height, joined
    codecs: Counter[tuple[str, str, int]] = Counter()
    sums = dict.fromkeys(("duration_s", "num_frames", "num_bytes"), 0.0)
    for batch in batches(store, probe, "clips.parquet", [*_TEXTS, *_NUMBERS]):
        number = {name: batch.column(name).to_numpy() for name in _NUMBERS}
        names, codec = coded(batch.column("codec"))
        formats, pixels = coded(batch.column("pixel_format"))
        for whole, num in _counted(_pack(codec, pixels, number["bit_depth"])):
            c, p, bits = _unpack(whole, 3)
            codecs[names[c], formats[p], bits] += num
        sizes.update(dict(_counted(_pack(number["width"], number["height"]))))
        rates.update(dict(_counted(np.round(number["fps"], 2))))
        durations.append(number["duration_s"].astype(np.float32))
        for name in sums:
            sums[name] += number[name].sum(dtype=np.float64)
    kinds = sorted(codecs.items(), key=lambda item: (-item[1], item[0]))
    rows = [(*kind, num) for kind, num in kinds[:MAX_CODECS]]
    if rest := sum(num for _, num in kinds[MAX_CODECS:]):
        rows.append(("other", "", 0, rest))
    return Videos(
        num_clips=sum(codecs.values()),
        num_frames=int(sums["num_frames"]),
        num_bytes=int(sums["num_bytes"]),
        seconds=sums["duration_s"],
        durations_s=histogram(np.concatenate(durations)) if durations else None,
        rates=_rates(rates),
        sizes=_sizes(sizes),
        num_sizes=len(sizes),
        codecs=rows,
    )


def _counted(values: np.ndarray) -> list[tuple[Any, int]]:
    """Return each distinct value and how often it is there."""
    distinct, counts = np.unique(values, return_counts=True)
    return list(zip(distinct.tolist(), counts.tolist(), strict=True))


def _rates(counted: Mapping[float, int]) -> list[tuple[str, int]]:
    """The commonest rates in ascending order, to 1/100, pictures as `still`; the others in one row at the end."""
    ordered = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    rows = [(f"{rate:g}" if rate else "still", num) for rate, num in sorted(ordered[:MAX_RATES])]
    rest = sum(num for _, num in ordered[MAX_RATES:])
    return [*rows, ("other", rest)] if rest else rows


def _sizes(counted: Mapping[int, int]) -> list[Size]:
    """Return the distinct sizes; when they are too many to draw, those of one cell of a grid together."""
    pairs = [(*_unpack(whole, 2), num) for whole, num in counted.items()]
    cell = 1
    if len(pairs) > MAX_SIZES:
        cell = max(1, -(-max(max(width, height) for width, height, _ in pairs) // GRID))
    cells: dict[tuple[int, int], list[int]] = {}
    for width, height, num in pairs:
        sums = cells.setdefault((width // cell, height // cell), [0, 0, 0])
        for place, part in enumerate((width * num, height * num, num)):
            sums[place] += part
    found = [Size(width / num, height / num, num) for width, height, num in cells.values()]
    return sorted(found, key=lambda size: (-size.num_clips, size.width, size.height))


def _pack(*numbers: np.ndarray) -> np.ndarray:
    """Make one number of several below 2**20 each: these sort in a tenth of the time that rows of a matrix take."""
    whole = np.zeros(len(numbers[0]), np.int64)
    for part in numbers:
        whole = (whole << _BITS) | part.astype(np.int64)
    return whole


def _unpack(whole: int, num: int) -> tuple[int, ...]:
    """Return the `num` numbers that `_pack` made one."""
    return tuple((whole >> (_BITS * place)) & ((1 << _BITS) - 1) for place in reversed(range(num)))
