"""All that a training has measured: what its checkpoints or its artifact commit, and then what a run has live."""

from collections.abc import Iterable

from sana.artifact import Artifact
from sana.facts import TrainFacts
from sana.metrics import STEP, Row, parse_rows
from sana.runs.listing import Run
from sana.store import Store
from sana.training.checkpoints.checkpoint import newest_checkpoint

_NO_LIMIT = 2**62


def committed_rows(store: Store, trained: Artifact) -> list[Row]:
    """Return the rows of a finished training, in the order of their steps. Raises StoreError."""
    return _in_order(row for key in TrainFacts.of(trained).metrics for row in parse_rows(store.read(key)))


def rows_so_far(store: Store, trajectory: str, runs: Iterable[Run] = ()) -> list[Row]:
    """Return the rows of a training that is not finished: of its checkpoints, then the live ones of its runs.

    A step that was done twice has its later row. Raises SanaError where a record is damaged, and StoreError.
    """
    checkpoint = newest_checkpoint(store, trajectory, at_most=_NO_LIMIT)
    segments = checkpoint.segments if checkpoint else ()
    rows: list[Row] = [row for segment in segments for row in parse_rows(store.read(segment.key))]
    known = max((row[STEP] for row in rows), default=-1.0)
    for run in sorted(runs, key=lambda one: one.run_id):
        if run.status is not None and run.trajectory == trajectory:
            rows += [row for row in run.status.rows if row[STEP] > known]
    return _in_order(rows)


def _in_order(rows: Iterable[Row]) -> list[Row]:
    """Join the rows of one step, whose later numbers count, and sort by step."""
    by_step: dict[float, dict[str, float]] = {}
    for row in rows:
        by_step.setdefault(row[STEP], {}).update(row)
    return [by_step[step] for step in sorted(by_step)]
