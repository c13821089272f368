"""Conditions of training: which part of a sample the model is given clean, drawn for each sample by itself.

With conditions on, the model gets a timestep per token in every batch, also where no sample of it has a condition:
plain timesteps give other last bits, and then these would depend on which samples share a micro batch or a rank.

Shapes in this module: B samples; a latent is [B, 16, f, h, w].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from sana import metrics as m
from sana.config.pipeline import Config
from sana.config.training.conditions import ConditionConfig, Conditions
from sana.data.loading.loader import LATENTS, Samples
from sana.model.random import philox_uniform
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar
from sana.training.objectives.clean_masks import draw_clean
from sana.training.objectives.masked_loss import LOSS_MASK
from sana.training.objectives.step_input import StepInput

TEXT_TO_VIDEO = "text_to_video"
CLEAN, CONDITION = "clean", "condition"  # names of tensors


@dataclass(frozen=True)
class ConditionTable:
    """The conditions of each row: `lists[codes[row]]`; without codes those of every row are the first list."""

    lists: tuple[Conditions, ...]
    codes: np.ndarray | None = None  # uint16 [rows]

    @classmethod
    def of(cls, config: Config, samples: Samples) -> "ConditionTable":
        """Return the conditions that the config has for the data set of each row."""
        of_dataset = {dataset.id: config.conditions_of(dataset) for dataset in config.download.enabled}
        lists = tuple(of_dataset.get(name, config.train.conditions) for name in samples.datasets)
        return cls(lists, samples.dataset_codes)

    def of_row(self, row: int) -> Conditions:
        return self.lists[0 if self.codes is None else int(self.codes[row])]

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of all conditions, in the order in which they are listed first; text to video before them."""
        return (TEXT_TO_VIDEO, *dict.fromkeys(one.label for conditions in self.lists for one in conditions))


@dataclass(frozen=True)
class ConditionsPart:
    """Draws the condition of each sample, keyed by (seed, step, position), and measures the loss by condition."""

    table: ConditionTable
    seed: int

    def draw(self, slots: Sequence[BatchSlot], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `clean`, bool [B, 1, f, h, w], and `condition`, int64 [B]: an index into the table's labels."""
        _, _, frames, height, width = tensors[LATENTS].shape
        labels, masks = self.table.labels, tensors.get(LOSS_MASK)
        clean = torch.zeros(len(slots), 1, frames, height, width, dtype=torch.bool)
        codes = torch.zeros(len(slots), dtype=torch.int64)
        for place, slot in enumerate(slots):
            condition = self._choose(slot)
            if condition is None:
                continue
            mask = None if masks is None else masks[place]
            drawn = draw_clean(condition, (frames, height, width), key=slot.key(self.seed, "clean"), mask=mask)
            if drawn is not None:
                clean[place], codes[place] = drawn, labels.index(condition.label)
        return {CLEAN: clean, CONDITION: codes}

    def _choose(self, slot: BatchSlot) -> ConditionConfig | None:
        uniform = philox_uniform([1], key=slot.key(self.seed, "condition")).item()
        below = 0.0
        for condition in self.table.of_row(slot.row):
            below += condition.probability
            if uniform < below:
                return condition
        return None

    def change(self, model: nn.Module, batch: MicroBatch, step: StepInput) -> StepInput:  # noqa: ARG002 - a Part's
        return replace(step, clean=batch.tensors[CLEAN])

    def measure(self, batch: MicroBatch, per_sample: Tensor) -> Mapping[str, Scalar]:
        """Return the fraction of samples, and their mean loss, by condition; `per_sample` [B]."""
        measured: dict[str, Scalar] = {}
        for code, label in enumerate(self.table.labels):
            chosen = (batch.tensors[CONDITION] == code).float()
            # not by multiplication: a loss that is not finite is that of its own condition alone
            losses = torch.where(chosen > 0, per_sample.detach(), 0.0)
            measured[m.CONDITION_FRACTION.format(label)] = Scalar(chosen.mean(), "mean")
            measured[m.CONDITION_LOSS.format(label)] = Scalar(torch.stack([losses.sum(), chosen.sum()]), "ratio")
        return measured
