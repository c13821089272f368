"""The objective of a config: the element losses by their name there, and the parts that it turns on."""

from collections.abc import Callable, Sequence
from typing import Any

from sana.config.training.method import LoraMethod
from sana.config.training.train import TrainConfig
from sana.training.objectives import flow_matching, huber
from sana.training.objectives.conditions import ConditionsPart, ConditionTable
from sana.training.objectives.masked_loss import MaskedLoss
from sana.training.objectives.noise import NoisePolicy
from sana.training.objectives.objective import ElementLoss, Measure, Part, Regularizer
from sana.training.objectives.rollout import RolloutPart
from sana.training.objectives.velocity_objective import VelocityObjective
from sana.training.objectives.weighting import WEIGHTS, WeightingPart
from sana.training.trainables.adapter_dropout import AdapterDropout

# each takes its own section of the config
ELEMENT_LOSSES: dict[str, Callable[[Any], ElementLoss]] = {
    "flow_matching": flow_matching.build,
    "huber": huber.build,
}


def build_objective(
    config: TrainConfig,
    *,
    flow_shift: float,
    conditions: ConditionTable | None = None,
    regularizers: Sequence[Regularizer] = (),
    most: Callable[[int], int] | None = None,
) -> VelocityObjective:
    """Return the objective that the config names; `flow_shift` is that of its noise levels.

    `conditions` are those of each row; None: those of `config` for all. `regularizers` are made with the model, which
    they look into: by `build_regularizers`. `most`: the largest of a number of all ranks, where they must take as many
    forward passes each (RolloutPart).

    Parts change a step in this order: conditions, masks, rollout, weighting.
    """
    parts: list[Part] = []
    if isinstance(config.method, LoraMethod) and config.method.dropout:
        parts.append(AdapterDropout(config.seed))
    measures: list[Measure] = []
    table = ConditionTable((config.conditions,)) if conditions is None else conditions
    if any(table.lists):
        part = ConditionsPart(table, config.seed)
        parts.append(part)
        measures.append(part)
    if config.masked_loss is not None:
        masks = MaskedLoss(config.masked_loss, config.seed)
        parts.append(masks)
        measures.append(masks)
    if config.rollout is not None:
        rollout = RolloutPart(config.rollout, config.seed, most, own_length=config.text_padding == "batch")
        parts.append(rollout)
        measures.append(rollout)
    weighting = config.loss_weighting
    if weighting.name != "none":
        parts.append(WeightingPart(WEIGHTS[weighting.name](weighting)))
    return VelocityObjective(
        NoisePolicy(config.timestep_sampling, config.seed, flow_shift, config.shift_by_tokens, config.noise_offset),
        ELEMENT_LOSSES[config.objective.name](config.objective),
        parts,
        regularizers,
        measures,
    )
