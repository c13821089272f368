"""The charts of a training: what it learned, how it stepped, what the machine did."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sana import metrics
from sana.report import charts
from sana.report.charts import Chart, Series, StepMark
from sana.runs.binned import BinnedRows

_SMOOTHED_SHARE = 50  # the loss is smoothed over this share of its steps


@dataclass(frozen=True)
class Curve:
    """One chart and what stands over it."""

    key: str
    title: str
    about: str
    chart: Chart


def curves(rows: BinnedRows, marks: Sequence[StepMark] = ()) -> list[Curve]:
    """Return the charts of what was measured, which may be none."""
    found = [
        _curve(rows, "loss", "Training loss", _loss(rows), "of each step's batch", marks=marks),
        _curve(rows, "eval", "Eval loss", _eval_loss(rows), "held-out clips; bands are standard errors", marks=marks),
        _curve(rows, "lr", "Learning rate", _plain(rows, (metrics.LEARNING_RATE, "learning rate"))),
        _curve(rows, "norm", "Gradient norm", _plain(rows, (metrics.GRAD_NORM, "before clipping")), from_zero=True),
        _curve(rows, "rate", "Throughput", _plain(rows, (metrics.SAMPLES_PER_S, "samples a second")), from_zero=True),
        _curve(
            rows,
            "time",
            "Seconds per step",
            _plain(rows, (metrics.STEP_S, "a step"), (metrics.DATA_WAIT_S, "of it, waiting for data")),
            from_zero=True,
        ),
        _curve(
            rows,
            "memory",
            "Memory, GiB",
            _plain(
                rows,
                (metrics.GPU_ALLOCATED_PEAK_GIB, "GPU, allocated"),
                (metrics.GPU_RESERVED_PEAK_GIB, "GPU, reserved"),
                (metrics.HOST_PEAK_GIB, "host"),
            ),
            from_zero=True,
        ),
        _curve(rows, "mfu", "Model FLOPs utilisation", _plain(rows, (metrics.MFU, "MFU")), from_zero=True),
    ]
    return [curve for curve in found if curve is not None]


def _curve(
    rows: BinnedRows,
    key: str,
    title: str,
    series: Sequence[Series],
    about: str = "",
    *,
    marks: Sequence[StepMark] = (),
    from_zero: bool = False,
) -> Curve | None:
    if not series:
        return None
    return Curve(key, title, about, charts.lines(series, marks=marks, from_zero=from_zero))


def _loss(rows: BinnedRows) -> list[Series]:
    metric = rows.metrics.get(metrics.TRAIN_LOSS)
    if metric is None:
        return []
    x, y = metric.means()
    line = Series("smoothed", x, charts.smoothed(y, max(1, len(y) // _SMOOTHED_SHARE)), colour="train")
    return [Series("each step", *metric.extremes(), colour="train", faint=True), line]


def _eval_loss(rows: BinnedRows) -> list[Series]:
    found = []
    for weights, loss, stderr, colour in (
        ("EMA weights", metrics.EVAL_LOSS_EMA, metrics.EVAL_STDERR_EMA, "eval"),
        ("live weights", metrics.EVAL_LOSS_LIVE, metrics.EVAL_STDERR_LIVE, "train"),
        ("train clips, EMA", metrics.TRAIN_PROBE_LOSS, "", "good"),
    ):
        metric = rows.metrics.get(loss)
        if metric is not None:
            x, y = metric.means()
            found.append(Series(weights, x, y, error=_at(rows, stderr, x), colour=colour))
    return found


def _at(rows: BinnedRows, name: str, x: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "list[float] | None":
    metric = rows.metrics.get(name)
    if metric is None:
        return None
    known = dict(zip(*(values.tolist() for values in metric.means()), strict=True))
    return [known.get(step, float("nan")) for step in x.tolist()]


def _plain(rows: BinnedRows, *names: tuple[str, str]) -> list[Series]:
    pairs: Iterable[tuple[str, str]] = ((name, words) for name, words in names if name in rows.metrics)
    return [Series(words, *rows.metrics[name].extremes()) for name, words in pairs]
