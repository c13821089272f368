"""All metrics of a training as one Arrow table, made segment by segment, so that a million rows need no dict each."""

from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact
from sana.facts import TrainFacts
from sana.metrics import STEP, Row, parse_rows
from sana.runs.listing import Run
from sana.store import Store
from sana.training.checkpoints.checkpoint import newest_checkpoint


def metrics_of(store: Store, trained: Artifact) -> pa.Table:
    """Return the metrics of a finished training. Raises SanaError where a segment is gone, and StoreError."""
    return _joined([_segment(store, key) for key in TrainFacts.of(trained).metrics])


def metrics_so_far(store: Store, trajectory: str, runs: Iterable[Run]) -> pa.Table:
    """Return what the newest checkpoint of a training has, then the live rows of its runs. Raises as `metrics_of`."""
    checkpoint = newest_checkpoint(store, trajectory) if trajectory else None
    tables = [_segment(store, one.key) for one in (checkpoint.segments if checkpoint else ())]
    known = max((pc.max(one[STEP]).as_py() for one in tables if one.num_rows), default=-1)
    for run in sorted(runs, key=lambda one: one.run_id):
        if run.status is not None and run.trajectory == trajectory:
            tables.append(_table([row for row in run.status.rows if row[STEP] > known]))
    return _joined(tables)


def _segment(store: Store, key: str) -> pa.Table:
    return _table(parse_rows(store.read(key)))


def _table(rows: Sequence[Row]) -> pa.Table:
    names = sorted({name for row in rows for name in row} - {STEP})
    steps = pa.array([int(row[STEP]) for row in rows], pa.int64())
    columns = {name: pa.array([row.get(name) for row in rows], pa.float64()) for name in names}
    return pa.table({STEP: steps, **columns})


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """Join the rows of one step, whose later numbers count, and sort by step."""
    if not tables:
        return _table([])
    rows = pa.concat_tables(tables, promote_options="default")
    names = sorted(set(rows.column_names) - {STEP})
    last = pc.ScalarAggregateOptions(skip_nulls=True, min_count=1)
    joined = rows.group_by(STEP, use_threads=False).aggregate([(name, "last", last) for name in names])
    return joined.rename_columns({f"{name}_last": name for name in names}).select([STEP, *names]).sort_by(STEP)
