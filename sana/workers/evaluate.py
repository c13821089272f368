"""`python -m sana.workers.evaluate JOB`: the eval loss of a checkpoint, against the model before training.

Rank 0 writes into `out_dir`: `losses.parquet` (LOSSES), `report.json` (an EvalReport) and `eval_loss.png`. The
weights are read from the checkpoint, not from an export, and evaluated as in the training loop: the numbers are equal.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from sana.arrow import to_parquet
from sana.config.training.conditions import ConditionConfig
from sana.data.eval_table import EvalTable
from sana.data.loading.loader import Reader, load_samples
from sana.data.shards.shard_cache import ShardFiles
from sana.facts import BASELINE, WEIGHTS, ComputeSettings
from sana.model.device import out_of_memory_explained
from sana.model.offload.group_offload import OffloadedModel
from sana.progress import Progress
from sana.runtime.command_specs import EvaluateWeightsSpec
from sana.runtime.job import Job, run_worker
from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName, EvaluateSpec
from sana.store import Store
from sana.training.checkpoints.checkpoint import read_checkpoint
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.compute.blocks import BlockCompute, prepare_blocks
from sana.training.eval_sets import EvalSets, eval_sets
from sana.training.evaluation import evaluate_model
from sana.training.objectives.registry import build_objective
from sana.training.parallel.parallel import Parallel
from sana.training.trainables.registry import load_trainable
from sana.training.trainables.trainable import Trainable
from sana.wording import counted
from sana.workers.reports.evaluation import Tables, build_report, condition_losses_table, losses_table, plot_losses

PLAIN = ""  # the key of the eval loss itself, beside those with a condition by its label

_log = logging.getLogger(__name__)
EvaluateJob = Job[EvaluateSpec] | Job[EvaluateWeightsSpec]


@dataclass(frozen=True)
class WeightsSet:
    """One set of weights to evaluate. `read` reads it, on rank 0; None: the model's, before training."""

    name: str
    read: Callable[[], Mapping[str, Tensor]] | None


@out_of_memory_explained("evaluate.resources.offload.type=block_level")
def evaluate(job: Job[EvaluateSpec]) -> None:
    """Evaluate the initial, live and EMA weights on the fixed grid, and write the report."""
    checkpoint = job.spec.checkpoint

    def sets_of(store: Store, trainable: Trainable) -> list[WeightsSet]:
        read = partial(load_weights, store, checkpoint.trajectory, checkpoint.step)
        return [WeightsSet(name, None if name == BASELINE else partial(read, which=name)) for name in WEIGHTS]

    found, sets, compute = evaluate_all(job, sets_of, checkpoint=checkpoint)
    if found is None:
        return
    out = Path(job.spec.out_dir)
    tables = found.pop(PLAIN)
    out.mkdir(parents=True, exist_ok=True)
    (out / "losses.parquet").write_bytes(to_parquet(losses_table(tables)))
    (out / EvalReport.FILE).write_bytes(build_report(tables, sets, found, checkpoint, compute).to_json())
    plot_losses(tables, sets, found, step=checkpoint.step).savefig(out / "eval_loss.png", dpi=150)
    if found:
        (out / "condition_losses.parquet").write_bytes(to_parquet(condition_losses_table(found)))


def evaluate_all(
    job: EvaluateJob,
    sets_of: Callable[[Store, Trainable], Sequence[WeightsSet]],
    *,
    checkpoint: CheckpointName | None,
) -> tuple[dict[str, Tables] | None, EvalSets, ComputeSettings]:
    """Return a table per set of weights, in their order, or None on all ranks but the first; and how.

    `checkpoint`: of the weights, whose training computed its own eval losses, perhaps in another way.
    Under PLAIN a table has the samples of all sets that are evaluated, under a condition's label those of the eval loss
    that it applies to, if there are any.
    """
    spec, store = job.spec, job.open_store()
    parallel = Parallel.open(job.config.train)
    samples = load_samples(store, spec.latents, spec.captions, "eval")
    sets = eval_sets(samples, job.config.evaluate)
    passes: dict[str, tuple[ConditionConfig | None, Sequence[int]]] = {PLAIN: (None, sets.rows)}
    own_rows = sets.own_rows(samples)
    passes |= {label: (condition, own_rows) for label, condition in job.config.evaluated_conditions.items()}
    told = partial(_Reporter, job, [len(rows) for _, rows in passes.values()], shown=parallel.is_main)
    told(num_sets=1).phase("loading the model")
    trainable = load_trainable(spec.model, job.config.train)
    weights_sets = sets_of(store, trainable)
    report = told(num_sets=len(weights_sets))
    compute, offloaded = _prepare_model(job, trainable.model, parallel)
    if checkpoint is not None:
        _warn_of_other_bits(store, checkpoint, compute.settings)
    resources = job.config.train.resources
    files = ShardFiles.configured(store, resources, work_dir=job.work_dir)
    reader = Reader(files, samples, verify=resources.verify_checksums)
    tables: dict[str, Tables] = {}
    weights = _WeightsAhead(weights_sets, trainable, parallel)
    for place, name in enumerate(one.name for one in weights_sets):
        if weights_sets[place].read is not None:
            report.phase(f"loading the {name} weights")
            with offloaded.reloading() if offloaded else nullcontext():
                weights.load()
        weights.read_ahead(place + 1)
        for label, (condition, rows) in passes.items():
            what = f"{name} weights" + (f" with {label}" if label else "")
            report.begin(what, len(rows))
            table = evaluate_model(
                parallel,
                trainable.model,
                build_objective(job.config.train, flow_shift=1.0),  # evaluation draws no noise level
                reader,
                job.config.evaluate,
                text_padding=job.config.train.text_padding,
                on_round=report.on_round,
                rows=rows,
                condition=condition,
            )
            assert table is not None  # on_round never stops it
            if table.sample_ids:
                table.require_finite(name, f"with {label}, " if label else "")
                tables.setdefault(label, {})[name] = table
                _log_losses(what, table, None if label else sets)
    report.end()
    parallel.finish()
    return (tables if parallel.is_main else None), sets, compute.settings


def _log_losses(what: str, table: EvalTable, sets: EvalSets | None) -> None:
    """Log the eval loss, by data set where there are `sets`."""
    for dataset in ("", *sets.separate) if sets else ("",):
        of = sets.of(table, dataset) if sets else table
        of_what = f"{what}: eval loss" + (f" of {dataset}" if dataset else "")
        _log.info("%s %.6f over %d samples", of_what, of.mean(), len(of.sample_ids))


def _prepare_model(
    job: EvaluateJob, model: nn.Module, parallel: Parallel
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
    """Reads the set after the one that is evaluated, and checks its digest, meanwhile; on rank 0 only."""

    def __init__(self, sets: Sequence[WeightsSet], trainable: Trainable, parallel: Parallel) -> None:
        self._sets, self._trainable, self._parallel = sets, trainable, parallel
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="weights")
        self._next: Future[Mapping[str, Tensor]] | None = None
        self.read_ahead(0)

    def read_ahead(self, place: int) -> None:
        """Begin to read a set, if there is one, and it is read at all."""
        read = self._sets[place].read if place < len(self._sets) else None
        if read is not None and self._parallel.is_main:
            self._next = self._thread.submit(read)

    def load(self) -> None:
        """Load the set that was read into the model, on all ranks."""
        if self._next is not None:
            self._trainable.load(self._next.result())
            self._next = None  # another copy of the model
        loaded = {**self._trainable.parameters, **self._trainable.fixed}
        weights = {name: tensor.detach() for name, tensor in loaded.items()}
        self._parallel.scatter(None, {"weights": weights})


class _Reporter:
    """Counts evaluations: of one sample, at all noise levels, by one set of weights. Only rank 0 reports.

    `sizes`: samples of each pass of one set of weights, of which a condition may apply to fewer.
    """

    def __init__(self, job: EvaluateJob, sizes: Sequence[int], *, num_sets: int, shown: bool) -> None:
        self._job, self._shown = job, shown
        self._num_sets, self._total = num_sets, num_sets * sum(sizes)
        self._num_samples = sizes[0]
        self._done = self._before = self._size = 0  # the last two: of the passes before, of the one that runs
        self._what = ""

    def phase(self, phase: str) -> None:
        self._report(self._done, phase=phase)

    def begin(self, what: str, num_samples: int) -> None:
        """Begin the next pass: `what` names its weights and condition."""
        self._before += self._size
        self._done, self._size, self._what = self._before, num_samples, what

    def on_round(self, done: int, total: int) -> bool:
        self._done = self._before + (self._size if done == total else done)
        if self._done < self._total:  # all is told by `end`
            levels = f"at {self._job.config.evaluate.num_sigmas} noise levels"
            self._report(self._done, f"{self._what}: sample {done} of {total}, {levels}")
        return True

    def end(self) -> None:
        """Report all as done, also where the last pass had no sample."""
        levels = f"at {self._job.config.evaluate.num_sigmas} noise levels"
        self._report(
            self._total, f"{self._num_samples} samples by {counted(self._num_sets, 'set')} of weights, {levels}"
        )

    def _report(self, done: int, detail: str = "", *, phase: str = "") -> None:
        if self._shown:
            self._job.report(Progress(done, self._total, "evaluations", detail, phase=phase))


if __name__ == "__main__":
    run_worker(evaluate, EvaluateSpec)
