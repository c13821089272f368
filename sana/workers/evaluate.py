"""`python -m sana.workers.evaluate JOB`: the eval loss of a checkpoint, against the model before training.

Rank 0 writes into `out_dir`: `losses.parquet` (LOSSES), `report.json` (an EvalReport) and `eval_loss.png`. The
weights are read from the checkpoint, not from an export, and evaluated as in the training loop: the numbers are equal.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from sana.arrow import to_parquet
from sana.data.loading.loader import Reader, load_samples
from sana.data.schemas import LOSSES
from sana.data.shards.shard_cache import ShardFiles
from sana.data.tables import content_digest
from sana.facts import BASELINE, WEIGHTS, ComputeSettings, PairedDifference, SigmaLoss, WeightsLoss
from sana.model.device import out_of_memory_explained
from sana.model.offload.group_offload import OffloadedModel
from sana.progress import Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.results import DatasetLoss, EvalReport
from sana.runtime.specs import CheckpointName, EvaluateSpec
from sana.store import Store
from sana.training.checkpoints.checkpoint import read_checkpoint
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.compute.blocks import BlockCompute, prepare_blocks
from sana.training.eval_sets import EvalSets, eval_sets
from sana.training.evaluation import EvalTable, eval_list_digest, evaluate_model, paired_difference
from sana.training.objectives.registry import build_objective
from sana.training.parallel.parallel import Parallel
from sana.training.trainables.registry import load_trainable
from sana.training.trainables.trainable import Trainable

_COLORS = {BASELINE: "#8a8f98", "live": "#3b7dd8", "ema": "#d9822b"}

_log = logging.getLogger(__name__)


@out_of_memory_explained("evaluate.resources.offload.type=block_level")
def evaluate(job: Job[EvaluateSpec]) -> None:
    """Evaluate the initial, live and EMA weights on the fixed grid, and write the report."""
    tables, sets, compute = evaluate_all(job)
    out, checkpoint = Path(job.spec.out_dir), job.spec.checkpoint
    if tables is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "losses.parquet").write_bytes(to_parquet(losses_table(tables)))
        (out / EvalReport.FILE).write_bytes(build_report(tables, sets, checkpoint, compute).to_json())
        plot_losses(tables, sets, step=checkpoint.step).savefig(out / "eval_loss.png", dpi=150)


def evaluate_all(job: Job[EvaluateSpec]) -> tuple[dict[str, EvalTable] | None, EvalSets, ComputeSettings]:
    """Return a table per set of weights, in the order of WEIGHTS, or None on all ranks but the first; and how.

    A table has the samples of all sets that are evaluated.
    """
    spec, store = job.spec, job.open_store()
    parallel = Parallel.open(job.config.train)
    samples = load_samples(store, spec.latents, spec.captions, "eval")
    sets = eval_sets(samples, job.config.evaluate)
    report = _Reporter(job, len(sets.rows), shown=parallel.is_main)
    report.phase("loading the model")
    trainable = load_trainable(spec.model, job.config.train)
    compute, offloaded = _prepare_model(job, trainable.model, parallel)
    _warn_of_other_bits(store, spec.checkpoint, compute.settings)
    resources = job.config.train.resources
    files = ShardFiles.configured(store, resources, work_dir=job.work_dir)
    reader = Reader(files, samples, verify=resources.verify_checksums)
    tables: dict[str, EvalTable] = {}
    weights = _WeightsAhead(store, spec.checkpoint, trainable, parallel)
    for name in WEIGHTS:
        if name != BASELINE:
            report.phase(f"loading the {name} weights")
            with offloaded.reloading() if offloaded else nullcontext():
                weights.load()
        weights.read_ahead(name)
        report.weights = name
        table = evaluate_model(
            parallel,
            trainable.model,
            build_objective(job.config.train, flow_shift=1.0),  # evaluation draws no noise level
            reader,
            job.config.evaluate,
            text_padding=job.config.train.text_padding,
            on_round=report.on_round,
            rows=sets.rows,
        )
        assert table is not None  # on_round never stops it
        table.require_finite(name)
        tables[name] = table
        for dataset in ("", *sets.separate):
            of = sets.of(table, dataset)
            what = f"{name} weights: eval loss" + (f" of {dataset}" if dataset else "")
            _log.info("%s %.6f over %d samples", what, of.mean(), len(of.sample_ids))
    parallel.finish()
    return (tables if parallel.is_main else None), sets, compute.settings


def _prepare_model(
    job: Job[EvaluateSpec], model: nn.Module, parallel: Parallel
) -> tuple[BlockCompute, OffloadedModel | None]:
    """Have the model computed as the loop computes it, or with `evaluate.resources.offload` from the host's memory."""
    config, offload = job.config.train, job.config.evaluate.resources.offload
    if not offload.is_on:
        compute = prepare_blocks(model, config, parallel, buckets=(), work_dir=job.work_dir)
        parallel.place(model)
        return compute, None
    eager = config.resources.model_copy(update={"compile": "never", "activation_memory": "recompute_all"})
    config = config.model_copy(update={"resources": eager})
    compute = prepare_blocks(model, config, parallel, buckets=(), work_dir=job.work_dir)
    return compute, OffloadedModel(model, offload, parallel.device, work_dir=job.work_dir)


def _warn_of_other_bits(store: Store, checkpoint: CheckpointName, compute: ComputeSettings) -> None:
    """Warn where the training loop computed its eval losses in another way than this stage does."""
    before = read_checkpoint(store, checkpoint.trajectory, checkpoint.step).compute
    if before is None:
        return
    # these change no eval loss
    same = replace(
        before,
        num_ranks=compute.num_ranks,
        micro_batch_size=compute.micro_batch_size,
        activations_kept=compute.activations_kept,
        sharding=compute.sharding,
        offload=compute.offload,
    )
    if changed := compute.differences(same):
        _log.warning("eval losses of the training loop differ from these in the last digits: %s", ", ".join(changed))


class _WeightsAhead:
    """Reads the set of WEIGHTS after the one that is evaluated, and checks its digest, meanwhile; on rank 0 only."""

    def __init__(self, store: Store, checkpoint: CheckpointName, trainable: Trainable, parallel: Parallel) -> None:
        self._read = partial(load_weights, store, checkpoint.trajectory, checkpoint.step)
        self._trainable, self._parallel = trainable, parallel
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._next: Future[dict[str, Tensor]] | None = None

    def read_ahead(self, name: Literal["initial", "live", "ema"]) -> None:
        """Begin to read the set after `name`, if there is one."""
        following = WEIGHTS[WEIGHTS.index(name) + 1 :]
        if following and self._parallel.is_main:
            self._next = self._thread.submit(self._read, which=following[0])

    def load(self) -> None:
        """Load the set that was read into the model, on all ranks."""
        if self._next is not None:
            self._trainable.load(self._next.result())
            self._next = None  # another copy of the model
        loaded = {**self._trainable.parameters, **self._trainable.fixed}
        weights = {name: tensor.detach() for name, tensor in loaded.items()}
        self._parallel.scatter(None, {"weights": weights})


class _Reporter:
    """Counts evaluations: of one sample, at all noise levels, by one set of weights. Only rank 0 reports."""

    def __init__(self, job: Job[EvaluateSpec], num_samples: int, *, shown: bool) -> None:
        self._job, self._num_samples, self._shown = job, num_samples, shown
        self._done = 0
        self.weights: str = BASELINE

    def phase(self, phase: str) -> None:
        self._report(self._done, phase=phase)

    def on_round(self, done: int, total: int) -> bool:
        self._done = WEIGHTS.index(self.weights) * total + done
        levels = f"at {self._job.config.evaluate.num_sigmas} noise levels"
        at = f"{self.weights} weights: sample {done} of {total}, {levels}"
        is_last = self._done == len(WEIGHTS) * total
        self._report(self._done, f"{total} samples by {len(WEIGHTS)} sets of weights, {levels}" if is_last else at)
        return True

    def _report(self, done: int, detail: str = "", *, phase: str = "") -> None:
        if self._shown:
            total = len(WEIGHTS) * self._num_samples
            self._job.report(Progress(done, total, "evaluations", detail, phase=phase))


def losses_table(tables: dict[str, EvalTable]) -> pa.Table:
    """Return one row per set of weights, sample and noise level."""
    rows = [
        {"weights": name, "sample_id": sample_id, "sigma_index": level, "sigma": table.sigmas[level], "loss": loss}
        for name, table in tables.items()
        for sample_id, losses in zip(table.sample_ids, table.losses.tolist(), strict=True)
        for level, loss in enumerate(losses)
    ]
    return pa.Table.from_pylist(rows, schema=LOSSES)


def build_report(
    tables: dict[str, EvalTable], sets: EvalSets, checkpoint: CheckpointName, compute: ComputeSettings | None = None
) -> EvalReport:
    """Return the numbers of the report."""
    own = _of_dataset(tables, sets, "")
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
    )


def _of_dataset(tables: dict[str, EvalTable], sets: EvalSets, dataset: str) -> DatasetLoss:
    """Return the losses of one set, that of the eval loss for ""."""
    of = {name: sets.of(table, dataset) for name, table in tables.items()}
    baseline = of[BASELINE]
    return DatasetLoss(
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


def plot_losses(tables: dict[str, EvalTable], sets: EvalSets, *, step: int) -> Figure:
    """Draw loss over noise level, one curve per set of weights, bars of one standard error; a picture per data set."""
    names = ["", *sets.separate]
    figure = Figure(figsize=(8, 4.8 * len(names)), layout="constrained")
    for name, axes in zip(names, figure.subplots(len(names), squeeze=False)[:, 0], strict=True):
        of = {weights: sets.of(table, name) for weights, table in tables.items()}
        _plot(axes, of, f"{name}: eval loss" if name else "Eval loss", step=step)
    return figure


def _plot(axes: Axes, tables: dict[str, EvalTable], what: str, *, step: int) -> None:
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


if __name__ == "__main__":
    run_worker(evaluate, EvaluateSpec)
