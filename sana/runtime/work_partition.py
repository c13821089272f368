"""How rows are divided among workers without a coordinator: each takes its own parts first, then helps the others.

What is done is read from the pool. Two may do the same part at the end of a run: that costs time, and nothing else.
"""

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import value_counts
from sana.runtime.pool import Pool

_LOOK_AGAIN = 20  # what others committed is looked up at most for a twentieth of the time


class WorkPartition:
    """Rows cut into parts of at most `part_size` and of one bucket each; they must be sorted by bucket.

    Rows that the pool has, or gets while this works, are left out.
    """

    def __init__(self, pool: Pool, rows: pa.Table, *, part_size: int) -> None:
        self._pool, self._rows, self._part_size = pool, rows, part_size
        self._keys = rows.column(pool.id_column).combine_chunks()
        self._done = np.zeros(rows.num_rows, bool)
        self._seen = pool.part_names()
        self._mark(pool.ids())
        self._look_at = 0.0

    def done(self) -> dict[str, int]:
        """Return how many rows are done already, by bucket."""
        return value_counts(self._rows.column("bucket").filter(pa.array(self._done)))

    def apart(self, digests: Sequence[str]) -> list[Mapping[str, Any]]:
        """Take the rows of these videos out, for the caller to do by itself; those not done yet are returned."""
        taken = pc.is_in(self._rows.column("digest"), pa.array(digests, pa.string())).to_numpy()
        left = taken & ~self._done
        self._done |= taken
        rows: list[Mapping[str, Any]] = self._rows.filter(pa.array(left)).to_pylist()
        return rows

    def parts(self, worker: int, num_workers: int) -> Iterator[list[Mapping[str, Any]]]:
        """Yield the parts of this worker in order, then those of the others from their end, less what is done."""
        cuts = self._cuts()
        others = [cut for number, cut in enumerate(cuts) if number % num_workers != worker]
        for start, end in [*cuts[worker::num_workers], *reversed(others)]:
            if num_workers > 1:
                self._look()
            left = ~self._done[start:end]
            if left.any():
                self._done[start:end] = True
                yield self._rows.slice(start, end - start).filter(pa.array(left)).to_pylist()

    def _cuts(self) -> list[tuple[int, int]]:
        """Return [start, end) of every part."""
        buckets = self._rows.column("bucket").combine_chunks().dictionary_encode().indices.to_numpy()
        edges = [0, *(np.flatnonzero(np.diff(buckets)) + 1).tolist(), len(buckets)]
        return [
            (start, min(start + self._part_size, end))
            for first, end in itertools.pairwise(edges)
            for start in range(first, end, self._part_size)
        ]

    def _look(self) -> None:
        """Mark what others have committed since the last look."""
        started = time.monotonic()
        if started >= self._look_at:
            self._mark(self._pool.ids_since(self._seen))
            ended = time.monotonic()
            self._look_at = ended + _LOOK_AGAIN * (ended - started)

    def _mark(self, ids: pa.ChunkedArray) -> None:
        if len(ids):
            self._done[pc.index_in(ids.combine_chunks(), value_set=self._keys).drop_null().to_numpy()] = True
