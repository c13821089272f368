"""The page of one training: what it learned, its videos by step, its checkpoints and its settings."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import yaml

from sana.artifact import Artifact
from sana.errors import SanaError
from sana.facts import EvaluateFacts, TrainFacts
from sana.metrics import parse_rows
from sana.report import html
from sana.report.charts import StepMark
from sana.report.live.binned import BinnedRows
from sana.report.live.committed import Committed, TrainingRow
from sana.report.live.curves import curves
from sana.report.live.live_page import Topic
from sana.report.live.media import Strip, strips
from sana.store import Store
from sana.training.checkpoints.checkpoint import checkpoint_steps, newest_checkpoint

_MAX_TRAININGS = 16  # whose metrics are kept in memory
_MAX_CHECKPOINT_ROWS = 200


class CurveCache:
    """The metrics of the trainings that were looked at last; a segment that was read is not read again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[list[str], BinnedRows]] = OrderedDict()

    def rows(self, trajectory: str, segments: Sequence[str]) -> BinnedRows:
        """Return the metrics of these segments, in their order; one that is gone is passed over."""
        read, rows = self._kept.get(trajectory, ([], BinnedRows()))
        if list(segments[: len(read)]) != read:  # resumed from an earlier checkpoint, or pruned: from the beginning
            read, rows = [], BinnedRows()
        for key in segments[len(read) :]:
            with suppress(FileNotFoundError):
                rows.add(parse_rows(self._store.read(key)))
            read.append(key)
        self._kept[trajectory] = (read, rows)
        self._kept.move_to_end(trajectory)
        while len(self._kept) > _MAX_TRAININGS:
            self._kept.popitem(last=False)
        return rows


@dataclass(frozen=True)
class _Shown:
    """What the parts of the page are made of."""

    name: str
    trajectory: str
    row: TrainingRow | None  # None while it is unfinished
    train: Artifact | None
    evaluated: Artifact | None
    samples: Sequence[Artifact]
    segments: Sequence[str]
    steps: Sequence[int]  # that have a checkpoint


def parts(committed: Committed, cache: CurveCache, topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of the page. Raises LookupError: there is no such training."""
    shown = _find(committed, topic.key)
    store = committed.store
    rows = cache.rows(shown.trajectory, shown.segments)
    marks = [StepMark(step, "checkpoint", f"checkpoint of step {step}") for step in shown.steps]
    made: dict[str, str] = {
        "head": html.fragment("live/training_head.html.j2", shown=shown, rows=rows, losses=_losses(shown)),
        "curves": html.fragment("live/curves.html.j2", curves=curves(rows, marks)),
        "samples": html.fragment("live/samples.html.j2", strips=_strips(store, shown)),
        "checkpoints": html.fragment("live/checkpoints.html.j2", shown=shown, most=_MAX_CHECKPOINT_ROWS),
        "config": html.fragment("live/config.html.j2", text=_config(shown), about="hashed settings of training"),
    }
    return f"{shown.name} - training", made


def _find(committed: Committed, key: str) -> _Shown:
    store = committed.store
    named = [row for row in committed.trainings if key in (row.fingerprint, row.trajectory)]
    if named:
        row = max(named, key=lambda row: row.step)
        train = committed.artifact("train", row.fingerprint)
        evaluated = committed.artifact("evaluate", row.evaluated.fingerprint) if row.evaluated else None
        samples = [committed.artifact("sample", fingerprint) for fingerprint in row.samples[-4:]]
        steps = checkpoint_steps(store, row.trajectory)
        segments = TrainFacts.of(train).metrics
        return _Shown(row.key, row.trajectory, row, train, evaluated, samples, segments, steps)
    steps = checkpoint_steps(store, key) if key.replace("-", "").isalnum() else []
    newest = newest_checkpoint(store, key, at_most=steps[-1]) if steps else None
    if newest is None:
        raise LookupError(f"there is no training {key} under this root")
    return _Shown(key, key, None, None, None, (), [segment.key for segment in newest.segments], steps)


def _strips(store: Store, shown: _Shown) -> list[Strip]:
    step = shown.row.step if shown.row else 0
    return strips(store, shown.trajectory, [(step, artifact) for artifact in shown.samples])


def _losses(shown: _Shown) -> EvaluateFacts | None:
    try:
        return EvaluateFacts.of(shown.evaluated) if shown.evaluated else None
    except SanaError:
        return None


def _config(shown: _Shown) -> str:
    if shown.train is None:
        return ""
    return yaml.safe_dump(dict(shown.train.config), sort_keys=True, allow_unicode=True)
