"""The parts of a frame, made of what was read: words, stages, curves, last numbers. Nothing is read here."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from flows.watch.frame import MAX_POINTS, WatchDocument, WatchedCurve, WatchedStage
from flows.watch.screen import EVAL_CURVES
from sana import metrics
from sana.metrics import STEP, Row
from sana.runs.binned import BinnedMetric, BinnedRows
from sana.runs.listing import SILENT_S, Run, RunState
from sana.runs.records import StageStatus
from sana.store_errors import StoreError
from sana.wording import age, clock, one_line, rate_text

_SHOWN = frozenset({
    *(metrics.TRAIN_LOSS, metrics.LEARNING_RATE, metrics.GRAD_NORM, metrics.SAMPLES_PER_S, metrics.STEP_S, metrics.MFU),
    *(metrics.GPU_RESERVED_PEAK_GIB, metrics.HOST_PEAK_GIB, metrics.EVAL_LOSS_EMA, metrics.EVAL_STDERR_EMA),
    *(metrics.EVAL_LOSS_LIVE, metrics.EVAL_STDERR_LIVE),
})  # fmt: skip


def with_trouble(last: WatchDocument | None, error: Exception, root: str, since: float) -> WatchDocument:
    """Return the frame as it was read last, and that it may be old."""
    at = time.strftime("%H:%M:%S", time.localtime(since))
    is_away = isinstance(error, StoreError | OSError)
    what = "storage does not answer" if is_away else "what it says cannot be read"
    trouble = f"{what} since {at}, so this may be old: {one_line(error)}"
    before = last or WatchDocument(root, since, "waiting", "for storage")
    return replace(before, trouble=trouble)


def said_of(run: Run, state: RunState, stages: Sequence[WatchedStage], now: float) -> str:
    """Return the state in words, with what to do."""
    heard = age(now - run.heard_at)
    if state == "running":
        return _at_work(stages)
    if state == "killed":
        return f"its process {run.started.process.pid} is gone without a word; the same command resumes it"
    if run.heard_at > now + SILENT_S and state == "silent":
        ahead = age(run.heard_at - now)
        return f"its last sign is of {ahead} from now: the clock of {run.started.host} or this one is wrong"
    if state == "silent":
        return f"no sign for {heard}, killed? Look at {run.started.host}; the same command resumes it"
    took = age((run.ended.ended_at if run.ended else now) - run.started.started_at)
    ended = next((stage.name for stage in stages if stage.state in ("failed", "stopped")), "")
    if state == "completed":
        return f"in {took}, {heard} ago"
    at = f"at {ended} " if ended else ""
    if run.ended is not None and run.ended.error.startswith(f"{state} "):  # stopped by, at
        at = f"{one_line(run.ended.error.partition(';')[0]).removeprefix(f'{state} ')}, "
    return f"{at}after {took}, {heard} ago; the same command resumes it"


def _at_work(stages: Sequence[WatchedStage]) -> str:
    """Say what the stage at work does, with its rate and ETA."""
    for stage in reversed(stages):
        if stage.state == "running":
            parts = [f"{stage.name} {stage.done}/{stage.total} {stage.unit}" if stage.total else stage.name]
            parts += [rate_text(stage.per_s, stage.unit)] if stage.per_s else []
            parts += [f"ETA {clock(stage.left_s)}"] if stage.left_s else []
            return ", ".join(parts)
    return "between two stages" if stages else "at its first stage"


def stage_of(name: str, stage: StageStatus, now: float, age_s: float) -> WatchedStage:
    """Return a stage of a status that is `age_s` seconds old."""
    ended_at = stage.ended_at or now
    return WatchedStage(
        name=name,
        state=stage.state,
        done=stage.done,
        total=stage.total,
        unit=stage.unit,
        per_s=stage.per_s,
        left_s=None if stage.left_s is None else max(stage.left_s - age_s, 0.0),
        elapsed_s=None if stage.state == "cached" else max(ended_at - stage.started_at, 0.0),
        detail=stage.detail,
        num_in=stage.num_in,
        num_out=stage.num_out,
        num_rejected=stage.num_rejected,
        error=stage.error,
    )


def step_of(run: Run) -> int | None:
    """Return the optimizer steps that a run saw done, or None where it did not train."""
    stage = run.status.stages.get("train") if run.status else None
    return stage.done if stage is not None and stage.total else None


def curves_of(rows: BinnedRows) -> dict[str, WatchedCurve]:
    """Return the curves that are shown, of those that were measured."""
    names = (metrics.TRAIN_LOSS, *(name for name, _ in EVAL_CURVES))
    return {name: _curve(rows.metrics[name]) for name in names if name in rows.metrics}


def _curve(metric: BinnedMetric) -> WatchedCurve:
    x, y = metric.means()
    every = -(-len(x) // MAX_POINTS)
    if every > 1:  # means of as many neighbours
        cut = len(x) // every * every
        x, y = (values[:cut].reshape(-1, every).mean(axis=1) for values in (x, y))
    return WatchedCurve(tuple(x.tolist()), tuple(y.tolist()))


def latest_of(rows: BinnedRows, live: Sequence[Row]) -> Mapping[str, float]:
    """Return the last finite number of each metric that is shown."""
    found = {
        name: value for name in _SHOWN if (binned := rows.metrics.get(name)) and (value := binned.last) is not None
    }
    for row in live:
        if row[STEP] < rows.last_step:  # of a run that was killed: checkpoints have later ones than it told of
            continue
        found |= {name: float(row[name]) for name in _SHOWN & row.keys() if abs(row[name]) < float("inf")}
    if rows.num_rows:
        found[STEP] = float(rows.last_step)
    return found
