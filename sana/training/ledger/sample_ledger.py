"""What each sample's loss was, against what its noise levels cost; and which levels were drawn. Part of a checkpoint.

A loss says little without its noise level: it is divided by the mean of its level, over all samples. 12 bytes a row of
samples, so ten million clips take 120 MB. Every rank has the same ledger.
"""

import numpy as np
import torch
from torch import Tensor

LEDGER = "ledger"  # the part of a checkpoint that has it
SIGMA_BINS = 32  # of (0, 1), equal
# Of the means by level: each draw of a level takes the earlier ones' weight down by this, so that a mean is of about
# the last 500, as losses fall while training goes on.
DECAY = 1 - 1 / 512


class SampleLedger:
    """Draws and normalised losses by row, losses by noise level, and counts of levels by bucket."""

    def __init__(self, num_rows: int, num_buckets: int) -> None:
        self.draws = np.zeros(num_rows, np.int32)
        self._excess = np.zeros(num_rows, np.float32)  # sums of normalised loss - 1, and of its square
        self._square = np.zeros(num_rows, np.float32)
        self.level_loss = np.zeros(SIGMA_BINS)  # decayed sums: of losses, and of their number
        self.level_weight = np.zeros(SIGMA_BINS)
        self.sigma_counts = np.zeros((num_buckets, SIGMA_BINS), np.int64)

    def tensors(self) -> dict[str, Tensor]:
        """Return the state itself, not a copy, as tensors on the CPU."""
        return {name: torch.from_numpy(array) for name, array in self._arrays().items()}

    def _arrays(self) -> dict[str, np.ndarray]:
        return {
            "draws": self.draws,
            "excess": self._excess,
            "square": self._square,
            "level_loss": self.level_loss,
            "level_weight": self.level_weight,
            "sigma_counts": self.sigma_counts,
        }

    def add(self, rows: np.ndarray, bucket: int, sigmas: np.ndarray, losses: np.ndarray) -> None:
        """Take in one step: the rows of its global batch, all of one bucket, their levels and losses, float [rows].

        The means by level have these losses in them before they divide them. A loss that is not finite counts for
        nothing but its level's count.
        """
        level = np.minimum((sigmas * SIGMA_BINS).astype(np.int64), SIGMA_BINS - 1)
        self.sigma_counts[bucket] += np.bincount(level, minlength=SIGMA_BINS)
        whole = np.isfinite(losses)
        rows, level, losses = rows[whole], level[whole], losses[whole].astype(np.float64)
        number = np.bincount(level, minlength=SIGMA_BINS)
        self.level_weight[:] = self.level_weight * DECAY**number + number
        self.level_loss[:] = self.level_loss * DECAY**number + np.bincount(level, losses, minlength=SIGMA_BINS)
        mean = self.level_loss[level] / self.level_weight[level]
        excess = (np.divide(losses, mean, out=np.ones_like(losses), where=mean > 0) - 1).astype(np.float32)
        np.add.at(self.draws, rows, 1)  # a row may be there twice
        np.add.at(self._excess, rows, excess)
        np.add.at(self._square, rows, excess**2)

    def normalised(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean normalised loss of rows that were drawn, and its standard error; NaN for a single draw."""
        number = self.draws[rows].astype(np.float64)
        mean = self._excess[rows] / number
        spread = np.maximum(self._square[rows] - number * mean**2, 0.0)
        with np.errstate(invalid="ignore"):
            stderr = np.sqrt(np.where(number > 1, spread / (np.maximum(number, 2) - 1) / number, np.nan))
        return 1 + mean, stderr
