"""What a device holds of a model whose weights are in the host's memory."""

from sana.config.training.offload import GroupOffload
from sana.costs.text import TextSizes
from sana.costs.transformer import TransformerSizes


def groups_on_device(offload: GroupOffload) -> int:
    """Return how many groups are on the device at once: with a stream the next one too."""
    return 2 if offload.use_stream else 1


def blocks_on_device(offload: GroupOffload) -> int:
    """Return how many blocks have their weights on the device at once, by blocks; 0 where none are offloaded."""
    return offload.blocks_per_group * groups_on_device(offload) if offload.type == "block_level" else 0


def transformer_parameters_on_device(sizes: TransformerSizes, offload: GroupOffload) -> int:
    """Return the parameters of a transformer that the device holds at once, of those of its forward pass."""
    blocks, width = sizes.num_layers * sizes.block_parameters, sizes.width
    largest = width * max(2 * sizes.hidden, 6 * width, sizes.caption_channels)  # of a layer
    return _on_device(sizes.num_parameters, blocks, sizes.block_parameters, largest, offload)


def text_encoder_parameters_on_device(sizes: TextSizes, offload: GroupOffload) -> int:
    """Return the parameters of a text encoder that the device holds at once; its largest layer is the embedding."""
    embedding = sizes.vocab_size * sizes.hidden_size
    blocks = sizes.num_parameters - embedding
    return _on_device(sizes.num_parameters, blocks, blocks // sizes.num_hidden_layers, embedding, offload)


def _on_device(parameters: int, in_blocks: int, block: int, largest: int, offload: GroupOffload) -> int:
    if offload.type == "none":
        return parameters
    if offload.type == "leaf_level":
        return min(parameters, groups_on_device(offload) * largest)
    return parameters - in_blocks + min(in_blocks, blocks_on_device(offload) * block)
