"""What training measures: names, units, and the file of rows that is the source of truth about a run.

Names are safe for MLflow (no parentheses, no per cent sign). A row is {"step": steps done, name: number, ...}.

What a step measures on the device stays there, as named Scalars, until a log window of steps is moved to the host. Each
says how it is reduced over ranks and micro batches, so a new metric is one line where it is measured.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Row = Mapping[str, float]

STEP = "step"  # optimizer steps done; 0 before the first
TRAIN_LOSS = "train/loss"  # mean over the global batch of this step
SKIPPED_STEPS = "train/skipped_steps"  # steps skipped so far; absent with max_skipped_steps 0
LOSS_SPIKE = "train/loss_spike"  # robust standard deviations above the running level; of spikes only
GRAD_NORM = "train/grad_norm"  # L2 norm of the whole gradient before clipping
LEARNING_RATE = "train/learning_rate"  # of this step
EPOCH = "train/epoch"  # epochs done, with a fraction
SIGMA_MEAN = "train/sigma_mean"  # mean noise level of the global batch of this step
CONDITION_FRACTION = "train/fraction_{}"  # of the samples of this step with a condition; the rest is text_to_video
CONDITION_LOSS = "train/loss_{}"  # mean over those samples; absent in a step that has none
MASK_COVERED = "train/mask_covered"  # mean weight of an element's loss; absent without masked_loss
MASK_EMPTY = "train/mask_empty_fraction"  # of the samples of this step: those that weigh nothing, whose loss is 0
ROLLOUT_FRACTION = "train/rollout_fraction"  # of the samples of this step; absent without train.rollout
ROLLOUT_LOSS = "train/loss_rollout"  # mean over those samples; absent in a step that has none
STEP_S = "time/step_s"  # seconds per step, mean over the log window, which ends with a device sync
DATA_WAIT_S = "time/data_wait_s"  # seconds of this step in which rank 0 waited for data
SAMPLES_PER_S = "throughput/samples_per_s"  # of all ranks; this and the next, means over the log window
TOKENS_PER_S = "throughput/tokens_per_s"  # latent tokens of the transformer, of all ranks
TFLOPS = "throughput/tflop_per_s"  # 10^12 FLOPs a second and device, 3 x those of the forward pass
MFU = "throughput/mfu"  # that over the measured peak of a matrix product on this device
GPU_ALLOCATED_PEAK_GIB = "memory/gpu_allocated_peak_gib"  # of rank 0, since its start
GPU_RESERVED_PEAK_GIB = "memory/gpu_reserved_peak_gib"  # of the allocator, of rank 0, since its start
HOST_PEAK_GIB = "memory/host_peak_gib"  # resident pages of rank 0, since its start
COMPILED_GRAPHS = "compile/graphs"  # graphs that rank 0 compiled so far; only where blocks are compiled
EVAL_LOSS_LIVE = "eval/loss_live"  # mean over the fixed grid, see sana/training/evaluation.py
EVAL_LOSS_EMA = "eval/loss_ema"  # the same with the EMA weights
EVAL_STDERR_LIVE = "eval/stderr_live"  # standard error over eval samples; absent when there is one sample
EVAL_STDERR_EMA = "eval/stderr_ema"
EVAL_CONDITION_LOSS = "eval/loss_{}_{}"  # the same with a condition in every sample: of these weights, by its name
EVAL_CONDITION_STDERR = "eval/stderr_{}_{}"
TRAIN_PROBE_LOSS = "eval/train_probe_loss_ema"  # of fixed train samples on the same grid, by the EMA weights
BEST_STEP = "eval/best_step"  # of the lowest eval/loss_ema that early_stopping judged so far
VALIDATION_FAILED = "validation/failed"  # 1: there are no videos of this step, 0: there are
VALIDATION_S = "time/validation_s"  # seconds that the videos of this step took
EVAL_S = "time/eval_s"  # seconds that this evaluation took

# how names begin that differ between two runs of a trajectory
OF_THE_MACHINE = ("time/", "throughput/", "memory/", "compile/")


def of_dataset(name: str, dataset: str) -> str:
    """Return the name of a number that is measured of one data set by itself: eval/ID/loss_ema; of all, for ""."""
    group, _, number = name.partition("/")
    return f"{group}/{dataset}/{number}" if dataset else name


class Scalar(NamedTuple):
    """A float32 number on the device, and how it is reduced to one number per step.

    `sum`: this micro batch's part of a sum. `mean`: a mean over the samples of this micro batch. `ratio`: this micro
    batch's parts of two sums, [2], of which the first is divided by the second; a second of 0 gives no number. `equal`:
    a number of the whole step, equal on all ranks.
    """

    value: Tensor
    kind: Literal["sum", "mean", "ratio", "equal"]


def accumulate(scalars: dict[str, Scalar], micro: Mapping[str, Scalar], *, part: float) -> None:
    """Add a micro batch's scalars to the step's; `part` is its fraction of the global batch."""
    for name, (value, kind) in micro.items():
        value = value.detach() * part if kind == "mean" else value.detach()
        before = scalars.get(name)
        scalars[name] = Scalar(value if before is None or kind == "equal" else before.value + value, kind)


def to_host(
    steps: Sequence[Mapping[str, Scalar]], sum_over_ranks: Callable[[Tensor], Tensor]
) -> list[dict[str, float]]:
    """Move the scalars of several steps to the host: one collective that all ranks enter, and one device sync.

    All ranks must have measured the same names at each step, in the same order.
    """
    places = [(step, name) for step, scalars in enumerate(steps) for name in scalars]
    shared = [place for place in places if steps[place[0]][place[1]].kind != "equal"]
    equal = [place for place in places if steps[place[0]][place[1]].kind == "equal"]
    values = [_joined([steps[step][name] for step, name in some]) for some in (shared, equal) if some]
    if shared:
        values[0] = sum_over_ranks(values[0])
    numbers: list[dict[str, float]] = [{} for _ in steps]
    found = iter(torch.cat(values).tolist())
    for step, name in [*shared, *equal]:
        number = next(found)
        if steps[step][name].kind == "ratio":
            divisor = next(found)
            if divisor == 0:
                continue
            number /= divisor
        numbers[step][name] = number
    return numbers


def _joined(scalars: Sequence[Scalar]) -> Tensor:
    return torch.cat([one.value.float().reshape(-1) for one in scalars])


class MetricsWriter:
    """Appends rows to a local `metrics.jsonl`, and cuts the rows since the last checkpoint into a segment.

    `history` is the metrics of the checkpoint that training resumes from: it replaces a file whose last rows may be of
    steps that are now done again.
    """

    def __init__(self, path: Path, history: bytes = b"") -> None:
        self.path = path
        self._uncommitted: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(history)
        os.replace(temporary, path)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows, whose values must be finite: JSON has no other numbers."""
        lines = [json.dumps(dict(row), allow_nan=False) + "\n" for row in rows]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        self._uncommitted += lines

    def last_values(self, name: str, num_values: int) -> list[float]:
        """Return the last values of a metric that the file has, in order."""
        found: list[float] = []
        for line in reversed(self.path.read_bytes().splitlines()):
            row = json.loads(line)
            found += [row[name]] if name in row else []
            if len(found) == num_values:
                break
        return found[::-1]

    def cut_segment(self) -> bytes:
        """Return the rows since the last cut."""
        segment = "".join(self._uncommitted).encode()
        self._uncommitted.clear()
        return segment


def parse_rows(data: bytes) -> list[dict[str, float]]:
    """Read back rows of a metrics file or segment; an incomplete last line, left by a kill, is dropped."""
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def not_finite(row: Row) -> list[str]:
    """Return the names of the numbers that are not finite."""
    return [name for name, number in row.items() if not math.isfinite(number)]
