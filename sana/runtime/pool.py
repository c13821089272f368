"""Pools: rows that any artifact of a stage may reuse, committed part by part.

`<root>/<stage>/pool/<key>/parts/<part>.parquet` is the commit of a part: it is created last, once, and readers trust
nothing else. `compacted/` holds tables of many parts each, so that planning is a few reads and not ten thousand.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import read_parquet, to_parquet
from sana.errors import SanaError
from sana.runtime.threads import in_threads
from sana.store import Store

_Row = TypeVar("_Row")
COMPACT_FROM = 16  # loose parts before a compacted table is worth an object
COMPACT_ROWS = 2_000_000  # a larger compacted table is never written: it bounds memory, and what is written again
_READ_AT_ONCE = 16  # parts read at the same time: on S3 each is a round trip


@dataclass(frozen=True)
class _Compacted:
    """A table of many parts: `parts` are their names, `replaces` those of the compacted tables folded into it."""

    name: str
    rows: pa.Table
    parts: frozenset[str]
    replaces: frozenset[str]


class Pool:
    """Rows of one schema under one key; `id_column` names each row."""

    def __init__(self, store: Store, stage: str, key: str, *, schema: pa.Schema, id_column: str) -> None:
        self.store = store
        self.key = key
        self.folder = f"{stage}/pool/{key}"
        self.schema = schema
        self.id_column = id_column

    def rows(self) -> pa.Table:
        """Return all committed rows, one per id: the first by part name when two runs did the same work."""
        return self._rows(self.schema.names)

    def ids(self) -> pa.ChunkedArray:
        """Return the ids of all committed rows, each once."""
        return self._rows([self.id_column]).column(self.id_column)

    def reasons(self) -> pa.Table:
        """Return id and `reason` of all committed rows, each id once; an empty reason is a row that is no reject."""
        return self._rows([self.id_column, "reason"])

    def ids_since(self, seen: set[str]) -> pa.ChunkedArray:
        """Return the ids in parts that are not in `seen`, and add those parts' names to it: for who works beside us."""
        fresh = [key for key, _ in self.store.list(f"{self.folder}/parts") if _name(key) not in seen]
        seen.update(_name(key) for key in fresh)
        tables = [table.select([self.id_column]) for table in self._read_all(fresh, [self.id_column])]
        return pa.concat_tables([self._empty([self.id_column]), *tables]).column(self.id_column)

    def part_names(self) -> set[str]:
        """Return the names of all committed parts."""
        return {_name(key) for key, _ in self.store.list(f"{self.folder}/parts")}

    def commit_part(self, rows: pa.Table) -> bool:
        """Commit rows as one part, named by their ids; False when the same part was committed before."""
        return self.store.put_if_absent(f"{self.folder}/parts/{self.part_name(rows)}.parquet", to_parquet(rows))

    def part_name(self, rows: pa.Table) -> str:
        """The name of the part that holds exactly these ids."""
        return part_name(rows.column(self.id_column).to_pylist())

    def compact(self) -> None:
        """Fold loose parts into tables of at most COMPACT_ROWS; harmless at any moment, and when two do it at once.

        A compacted table is written again only with at least half as many new rows, so that each row is written a
        number of times that grows with the logarithm of theirs.
        """
        live = self._compacted(self.schema.names)
        loose = self._loose(live)
        if len(loose) < COMPACT_FROM:
            return
        names: list[str] = []
        tables: list[pa.Table] = []
        num_rows = 0
        for key, table in zip(loose, self._read_all(loose, self.schema.names), strict=True):
            if tables and num_rows + table.num_rows > COMPACT_ROWS:
                self._write_compacted(tables, names, [])
                names, tables, num_rows = [], [], 0
            names.append(_name(key))
            tables.append(table)
            num_rows += table.num_rows
        folded: list[_Compacted] = []
        for one in sorted(live, key=lambda one: one.rows.num_rows):
            if one.rows.num_rows > 2 * num_rows or one.rows.num_rows + num_rows > COMPACT_ROWS:
                break
            folded.append(one)
            num_rows += one.rows.num_rows
        self._write_compacted(tables, names, folded)

    def _write_compacted(self, tables: Sequence[pa.Table], names: Iterable[str], folded: Sequence[_Compacted]) -> None:
        parts = sorted({*names, *(name for one in folded for name in one.parts)})
        replaces = sorted({name for one in folded for name in (one.name, *one.replaces)})
        digest = hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()
        table = self._unique([*(one.rows for one in folded), *tables], self.schema.names)
        data = to_parquet(table, metadata={"parts": json.dumps(parts), "replaces": json.dumps(replaces)})
        self.store.put_if_absent(f"{self.folder}/compacted/{len(parts):09d}-{digest}.parquet", data)

    def _rows(self, columns: Sequence[str]) -> pa.Table:
        live = self._compacted(columns)
        tables = [one.rows for one in live]
        return self._unique([*tables, *self._read_all(self._loose(live), columns)], columns)

    def _compacted(self, columns: Sequence[str]) -> list[_Compacted]:
        """Read the compacted tables that no other one replaces."""
        live: list[_Compacted] = []
        replaced: set[str] = set()
        # one that replaces others holds their parts and more, so, sorted by number of parts, it comes after them
        for key in reversed([key for key, _ in self.store.list(f"{self.folder}/compacted")]):
            if _name(key) in replaced:
                continue
            table = self._read(key, columns)
            parts, replaces = compacted_names(table.schema.metadata, where=self.store.uri(key))
            replaced |= replaces
            live.append(_Compacted(_name(key), table, parts, replaces))
        return live

    def _loose(self, live: Sequence[_Compacted]) -> list[str]:
        folded = {name for one in live for name in one.parts}
        return [key for key, _ in self.store.list(f"{self.folder}/parts") if _name(key) not in folded]

    def _read_all(self, keys: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read parts in order, several at once."""
        if len(keys) < 2:
            return (self._read(key, columns) for key in keys)
        return in_threads(lambda key: self._read(key, columns), keys, num_threads=_READ_AT_ONCE)

    def _read(self, key: str, columns: Sequence[str]) -> pa.Table:
        try:
            return read_parquet(self.store.read(key), columns)
        except SanaError as error:
            raise SanaError(f"{self.store.uri(key)}: {error}; remove that file, and its rows are made again") from error

    def _empty(self, columns: Sequence[str]) -> pa.Table:
        return self.schema.empty_table().select(list(columns))

    def _unique(self, tables: Sequence[pa.Table], columns: Sequence[str]) -> pa.Table:
        empty = self._empty(columns)
        table = pa.concat_tables([empty, *(t.select(columns).cast(empty.schema) for t in tables)])
        ids = table.column(self.id_column)
        if pc.count_distinct(ids).as_py() == table.num_rows:
            return table
        codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
        _, first = np.unique(codes, return_index=True)
        return table.take(pa.array(np.sort(first)))


def compacted_names(metadata: Mapping[bytes, bytes] | None, *, where: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the parts in a compacted table and the tables folded into it, from the metadata of its schema.

    Raises:
        SanaError: they are not there; `where` names the table.
    """
    found: list[frozenset[str]] = []
    for name in (b"parts", b"replaces"):
        try:
            names = json.loads((metadata or {})[name])
        except (KeyError, ValueError):
            names = None
        if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
            wrong = f"its metadata has no list `{name.decode()}`"
            raise SanaError(f"{where}: {wrong}; remove that file, and it is made again from the parts")
        found.append(frozenset(names))
    return found[0], found[1]


def part_name(ids: Iterable[str]) -> str:
    """Return 16 hex digits that name a set of ids, whatever their order."""
    return hashlib.blake2b("\n".join(sorted(ids)).encode(), digest_size=8).hexdigest()


def slices(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    """Cut rows into parts of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _name(key: str) -> str:
    return key.rpartition("/")[2].removesuffix(".parquet")
