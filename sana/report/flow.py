"""What became of the clips: how many came in, were kept or rejected, stage by stage; which, and why."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa

from sana.artifact import Artifact
from sana.counts import DatasetCounts
from sana.data.columns import batches, coded, columns
from sana.data.schemas import REJECTS
from sana.report.formatting import name as spelled
from sana.store import Store

REJECTS_FILE = "rejects.parquet"  # of the stages that clips flow through, and of no other
MAX_ROWS = 1000
MAX_ROWS_BYTES = 1_000_000  # of the rejected files on the page
_SHOWN, _ROW_BYTES = ("path", "stage", "reason", "detail", "dataset"), 107  # without texts, a row is so long in HTML


@dataclass(frozen=True)
class Step:
    """One stage: clips (after bucket: samples, which are windows of clips) in, out, and rejected by reason.

    `num_next`: what goes into the next stage; more than `num_out` where a clip gives several samples. `of_samples`:
    whether what goes there is samples.
    """

    stage: str
    num_in: int
    num_out: int
    rejected: Mapping[str, int]
    num_next: int
    of_samples: bool = False

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def adds_up(self) -> bool:
        return self.num_in == self.num_out + self.num_rejected


def steps(artifacts: Mapping[str, Artifact]) -> list[Step]:
    """Return the step of each committed stage that clips flow through, in the order of `artifacts`."""
    found: list[Step] = []
    of_samples = False
    for name in _stages(artifacts):
        counts = artifacts[name].counts
        of_samples = of_samples or counts.num_samples is not None
        reasons = dict(counts.top_reasons())
        found.append(Step(name, counts.num_in, counts.num_out, reasons, counts.num_next, of_samples))
    return found


def _stages(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Return the stages that clips flow through: those that may reject some, and so have a table of them."""
    return [name for name, artifact in artifacts.items() if REJECTS_FILE in artifact.files]


@dataclass(frozen=True)
class Rejects:
    """`counts` by (stage, data set, reason); `rows` of REJECTS that are shown; `keys` of the tables with all rows."""

    counts: Mapping[tuple[str, str, str], int]
    rows: Sequence[Mapping[str, Any]]
    keys: Sequence[str]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def reasons(self) -> list[tuple[str, str]]:
        """Each (stage, reason) once, in the order of the stages."""
        return list(dict.fromkeys((stage, reason) for stage, _, reason in self.counts))


def read_rejects(store: Store, artifacts: Mapping[str, Artifact], *, max_rows: int = MAX_ROWS) -> Rejects:
    """Count all rejects and pick the rows to show: all, or equally many of each (stage, reason), so that each is shown.

    Rows of very long texts are cut off at MAX_ROWS_BYTES.

    Raises:
        SanaError: a table is gone or damaged.
    """
    counts: Counter[tuple[str, str, str]] = Counter()
    groups: dict[tuple[str, str], np.ndarray] = {}  # row numbers in the table of the stage
    stages = [name for name in _stages(artifacts) if artifacts[name].counts.num_rejected]
    for stage in stages:
        table = columns(store, artifacts[stage], REJECTS_FILE, ["dataset", "reason"], dictionary=["dataset", "reason"])
        datasets, dataset = coded(table.column("dataset"))
        reasons, reason = coded(table.column("reason"))
        value_counts = np.bincount(dataset * len(reasons) + reason, minlength=len(datasets) * len(reasons))
        for place, num in enumerate(value_counts.tolist()):
            if num:
                counts[stage, datasets[place // len(reasons)], reasons[place % len(reasons)]] = num
        for number, name in enumerate(reasons):
            groups[stage, name] = np.flatnonzero(reason == number)
    most = _rows_per_group([len(numbers) for numbers in groups.values()], max_rows)
    rows: list[dict[str, Any]] = []
    for stage in stages:
        picked = [numbers[:most] for (of, _), numbers in groups.items() if of == stage]
        rows += _read_rows(store, artifacts[stage], np.sort(np.concatenate(picked)))
    rows.sort(key=lambda row: (stages.index(row["stage"]), row["reason"], row["dataset"], row["path"], row["clip_id"]))
    in_order = dict(sorted(counts.items(), key=lambda item: (stages.index(item[0][0]), item[0])))
    return Rejects(in_order, _within_byte_limit(rows), [artifacts[stage].files[REJECTS_FILE].key for stage in stages])


def _rows_per_group(sizes: Sequence[int], total: int) -> int:
    """Return the largest number such that taking so many of each group, or all of it, takes no more than `total`."""
    ordered = sorted(sizes)
    left, largest = total, max(ordered, default=0)
    for taken, size in enumerate(ordered):
        if size * (len(ordered) - taken) > left:
            return left // (len(ordered) - taken)
        left -= size
    return largest


def _within_byte_limit(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the first rows, as many as MAX_ROWS_BYTES of HTML hold."""
    sizes = (_ROW_BYTES + sum(len(escape(spelled(row[key])).encode()) for key in _SHOWN) for row in rows)
    return [row for row, end in zip(rows, accumulate(sizes), strict=True) if end <= MAX_ROWS_BYTES]


def _read_rows(store: Store, artifact: Artifact, numbers: np.ndarray) -> list[dict[str, Any]]:
    """Read the rows of rejects.parquet with these numbers, which ascend."""
    rows: list[dict[str, Any]] = []
    start = 0
    for batch in batches(store, artifact, REJECTS_FILE, REJECTS.names):
        here = numbers[(numbers >= start) & (numbers < start + batch.num_rows)] - start
        rows += batch.take(pa.array(here)).to_pylist()
        start += batch.num_rows
    return rows


@dataclass(frozen=True)
class DatasetCount:
    """One data set: videos found, clips that are left after the last committed stage, rejected by (stage, reason)."""

    name: str
    num_in: int
    num_left: int
    rejected: Mapping[tuple[str, str], int]

    @property
    def num_rejected(self) -> int:
        return sum(self.rejected.values())


def datasets(artifacts: Mapping[str, Artifact], rejected: Rejects) -> list[DatasetCount]:
    """Return the counts of each data set, largest first; in the unit of the last stage where clips became windows."""
    stages = _stages(artifacts)
    if not stages:
        return []
    first, last = (artifacts[name].counts.datasets for name in (stages[0], stages[-1]))
    found = []
    for name in sorted(first):
        left = last.get(name, DatasetCounts(0, 0))
        reasons = {(stage, reason): num for (stage, of, reason), num in rejected.counts.items() if of == name}
        found.append(DatasetCount(name, first[name].num_in, left.num_in - left.num_rejected, reasons))
    return sorted(found, key=lambda one: -one.num_in)
