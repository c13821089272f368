"""Windows decoded ahead of whoever computes with them: parts of a partition, each cut into lanes that take turns.

A crash journal has what is open; what crashed a worker before is decoded alone, or rejected.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sana.data.schemas import Reason
from sana.data.sources.source import Source
from sana.data.video.one_pass import OF_ONE_PASS, read_windows
from sana.data.video.video import ClipRejected
from sana.runtime.crash_journal import MAX_CRASHES, CrashJournal, Quarantine
from sana.runtime.job import rank_journal
from sana.runtime.pool import slices
from sana.runtime.specs import CrashHistory, WorkerRange
from sana.runtime.work_partition import WorkPartition

Row = Mapping[str, Any]
Decoded = np.ndarray | ClipRejected
Item = tuple[int, Row, Future[Decoded]]  # number of the part, row, its window
Convert = Callable[[NDArray[np.uint8]], np.ndarray]  # of a window's frames, uint8 [F, H, W, 3]


def windows_ahead(
    partition: WorkPartition,
    sources: Mapping[str, Source],
    convert: Convert,
    *,
    workers: WorkerRange,
    crashes: CrashHistory,
    rank: int,
    num_threads: int,
) -> Iterator[Item]:
    """Decode this worker's parts; before, in the first worker, the quarantined clips, with no other clip open."""
    quarantined = Quarantine(crashes.num_crashes)
    journal = CrashJournal(rank_journal(Path(crashes.journal), rank))
    decode = WindowDecoder(sources, journal, frozenset(quarantined.to_reject), convert)
    apart = partition.apart(quarantined.to_isolate)
    if rank == 0:
        yield from decode_ahead(slices(apart, 1), decode, 0, first=-len(apart))
    parts = partition.parts(workers.first_worker + rank, workers.num_workers)
    yield from decode_ahead(parts, decode, num_threads)
    journal.close()


@dataclass(frozen=True)
class WindowDecoder:
    """Turns rows into what `convert` makes of their windows, or rejections, one after the other.

    Neighbours of one video are decoded in one pass over it.
    """

    sources: Mapping[str, Source]
    journal: CrashJournal
    to_reject: frozenset[str]
    convert: Convert

    def __call__(self, rows: Sequence[Row]) -> Generator[Decoded]:
        for (digest, *_), windows in groupby(rows, key=itemgetter(*OF_ONE_PASS)):
            yield from self._decode_video(digest, list(windows))

    def _decode_video(self, digest: str, windows: Sequence[Row]) -> Iterator[Decoded]:
        if digest in self.to_reject:
            rejection = ClipRejected(Reason.KILLED_WORKER, f"{MAX_CRASHES} processes died while they decoded it")
            yield from [rejection] * len(windows)
            return
        with self.sources[windows[0]["dataset"]].open_video(windows[0]["path"], digest=digest) as path:
            reading = read_windows(path, windows)
            for _ in windows:
                yield self._decode_next(digest, reading)

    def _decode_next(self, digest: str, reading: Iterator[NDArray[np.uint8] | ClipRejected]) -> Decoded:
        with self.journal.open(digest):  # not while others' turn has come: it is decoded now
            frames = next(reading)
            return frames if isinstance(frames, ClipRejected) else self.convert(frames)


def decode_ahead(
    parts: Iterable[Sequence[Row]],
    decode: Callable[[Sequence[Row]], Generator[Decoded]],
    num_ahead: int,
    first: int = 0,
) -> Iterator[Item]:
    """Yield (number of the part, row, its window), `num_ahead` of them decoded ahead, each by a thread.

    The next part is taken when its first row is to be decoded. Its rows are cut into one lane more than are decoded
    ahead, which take turns. So no lane is asked for its next window before the caller has waited for the one before it.
    """
    with ThreadPoolExecutor(max(num_ahead, 1)) as threads:
        waiting: deque[Item] = deque()
        for number, part in enumerate(parts, first):
            lanes = [(rows, decode(rows)) for rows in _lanes(part, num_ahead + 1)]
            for turn in range(len(lanes[0][0])):
                for rows, decoded in lanes:
                    if turn < len(rows):
                        is_last = turn == len(rows) - 1
                        waiting.append((number, rows[turn], threads.submit(_next_of, decoded, is_last=is_last)))
                        if len(waiting) > num_ahead:
                            yield waiting.popleft()
        while waiting:
            yield waiting.popleft()


def _next_of(lane: Generator[Decoded], *, is_last: bool) -> Decoded:
    decoded = next(lane)
    if is_last:
        lane.close()  # its video
    return decoded


def _lanes(rows: Sequence[Row], count: int) -> list[Sequence[Row]]:
    """Cut rows into at most `count` pieces of equal length, or one less: the longer ones first."""
    length, longer = divmod(len(rows), count)
    edges = [lane * length + min(lane, longer) for lane in range(count + 1)]
    return [rows[start:end] for start, end in pairwise(edges) if end > start]
