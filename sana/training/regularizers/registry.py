"""The regularizers of a config: losses of hidden states, which are made with the model that they look into."""

from collections.abc import Sequence
from typing import Any

from sana.config.training.train import TrainConfig
from sana.errors import ConfigError
from sana.training.objectives.objective import Regularizer
from sana.training.regularizers.crepa import Crepa
from sana.training.regularizers.projector import add_projector
from sana.training.trainables.trainable import Trainable


def build_regularizers(config: TrainConfig, trainable: Trainable, *, feature_size: int) -> Sequence[Regularizer]:
    """Return the regularizers that the config turns on, and put what they train beside what learns.

    Before ranks wrap the model. `feature_size`: numbers of one of the features that they read.

    Raises:
        ConfigError: the model has no such block.
    """
    crepa = config.crepa
    if crepa is None:
        return ()
    model: Any = trainable.model
    blocks = model.transformer_blocks
    if crepa.block_index >= len(blocks):
        raise ConfigError(f"train.crepa.block_index is {crepa.block_index}, and the model has {len(blocks)} blocks")
    width = model.config.num_attention_heads * model.config.attention_head_dim
    projector = add_projector(trainable, width, feature_size, seed=config.seed)
    return (Crepa(crepa, blocks[crepa.block_index], projector),)
