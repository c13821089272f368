"""The body of stages that make tensors and pool them: find what the pool lacks, make it, name all of it in an index.

A stage says which rows it wants (each with the id of its tensor in the pool), which columns its worker is given, how it
is run, and the schema of the index. Rows of one id share one tensor. In a pool whose rows have a `reason`, those where
it is not empty are rejects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import run_starts, to_parquet, value_counts
from sana.artifact import Draft
from sana.counts import Counts
from sana.data.schemas import REJECTS
from sana.data.tables import content_digest
from sana.errors import SanaError
from sana.runtime.pool import Pool


@dataclass(frozen=True)
class Made:
    """What a stage has of the rows that it wants: those in the index, those rejected, and how many were made now."""

    index: pa.Table
    rejects: pa.Table
    num_made: int

    def digest(self, columns: Sequence[str], *, column: str, among: Sequence[str]) -> str:
        """Return the content digest over `columns` of the rows of the index whose `column` is one of these texts."""
        return content_digest(self.of(column, among), columns)

    def of(self, column: str, among: Sequence[str]) -> pa.Table:
        """Return the rows of the index whose `column` is one of these texts."""
        return self.index.filter(pc.is_in(self.index.column(column), pa.array(among, pa.string())))


@dataclass(frozen=True)
class PooledTensors:
    """The tensors that one stage wants.

    wanted: a row for each entry of the index, with the pool's id column.
    unit: what an id stands for, in the plural.
    todo: columns that the worker is given.
    order: columns that its rows are sorted by. The id is one of them, and those before it depend on the id alone; of
        the rows of one id the worker is given the first.
    index: schema of `index.parquet`: columns of the pool and of `wanted`. Where both have one, the pool's is taken.
    """

    stage: str
    pool: Pool
    wanted: pa.Table
    unit: str
    todo: Sequence[str]
    order: Sequence[str]
    index: pa.Schema

    def remaining(self) -> tuple[int, int, str]:
        """Return (done, total, unit) of the work at hand."""
        ids = pc.unique(self.wanted.column(self.pool.id_column))
        done = pc.sum(pc.is_in(ids, self.pool.ids().combine_chunks())).as_py() or 0
        return done, len(ids), self.unit

    def num_wanted(self) -> int:
        """Return how many tensors there are once all is made."""
        return int(pc.count_distinct(self.wanted.column(self.pool.id_column)).as_py())

    def so_far(self) -> Counts:
        """Return how many of the tensors that are in the pool by now were made and rejected, of a pool with reasons."""
        pooled = self.pool.reasons()
        wanted = pc.is_in(pooled.column(self.pool.id_column), pc.unique(self.wanted.column(self.pool.id_column)))
        reasons = value_counts(pooled.filter(wanted).column("reason"))
        num_made = reasons.pop("", 0)
        num_rejected = sum(reasons.values())
        return Counts(num_made + num_rejected, num_made, num_rejected, reasons, {}, None, {})

    def missing(self) -> pa.Table:
        """Return what the pool lacks: one row of `todo` for each id, sorted by `order`."""
        known = pc.is_in(self.wanted.column(self.pool.id_column), self.pool.ids().combine_chunks())
        columns = list(dict.fromkeys((self.pool.id_column, *self.todo, *self.order)))
        lacked = self.wanted.select(columns).filter(pc.invert(known))
        at = pc.sort_indices(lacked, sort_keys=[(name, "ascending") for name in self.order])
        first = run_starts(lacked.column(self.pool.id_column).take(at))
        return lacked.select(list(self.todo)).take(at.take(pa.array(first))).combine_chunks()

    def make(self, draft: Draft, encode: Callable[[pa.Table], object], *, may_reject: bool) -> Made:
        """Let `encode` put what is missing into the pool; write `index.parquet` and, if it may reject, the rejects.

        Raises:
            SanaError: `encode` has left something out; and what it raises itself.
        """
        todo = self.missing()
        if todo.num_rows:
            encode(todo)
        self.pool.compact()
        index, rejects = self._found()
        draft.add("index.parquet", to_parquet(index))
        if may_reject:
            draft.add("rejects.parquet", to_parquet(rejects))
        return Made(index, rejects, todo.num_rows)

    def _found(self) -> tuple[pa.Table, pa.Table]:
        """Join the wanted rows with the pool's; returns the index and the rejects."""
        pooled = self.pool.rows()
        at = pc.index_in(self.wanted.column(self.pool.id_column), pooled.column(self.pool.id_column).combine_chunks())
        if at.null_count:
            raise SanaError(f"{self.stage}: {at.null_count} of {len(at)} {self.unit} are not in the pool; run again")
        found = pooled.take(at)

        def joined(schema: pa.Schema, rows: pa.ChunkedArray | None) -> pa.Table:
            columns = [(found if name in found.column_names else wanted).column(name) for name in schema.names]
            table = pa.table(columns, schema.names)
            return (table if rows is None else table.filter(rows)).cast(schema)

        if "reason" not in found.column_names:
            wanted = self.wanted
            return joined(self.index, None), REJECTS.empty_table()
        wanted = self.wanted.append_column("stage", pa.repeat(pa.scalar(self.stage), self.wanted.num_rows))
        good = pc.equal(found.column("reason"), "")
        return joined(self.index, good), joined(REJECTS, pc.invert(good))
