"""A sample of a data set: so many clips, spread over its paths, and no more bytes than may be read for a first look."""

import copy
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from sana.data.sources.source import Source
from sana.errors import SanaError
from sana.wording import in_units

_GOLDEN = 0.6180339887498949  # multiples of it fill (0, 1) evenly, however many are taken


@dataclass(frozen=True)
class SampleLimits:
    """How much of a source is looked at: clips, and bytes that are read of local files or fetched of remote ones."""

    clips: int = 200
    local_bytes: int = 4 * 2**30
    remote_bytes: int = 256 * 2**20

    def bytes_of(self, source: Source) -> int:
        return self.local_bytes if source.is_local else self.remote_bytes


def archives_to_read(source: Source, limits: SampleLimits) -> tuple[str, ...] | None:
    """Return the paths of those archives of a source that may be read for a look; None: all, or none is unread.

    Raises:
        SanaError: the smallest is larger than the limit.
    """
    unread = sorted(source.unread_archives(), key=lambda file: (file.num_bytes, file.path))
    most = limits.bytes_of(source)
    if sum(file.num_bytes for file in unread) <= most:
        return None
    if unread[0].num_bytes > most:
        raise SanaError(
            f"{source.uri} has {len(unread)} archives, the smallest of {in_units(unread[0].num_bytes)}, and a first "
            f"look reads {in_units(most)} at most"
        )
    total = np.cumsum([file.num_bytes for file in unread])
    return tuple(file.path for file in unread[: int(np.searchsorted(total, most, side="right"))])


def sampled(source: Source, limits: SampleLimits) -> Source:
    """Return the source with at most so many of its videos to be read, or itself where that is all.

    Raises:
        SanaError: it cannot be listed, or the tables of its captions are larger than the limit.
    """
    most = limits.bytes_of(source)
    tables = 0 if source.layout in ("textfile", "none") else sum(source.caption_files.column("num_bytes").to_pylist())
    if not source.is_local and not source.is_table and tables > most:
        raise SanaError(
            f"{source.uri} has tables of captions of {in_units(tables)}, and a first look fetches {in_units(most)}"
        )
    rows = sample_rows(source.videos, limits.clips, most)
    if len(rows) == source.videos.num_rows:
        return source
    same = copy.copy(source)
    same.rows = rows
    return same


def sample_rows(videos: pa.Table, most_clips: int, most_bytes: int) -> np.ndarray:
    """Choose rows of a table LISTED, sorted: spread over it, of no more bytes together; the same for the same listing.

    Videos that no longer fit are passed over. Of videos that are all too large none is chosen.
    """
    num = videos.num_rows
    sizes = videos.column("num_bytes").to_numpy()
    if num <= most_clips and sizes.sum() <= most_bytes:
        return np.arange(num)
    candidates = min(num, 4 * most_clips)  # some of which may be too large
    spread = np.unique((np.arange(candidates) * num) // candidates)
    order = spread[np.argsort(np.arange(len(spread)) * _GOLDEN % 1.0, kind="stable")]
    chosen: list[int] = []
    left = most_bytes
    for row in order.tolist():
        if len(chosen) < most_clips and sizes[row] <= left:
            chosen.append(row)
            left -= int(sizes[row])
    return np.sort(np.array(chosen, dtype=np.int64))
