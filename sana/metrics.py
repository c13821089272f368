"""What training measures: names, units, and the rows that are the source of truth about a run. No torch here.

Names are safe for MLflow (no parentheses, no per cent sign). A row is {"step": steps done, name: number, ...}.
"""

import json
import math
from collections.abc import Mapping

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
EVAL_SIGMA_LOSS = "eval_by_sigma/loss_{}_{:g}"  # of these weights at one noise level, mean over eval samples
TRAIN_PROBE_LOSS = "eval/train_probe_loss_ema"  # of fixed train samples on the same grid, by the EMA weights
BEST_STEP = "eval/best_step"  # of the lowest eval/loss_ema that early_stopping judged so far
VALIDATION_FAILED = "validation/failed"  # 1: there are no videos of this step, 0: there are
VALIDATION_S = "time/validation_s"  # seconds that the videos of this step took
EVAL_S = "time/eval_s"  # seconds that this evaluation took

# how names begin that differ between two runs of a trajectory
OF_THE_MACHINE = ("time/", "throughput/", "memory/", "compile/")
OF_ONE_SIGMA = "eval_by_sigma/"  # how names begin that are many, for a map of them and not for a chart each


def of_sigmas(row: Row, weights: str) -> dict[float, float]:
    """Return the eval loss of a row at each noise level, in their order; empty where it measured none."""
    begin = EVAL_SIGMA_LOSS.partition("{}")[0] + f"{weights}_"
    found = {float(name.removeprefix(begin)): loss for name, loss in row.items() if name.startswith(begin)}
    return dict(sorted(found.items()))


def of_dataset(name: str, dataset: str) -> str:
    """Return the name of a number that is measured of one data set by itself: eval/ID/loss_ema; of all, for ""."""
    group, _, number = name.partition("/")
    return f"{group}/{dataset}/{number}" if dataset else name


def parse_rows(data: bytes) -> list[dict[str, float]]:
    """Read back rows of a metrics file or segment; an incomplete last line, left by a kill, is dropped."""
    return [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def not_finite(row: Row) -> list[str]:
    """Return the names of the numbers that are not finite."""
    return [name for name, number in row.items() if not math.isfinite(number)]
