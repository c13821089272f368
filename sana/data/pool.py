"""Pools: rows that any artifact of a stage may reuse, committed part by part.

`<root>/<stage>/pool/<key>/parts/<part>.parquet` is the commit of a part: it is created last, once, and readers trust
nothing else. `compacted/` holds one table of many parts, so that planning is one read and not ten thousand.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa

from sana.data.manifest import read_parquet, to_parquet
from sana.errors import SanaError
from sana.store import Store

_Row = TypeVar("_Row")
COMPACT_FROM = 16  # parts that stand alone before a compacted table is worth an object


class Pool:
    """Rows of one schema under one key; `id_column` names each row."""

    def __init__(self, store: Store, stage: str, key: str, *, schema: pa.Schema, id_column: str) -> None:
        self.store = store
        self.folder = f"{stage}/pool/{key}"
        self.schema = schema
        self.id_column = id_column

    def rows(self) -> pa.Table:
        """Return all committed rows, one per id: the first by part name when two runs did the same work."""
        compacted, folded = self._compacted()
        tables = [] if compacted is None else [compacted]
        tables += [self._read(key) for key in self._loose(folded)]
        return self._unique(tables)

    def _read(self, key: str) -> pa.Table:
        try:
            return read_parquet(self.store.read(key))
        except SanaError as error:
            raise SanaError(f"{self.store.uri(key)}: {error}; remove that file, and its rows are made again") from error

    def compact(self) -> None:
        """Fold loose parts into one table; harmless at any moment, and when two do it at once."""
        compacted, folded = self._compacted()
        loose = self._loose(folded)
        if len(loose) < COMPACT_FROM:
            return
        tables = [] if compacted is None else [compacted]
        table = self._unique(tables + [self._read(key) for key in loose])
        names = sorted(folded | {_name(key) for key in loose})
        digest = hashlib.blake2b("\n".join(names).encode(), digest_size=8).hexdigest()
        data = to_parquet(table, metadata={"parts": json.dumps(names)})
        self.store.put_if_absent(f"{self.folder}/compacted/{len(names):09d}-{digest}.parquet", data)

    def commit_part(self, rows: pa.Table) -> bool:
        """Commit rows as one part, named by their ids; False when the same part was committed before."""
        return self.store.put_if_absent(f"{self.folder}/parts/{self.part_name(rows)}.parquet", to_parquet(rows))

    def part_name(self, rows: pa.Table) -> str:
        """The name of the part that holds exactly these ids."""
        return part_name(rows.column(self.id_column).to_pylist())

    def _compacted(self) -> tuple[pa.Table | None, set[str]]:
        keys = [key for key, _ in self.store.list(f"{self.folder}/compacted")]
        if not keys:
            return None, set()
        table = self._read(keys[-1])  # sorted by the number of parts: the last has most
        return table, set(json.loads(table.schema.metadata[b"parts"]))

    def _loose(self, folded: set[str]) -> list[str]:
        return [key for key, _ in self.store.list(f"{self.folder}/parts") if _name(key) not in folded]

    def _unique(self, tables: Sequence[pa.Table]) -> pa.Table:
        if not tables:
            return self.schema.empty_table()
        table = pa.concat_tables([t.select(self.schema.names).cast(self.schema) for t in tables])
        ids = table.column(self.id_column).to_pylist()
        first = {name: row for row, name in reversed(list(enumerate(ids)))}
        return table if len(first) == len(ids) else table.take(sorted(first.values()))


def part_name(ids: Iterable[str]) -> str:
    """Return 16 hex digits that name a set of ids, whatever their order."""
    return hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=8).hexdigest()


def slices(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    """Cut rows into parts of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".parquet")
