"""Parts of tensors, latents or masks, written behind whoever makes them.

One thread packs, digests and stores shards and commits parts, in order, so that a GPU waits for no disk and no upload.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from sana.arrow import table_of
from sana.data.shards.shard import Location, write_shard
from sana.data.shards.shard_tables import require_shards
from sana.data.video.video import ClipRejected
from sana.runtime.pool import Pool, part_name

_NO_LOCATION = Location("", 0, 0, "", "", ())
Row = Mapping[str, Any]


class PartWriter:
    """Writes a part's tensors as shards of about `shard_bytes`, and then commits its rows to the pool.

    Rows have the pool's id. In memory are the tensors of the shard that is being filled and of the one that is being
    written. What goes wrong in the thread is raised by the next call, or at the end of the `with`.
    """

    def __init__(self, pool: Pool, *, shard_bytes: int, provenance: str) -> None:
        self._pool, self._shard_bytes, self._provenance = pool, shard_bytes, provenance
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="part-writer")
        self._writing: Future[None] | None = None
        self._rows: list[Row] = []
        self._rejections: dict[str, ClipRejected] = {}
        self._open: dict[str, Tensor] = {}
        self._open_bytes = 0
        self._written: dict[str, Location] = {}  # of the part; the thread adds to it

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._writing is not None:
                self._writing.result()
        finally:
            self._thread.shutdown()

    def add(self, row: Row, tensor: Tensor) -> None:
        """Add a sample and its tensor, which is on the CPU in the stored dtype and not changed any more."""
        self._rows.append(row)
        self._open[row[self._pool.id_column]] = tensor
        self._open_bytes += tensor.nbytes
        if self._open_bytes >= self._shard_bytes:
            self._flush()

    def reject(self, row: Row, rejection: ClipRejected) -> None:
        """Add a sample that could not be decoded."""
        self._rows.append(row)
        self._rejections[row[self._pool.id_column]] = rejection

    def end_part(self) -> None:
        """Commit what was added as one part, once its shards are stored."""
        self._flush()
        rows, rejections, written = self._rows, self._rejections, self._written
        self._submit(lambda: self._commit(rows, rejections, written))
        self._rows, self._rejections, self._written = [], {}, {}

    def _flush(self) -> None:
        if self._open:
            tensors, written = self._open, self._written
            self._submit(lambda: self._write(tensors, written))
            self._open, self._open_bytes = {}, 0

    def _submit(self, work: Callable[[], None]) -> None:
        if self._writing is not None:
            self._writing.result()
        self._writing = self._thread.submit(work)

    def _write(self, tensors: dict[str, Tensor], written: dict[str, Location]) -> None:
        written |= write_shard(self._pool.store, f"{self._pool.folder}/shards", part_name(tensors), tensors)

    def _commit(self, rows: list[Row], rejections: Mapping[str, ClipRejected], written: Mapping[str, Location]) -> None:
        table = table_of([self._index_row(row, rejections, written) for row in rows], self._pool.schema)
        require_shards(self._pool.store, table)  # `gc` may have deleted them
        self._pool.commit_part(table)

    def _index_row(
        self, row: Row, rejections: Mapping[str, ClipRejected], written: Mapping[str, Location]
    ) -> dict[str, Any]:
        name = row[self._pool.id_column]
        rejection = rejections.get(name)
        why = {"reason": rejection.reason, "detail": rejection.detail} if rejection else {"reason": "", "detail": ""}
        where = vars(written.get(name, _NO_LOCATION))
        return {**row, **why, **where, "provenance": self._provenance}
