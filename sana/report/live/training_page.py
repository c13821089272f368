"""The page of one training: what it learned, its videos by step, its checkpoints and its settings."""

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from sana import metrics
from sana.artifact import Artifact
from sana.errors import SanaError
from sana.facts import EvaluateFacts, TrainFacts
from sana.report import html
from sana.report.charts import StepMark
from sana.report.live.committed import Committed, TrainingEntry
from sana.report.live.curves import curves
from sana.report.live.live_page import Topic
from sana.report.live.media import Strip, ValidationCache, strips
from sana.report.live.run_index import LIVE, RunIndex, RunRow
from sana.report.live.runs_page import events_part, links_of, stages_part
from sana.runs.binned import BinnedRows
from sana.runs.curve_cache import MAX_TRAININGS, CurveCache
from sana.runs.listing import Run
from sana.training.checkpoints.checkpoint import checkpoint_steps, newest_checkpoint

_MAX_CHECKPOINT_ROWS = 200
_MAX_SAMPLES, _MAX_ATTEMPTS = 4, 50


class DrawnCurves:
    """The charts of the trainings that were looked at last; they are drawn again when there are more numbers."""

    def __init__(self) -> None:
        self._drawn: OrderedDict[str, tuple[object, str]] = OrderedDict()

    def of(self, key: str, rows: BinnedRows, steps: Sequence[int]) -> str:
        """Return the charts of a training's metrics; `steps` are those of its checkpoints."""
        version = (rows.num_rows, rows.last_step, tuple(steps))
        before, markup = self._drawn.get(key, (None, ""))
        if before != version:
            marks = [StepMark(step, "checkpoint", f"checkpoint of step {step}") for step in steps]
            markup = html.fragment("live/curves.html.j2", curves=curves(rows, marks))
            self._drawn[key] = (version, markup)
            while len(self._drawn) > MAX_TRAININGS:
                self._drawn.popitem(last=False)
        return markup


@dataclass(frozen=True)
class Sources:
    """What the page is made of."""

    committed: Committed
    rows: Sequence[TrainingEntry]
    runs: RunIndex
    metrics: CurveCache
    drawn: DrawnCurves
    videos: ValidationCache


@dataclass(frozen=True)
class _Shown:
    """One training as the templates see it."""

    row: TrainingEntry
    train: Artifact | None
    evaluated: Artifact | None
    samples: Sequence[Artifact]
    segments: Sequence[str]
    steps: Sequence[int]  # that have a checkpoint
    attempts: Sequence[RunRow]  # the newest first
    live: Run | None  # the newest of them, while it is heard of


def parts(sources: Sources, topic: Topic) -> tuple[str, dict[str, str]]:
    """Return the title and the parts of the page. Raises LookupError: there is no such training."""
    shown, now = _find(sources, topic.key), time.time()
    row, live = shown.row, shown.live
    rows = sources.metrics.rows(row.trajectory, shown.segments)
    if live is not None and live.status is not None and live.trajectory == row.trajectory:
        rows = rows.with_rows(live.status.rows)
    config, about = _config(shown)
    newest = shown.attempts[0] if shown.attempts else None
    made: dict[str, str] = {
        "head": html.fragment(
            "live/training_head.html.j2",
            row=row,
            newest=newest,
            links=links_of(live) if live else {},
            has_report=shown.train is not None or bool(shown.steps),
        ),
        "stages": stages_part(live, now) if live is not None and row.state in LIVE else "",
        "numbers": html.fragment(
            "live/training_numbers.html.j2", row=row, last=_last(rows), losses=_losses(shown), m=metrics
        ),
        "curves": sources.drawn.of(row.key, rows, shown.steps),
        "samples": html.fragment("live/samples.html.j2", strips=_strips(sources.videos, shown)),
        "events": events_part(live),
        "attempts": html.fragment(
            "live/attempts.html.j2", attempts=shown.attempts[:_MAX_ATTEMPTS], num=len(shown.attempts)
        ),
        "checkpoints": html.fragment("live/checkpoints.html.j2", shown=shown, most=_MAX_CHECKPOINT_ROWS),
        "config": html.fragment("live/config.html.j2", text=config, about=about),
    }
    return f"{row.title or row.key} - training", made


def _find(sources: Sources, key: str) -> _Shown:
    committed, store = sources.committed, sources.committed.store
    named = [row for row in sources.rows if key in (row.fingerprint, row.trajectory)]
    exact = [row for row in named if row.key == key] or named
    if not exact:
        raise LookupError(f"there is no training {key} under this root")
    row = max(exact, key=lambda row: row.created_at)
    attempts = sources.runs.of_training(row.trajectory, row.fingerprint)
    live = sources.runs.live.get(attempts[0].run_id) if attempts else None
    steps = checkpoint_steps(store, row.trajectory)
    if row.fingerprint:
        train = committed.artifact("train", row.fingerprint)
        evaluated = committed.artifact("evaluate", row.evaluated.fingerprint) if row.evaluated else None
        samples = [committed.artifact("sample", fingerprint) for fingerprint in row.samples[-_MAX_SAMPLES:]]
        segments = TrainFacts.of(train).metrics
        steps = [step for step in steps if step <= row.step]
        return _Shown(row, train, evaluated, samples, segments, steps, attempts, live)
    newest = newest_checkpoint(store, row.trajectory, at_most=steps[-1]) if steps else None
    keys = [segment.key for segment in newest.segments] if newest is not None else []
    return _Shown(row, None, None, (), keys, steps, attempts, live)


def _last(rows: BinnedRows) -> dict[str, float]:
    """Return the last number of each metric."""
    found = {name: metric.last for name, metric in rows.metrics.items()}
    return {metrics.STEP: rows.last_step, **{name: last for name, last in found.items() if last is not None}}


def _strips(cache: ValidationCache, shown: _Shown) -> list[Strip]:
    samples = [(shown.row.step, artifact) for artifact in shown.samples]
    return strips(cache, shown.row.trajectory, samples, at_most=shown.row.step if shown.row.fingerprint else None)


def _losses(shown: _Shown) -> EvaluateFacts | None:
    try:
        return EvaluateFacts.of(shown.evaluated) if shown.evaluated else None
    except SanaError:
        return None


def _config(shown: _Shown) -> tuple[str, str]:
    if shown.live is not None:
        return shown.live.started.config, "the whole config of its newest run"
    if shown.train is None:
        return "", ""
    text = yaml.safe_dump(dict(shown.train.config), sort_keys=True, allow_unicode=True)
    return text, "what was hashed of its settings"
