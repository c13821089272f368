"""The evaluation in numbers: what was measured of each set of weights, and the losses over noise levels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sana.facts import WEIGHTS, PairedDifference, WeightsLoss
from sana.report.charts import Chart, Series, lines
from sana.report.training.verdict import Tone, compared
from sana.runtime.results import EvalReport

_COLOURS = {"initial": "node", "live": "good", "ema": "eval"}


@dataclass(frozen=True)
class LossRow:
    """The eval loss of one set of weights on some samples, against the weights before training."""

    of: str  # "all", a data set's id, or a condition
    weights: str
    num_samples: int
    loss: WeightsLoss
    paired: PairedDifference | None  # None: these are the weights before training
    tone: Tone
    words: str


def loss_rows(report: EvalReport) -> list[LossRow]:
    """Return what was measured: of the eval loss, then of data sets by themselves, then with each condition."""
    found = _rows("all", report.num_samples, report.weights, report.paired)
    for separate in (report.datasets, report.conditions):
        for name, one in separate.items():
            found += _rows(name, one.num_samples, one.weights, one.paired)
    return found


def _rows(
    of: str, num_samples: int, weights: Mapping[str, WeightsLoss], paired: Mapping[str, PairedDifference]
) -> list[LossRow]:
    found = []
    for name, loss in _in_order(weights):
        pair = paired.get(name)
        tone, words = compared(pair) if pair else ("unsure", "before training")
        found.append(LossRow(of, name, num_samples, loss, pair, tone, words))
    return found


def sigma_chart(weights: Mapping[str, WeightsLoss], *, width: int = 1060, height: int = 300) -> Chart:
    """Draw the eval loss over the noise level, a curve for each set of weights, bands of one standard error."""
    return lines(
        [_sigma_series(name, loss) for name, loss in _in_order(weights)],
        x_unit="noise level sigma (0: clean, 1: pure noise)",
        y_unit="velocity MSE",
        from_zero=True,
        width=width,
        height=height,
    )


def _in_order(weights: Mapping[str, WeightsLoss]) -> list[tuple[str, WeightsLoss]]:
    return sorted(weights.items(), key=lambda item: WEIGHTS.index(item[0]) if item[0] in WEIGHTS else len(WEIGHTS))


def _sigma_series(name: str, loss: WeightsLoss) -> Series:
    levels: Sequence[float] = [one.sigma for one in loss.per_sigma]
    errors = [float("nan") if one.stderr is None else one.stderr for one in loss.per_sigma]
    label = f"{name}: {loss.mean:.4f}" + ("" if loss.stderr is None else f" \u00b1 {loss.stderr:.4f}")
    return Series(label, levels, [one.mean for one in loss.per_sigma], error=errors, colour=_COLOURS.get(name, ""))
