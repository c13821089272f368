"""The charts of a training: losses, noise levels, rates and memory over steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sana import metrics as m
from sana.report.charts import Chart, Series, StepMark, heat_map, lines, smoothed
from sana.report.training.numbers import Curve, Numbers

_WIDE = 1060
_RUNNING = 50  # parts of the whole over which the running mean of a noisy curve goes


@dataclass(frozen=True)
class Panel:
    """A chart with its title and what it shows."""

    title: str
    about: str
    chart: Chart


@dataclass(frozen=True)
class Curves:
    """`wide`: across the page; `narrow`: two beside each other. What was not measured is not there."""

    wide: Sequence[Panel]
    narrow: Sequence[Panel]


def curves(numbers: Numbers, marks: Sequence[StepMark]) -> Curves:
    """Draw all that was measured; `marks` are on the chart of the loss."""
    wide = [_losses(numbers, marks), _sigmas(numbers)]
    narrow = [
        _one(numbers, "Learning rate", m.LEARNING_RATE, "", "of each step"),
        _noisy(numbers, "Gradient norm", m.GRAD_NORM, "L2 norm", "of the whole gradient before clipping", log=True),
        _one(numbers, "Throughput", m.SAMPLES_PER_S, "samples/s", "of all ranks, mean over each log window"),
        _step_time(numbers),
        _one(numbers, "Model FLOP utilisation", m.MFU, "of the measured peak", "3 x the forward pass"),
        _memory(numbers),
    ]
    return Curves([panel for panel in wide if panel], [panel for panel in narrow if panel])


def _losses(numbers: Numbers, marks: Sequence[StepMark]) -> Panel | None:
    train, ema, live = (numbers.curve(name) for name in (m.TRAIN_LOSS, m.EVAL_LOSS_EMA, m.EVAL_LOSS_LIVE))
    if not len(train.values) and not len(ema.values):
        return None
    window = max(1, len(train.values) // _RUNNING)
    series = [Series("train loss of each step", train.steps, train.values, colour="train", faint=window > 1)]
    if window > 1:
        name = f"train loss, mean of {window} logged steps"
        series.append(Series(name, train.steps, smoothed(train.values, window), colour="train"))
    probe = numbers.curve(m.TRAIN_PROBE_LOSS)
    if len(probe.values):
        series.append(Series("a few train samples, as the eval loss", probe.steps, probe.values, colour="magenta"))
    for name, found, error, colour in (
        ("eval loss, live weights", live, m.EVAL_STDERR_LIVE, "good"),
        ("eval loss, EMA weights", ema, m.EVAL_STDERR_EMA, "eval"),
    ):
        if len(found.values):
            series.append(Series(name, found.steps, found.values, error=_at(numbers, error, found), colour=colour))
    known = np.concatenate([one for one in (train.values, ema.values) if len(one)])
    log = bool(known.min() > 0 and known.max() > 8 * np.median(known))
    chart = lines(series, y_unit="loss", marks=marks, log_y=log, width=_WIDE, height=360)
    about = (
        "The train loss is noisy: each step meets other clips and other noise. The eval loss is of the same held-out "
        "samples, noise levels and noise each time; its band is one standard error over samples."
    )
    return Panel("Loss over steps", about, chart)


def _at(numbers: Numbers, name: str, found: Curve) -> list[float]:
    """Return the values of another metric at the steps of a curve, NaN where it has none."""
    other = numbers.curve(name)
    known = dict(zip(other.steps.tolist(), other.values.tolist(), strict=True))
    return [known.get(step, float("nan")) for step in found.steps.tolist()]


def _sigmas(numbers: Numbers) -> Panel | None:
    steps, levels, losses = numbers.by_sigma()
    if not steps:
        return None
    first = losses[0]
    relative = len(steps) > 1 and bool(np.isfinite(first).all() and (first > 0).all())
    values = 100 * (losses / first - 1) if relative else losses
    chart = heat_map(
        steps,
        [f"{level:.4g}" for level in levels],
        values,
        unit="% of the first" if relative else "loss",
        row_unit="sigma",
        middle=0.0 if relative else None,
        width=_WIDE,
    )
    about = "EMA weights on the held-out samples; sigma 0 is clean, 1 is pure noise. " + (
        f"Change of the eval loss since step {steps[0]}, in per cent: green is lower, red is higher."
        if relative
        else "The eval loss itself: one evaluation is there."
    )
    return Panel("Eval loss by noise level over steps", about, chart)


def _one(numbers: Numbers, title: str, name: str, unit: str, about: str) -> Panel | None:
    found = numbers.curve(name)
    if not len(found.values):
        return None
    return Panel(title, about, lines([Series(title, found.steps, found.values)], y_unit=unit, from_zero=True))


def _noisy(numbers: Numbers, title: str, name: str, unit: str, about: str, *, log: bool) -> Panel | None:
    found = numbers.curve(name)
    if not len(found.values):
        return None
    window = max(1, len(found.values) // _RUNNING)
    series = [Series("each step", found.steps, found.values, colour="train", faint=window > 1)]
    if window > 1:
        series.append(Series("running mean", found.steps, smoothed(found.values, window), colour="train"))
    return Panel(title, about, lines(series, y_unit=unit, log_y=log and bool((found.values > 0).any())))


def _step_time(numbers: Numbers) -> Panel | None:
    step, wait = numbers.curve(m.STEP_S), numbers.curve(m.DATA_WAIT_S)
    if not len(step.values):
        return None
    series = [Series("a step", step.steps, step.values, colour="train")]
    if len(wait.values):
        series.append(Series("of it, waiting for data", wait.steps, wait.values, colour="rejected"))
    about = "mean over each log window; the wait is of the step itself, on rank 0"
    return Panel("Time of a step", about, lines(series, y_unit="seconds", from_zero=True))


def _memory(numbers: Numbers) -> Panel | None:
    found = [
        Series(name, curve.steps, curve.values)
        for name, metric in (("GPU, allocated", m.GPU_ALLOCATED_PEAK_GIB), ("host", m.HOST_PEAK_GIB))
        if len((curve := numbers.curve(metric)).values)
    ]
    if not found:
        return None
    return Panel("Peak memory", "of rank 0 since its start", lines(found, y_unit="GiB", from_zero=True))
