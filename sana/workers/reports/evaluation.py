"""The files of an evaluation: its tables, its numbers and its plot."""

from collections.abc import Mapping

import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sana.data.eval_table import EvalTable, paired_difference
from sana.data.schemas import CONDITION_LOSSES, LOSSES
from sana.data.tables import content_digest
from sana.facts import BASELINE, ComputeSettings, PairedDifference, SeparateLoss, SigmaLoss, WeightsLoss
from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName
from sana.training.eval_sets import EvalSets
from sana.training.evaluation import eval_list_digest

_COLORS = {BASELINE: "#8a8f98", "live": "#3b7dd8", "ema": "#d9822b"}
Tables = dict[str, EvalTable]  # by name of the weights


def losses_table(tables: Tables) -> pa.Table:
    """Return one row per set of weights, sample and noise level."""
    return pa.Table.from_pylist(_rows(tables), schema=LOSSES)


def condition_losses_table(by_condition: Mapping[str, Tables]) -> pa.Table:
    """Return the rows of each condition."""
    rows = [{"condition": label, **row} for label, tables in by_condition.items() for row in _rows(tables)]
    return pa.Table.from_pylist(rows, schema=CONDITION_LOSSES)


def _rows(tables: Tables) -> list[dict[str, object]]:
    return [
        {"weights": name, "sample_id": sample_id, "sigma_index": level, "sigma": table.sigmas[level], "loss": loss}
        for name, table in tables.items()
        for sample_id, losses in zip(table.sample_ids, table.losses.tolist(), strict=True)
        for level, loss in enumerate(losses)
    ]


def build_report(
    tables: Tables,
    sets: EvalSets,
    by_condition: Mapping[str, Tables],
    checkpoint: CheckpointName,
    compute: ComputeSettings | None = None,
) -> EvalReport:
    """Return the numbers of the report: of the eval loss, by data set and with each condition."""
    own = _of_dataset(tables, sets, "")
    conditioned = condition_losses_table(by_condition)
    return EvalReport(
        trajectory=checkpoint.trajectory,
        step=checkpoint.step,
        num_samples=own.num_samples,
        num_sigmas=len(tables[BASELINE].sigmas),
        losses_digest=content_digest(losses_table(tables), LOSSES.names),
        eval_list_digest=eval_list_digest(tables[BASELINE].sample_ids),
        weights=own.weights,
        paired=own.paired,
        compute=compute,
        datasets={name: _of_dataset(tables, sets, name) for name in sets.separate},
        conditions={label: _losses_of(tables) for label, tables in by_condition.items()},
        condition_losses_digest=content_digest(conditioned, CONDITION_LOSSES.names) if by_condition else "",
    )


def _of_dataset(tables: Tables, sets: EvalSets, dataset: str) -> SeparateLoss:
    """Return the losses of one set, that of the eval loss for ""."""
    return _losses_of({name: sets.of(table, dataset) for name, table in tables.items()})


def _losses_of(of: Tables) -> SeparateLoss:
    baseline = of[BASELINE]
    return SeparateLoss(
        num_samples=len(baseline.sample_ids),
        weights={name: _summary(table) for name, table in of.items()},
        paired={name: _comparison(table, baseline) for name, table in of.items() if name != BASELINE},
    )


def _summary(table: EvalTable) -> WeightsLoss:
    levels = zip(table.sigmas, table.per_sigma(), strict=True)
    per_sigma = tuple(SigmaLoss(sigma, mean, stderr) for sigma, (mean, stderr) in levels)
    return WeightsLoss(table.mean(), table.stderr(), per_sigma)


def _comparison(table: EvalTable, baseline: EvalTable) -> PairedDifference:
    difference, stderr, num_samples = paired_difference(table, baseline)
    return PairedDifference(difference, stderr, num_samples, relative_drop=-difference / baseline.mean())


def plot_losses(tables: Tables, sets: EvalSets, by_condition: Mapping[str, Tables], *, step: int) -> Figure:
    """Draw loss over noise level, one curve per set of weights, bars of one standard error.

    There is a picture per data set that is measured by itself, and per condition.
    """
    drawn = {
        f"{name}: eval loss" if name else "Eval loss": {of: sets.of(table, name) for of, table in tables.items()}
        for name in ("", *sets.separate)
    }
    drawn |= {f"Eval loss with {label}": of for label, of in by_condition.items()}
    figure = Figure(figsize=(8, 4.8 * len(drawn)), layout="constrained")
    for (what, of), axes in zip(drawn.items(), figure.subplots(len(drawn), squeeze=False)[:, 0], strict=True):
        _plot(axes, of, what, step=step)
    return figure


def _plot(axes: Axes, tables: Tables, what: str, *, step: int) -> None:
    for name, table in tables.items():
        means = [mean for mean, _ in table.per_sigma()]
        bars = [stderr or 0.0 for _, stderr in table.per_sigma()]  # a single sample has no bar
        label = f"{name}: {table.mean():.4f}" + (f" \u00b1 {table.stderr():.4f}" if table.stderr() is not None else "")
        axes.errorbar(
            table.sigmas, means, yerr=bars, label=label, color=_COLORS[name],
            marker="o", markersize=4.5, linewidth=1.8, capsize=3, linestyle="--" if name == BASELINE else "-",
        )  # fmt: skip
    num_samples = len(tables[BASELINE].sample_ids)
    axes.set_title(f"{what} after {step} steps: {num_samples} samples, {len(tables[BASELINE].sigmas)} noise levels")
    axes.set_xlabel("noise level sigma (0: clean, 1: pure noise)")
    axes.set_ylabel("velocity MSE (normalised latents, no unit)")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="weights: mean \u00b1 standard error", frameon=False)
