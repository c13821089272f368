"""Memory of training by counting: weights, gradients, optimizer state, EMA and activations, from sizes alone.

Activations are what autograd saves in a block for its backward pass, tensor by tensor, as the eager blocks of
diffusers do; a test holds this list against torch's own hooks. Units in this module: D width, C width of
cross-attention, H hidden channels of the feed-forward network, N tokens of a micro batch; bytes everywhere.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from sana.bucket import Bucket
from sana.costs.learned import Learned
from sana.costs.transformer import TIME_CHANNELS, TransformerSizes

Precision = Literal["fp32", "autocast", "bf16"]  # autocast: fp32 weights, computed with in bf16

GIB = 2**30
MASTER_BYTES = 4  # of an fp32 number
# Of what eager blocks save, what compiled ones do: they compute element-wise products again. From one card: an H200
# at 81x480x832, where peaks of 37.4 (all computed again) to 89.1 GiB (a budget of 0.6) are then within 7 %
COMPILED_SHARE = 0.58


class _Saved(NamedTuple):
    """Bytes that a block saves per token, by the number of channels of what is saved."""

    per_d: int
    per_c: int
    per_h: int


# Tensors of D: norm1 and its product with the scale (2), the input of q, k and v (1; cast for each under autocast),
# norms of q and k (2 x 2), ReLU (2), factors of linear attention (3) and their product (1), the input of its output
# projection (1) and of its gate (1), the input of cross-attention (1), norm2 (2), the inputs of the first and of the
# temporal convolution (2) and of the gate (1). Of C: the norm of q (2), q and the output (2). Of H: SiLU (2), the
# depthwise convolution (2), its gated halves (2), the activated half (1) and the input of the last convolution (1).
# A norm in bf16 saves its input in fp32 and two more tensors; linear attention works in fp32 but under autocast.
SAVED: dict[Precision, _Saved] = {
    "fp32": _Saved(per_d=21 * 4, per_c=4 * 4, per_h=8 * 4),
    "bf16": _Saved(per_d=17 * 2 + 6 * 4, per_c=4 * 2 + 4, per_h=8 * 2),
    "autocast": _Saved(per_d=9 * 4 + 18 * 2, per_c=2 * 4 + 4 * 2, per_h=8 * 2),
}


def block_activation_bytes(
    sizes: TransformerSizes,
    num_tokens: int,
    *,
    precision: Precision,
    caption_tokens: int = 300,
    batch: int = 1,
    attention: Literal["fused", "math"] = "fused",
) -> int:
    """Return the bytes that one block saves of N tokens of `batch` samples.

    `math` attention, which is neither a GPU's nor a CPU's, saves its probabilities as well.
    Under autocast the bf16 copies of its weights are among them.
    """
    saved = SAVED[precision]
    d, c, h, element = sizes.width, sizes.cross_width, sizes.hidden, 4 if precision == "fp32" else 2
    total = num_tokens * (saved.per_d * d + saved.per_c * c + saved.per_h * h) + caption_tokens * saved.per_c * c
    # per head and token: the denominator and its inverse, and the logarithm of the sum of cross-attention
    total += num_tokens * (2 * element * sizes.num_attention_heads + 4 * sizes.num_cross_attention_heads)
    if batch > 1 and precision != "autocast":
        total += num_tokens * d * element  # queries of several samples are copied to be multiplied
    if precision == "autocast":
        total += 2 * sizes.block_parameters
    if attention == "math":  # fp32 probabilities, and the queries in fp32 too
        total += 4 * num_tokens * caption_tokens * sizes.num_cross_attention_heads
        total += (4 - element) * num_tokens * c
    return total


def block_modulation_bytes(sizes: TransformerSizes, num_tokens: int, *, precision: Precision) -> int:
    """Return the bytes that one block saves of the modulation of N tokens, each with a timestep of its own.

    Shift, scale and gate of its two halves, from which autograd keeps all six, and 1 + scale of both. Autocast adds the
    fp32 table to them.
    """
    return num_tokens * 8 * sizes.width * (2 if precision == "bf16" else 4)


def shared_modulation_bytes(sizes: TransformerSizes, num_tokens: int, *, precision: Precision) -> int:
    """Return the bytes of what all blocks are modulated by, of N tokens, and of its gradient, which they add up.

    With what the embedding of N timesteps keeps, and the shift and scale of the last norm.
    """
    d, element = sizes.width, 4 if precision == "fp32" else 2
    embedded = num_tokens * element * (TIME_CHANNELS + 4 * d)
    return 2 * num_tokens * element * 6 * d + embedded + num_tokens * 3 * d * (2 if precision == "bf16" else 4)


@dataclass(frozen=True)
class TrainingSetting:
    """What of a config decides the memory of a step on one rank."""

    precision: Precision
    micro_batch_size: int
    kept: float  # share of the blocks' activations that is kept for the backward pass; 0: all are computed again
    accumulates: bool  # several micro batches a step: gradients exist before a forward pass
    optimizer_bytes: int  # of all parameters that learn
    caption_tokens: int
    has_ema: bool = True  # on the device that trains
    has_spare: bool = False  # a copy of weights and optimizer state
    frees_gradients: bool = False  # each as soon as its parameter's step is taken, in the backward pass
    compiled: bool = False
    by_token: bool = False  # each token has a timestep of its own, as conditions give it
    blocks_on_device: int = 0  # with offload: how many blocks have their weights there at once; 0: without
    has_host_memory: bool = True  # apart from the device's; not where a CPU trains
    learned: Learned | None = None  # None: all
    num_shards: int = 1  # ranks that hold a part each of weights, gradients, optimizer state and EMA


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes of one rank at the fullest moment of a step."""

    weights: int
    gradients: int  # those that exist at that moment
    moments: int
    ema: int
    activations: int
    spare: int = 0  # a copy of weights and moments
    host: int = 0  # beside the device's: in the host's memory, without the copy for a checkpoint

    @property
    def state(self) -> int:
        """What exists between steps."""
        return self.weights + self.moments + self.ema + self.spare

    @property
    def peak(self) -> int:
        return self.state + self.gradients + self.activations


def training_memory(sizes: TransformerSizes, bucket: Bucket, setting: TrainingSetting) -> TrainingMemory:
    """Return the memory of a step on samples of one bucket.

    The backward pass frees a block's activations as it makes the block's gradients, so the fullest moment is before
    the last block's (all kept activations, no gradient yet), before the first block's (its activations, and the
    gradients of all others), or the optimizer's step (all gradients). Where gradients are freed in the backward pass
    it is the first of these.
    """
    n = setting.micro_batch_size * sizes.num_tokens(bucket)
    text = setting.micro_batch_size * setting.caption_tokens
    weight = 2 if setting.precision == "bf16" else MASTER_BYTES
    layers, own = sizes.num_layers, _Own.of(sizes, setting.learned, weight)
    parameters, block = own.parameters, own.in_blocks // layers
    saved = block_activation_bytes(
        sizes, n, precision=setting.precision, caption_tokens=text, batch=setting.micro_batch_size
    )
    if setting.by_token:
        saved += block_modulation_bytes(sizes, n, precision=setting.precision)
    if setting.learned is not None:
        cast = 2 * sizes.block_parameters if setting.precision == "autocast" and not setting.learned.is_cast else 0
        saved = max(0, saved - cast + n * setting.learned.added_per_token)
    saved = round(COMPILED_SHARE * saved) if setting.compiled else saved
    stream = n * sizes.width * (2 if setting.precision == "bf16" else 4)  # the tokens between two blocks
    flowing = n * (sizes.hidden * (4 if setting.precision == "fp32" else 2)) + 3 * stream
    ends = 3 * stream + 2 * n * sizes.attention_head_dim * 4 + text * sizes.width * 4 * 4
    if setting.by_token:
        ends += shared_modulation_bytes(sizes, n, precision=setting.precision)
    all_gradients = weight * parameters
    kept = setting.kept
    # what is not kept is computed again block by block
    last = kept * layers * saved + (1 - kept) * (layers * stream + saved) + ends + flowing
    first = saved + stream + ends + flowing
    moments = [
        (all_gradients if setting.accumulates else weight * (parameters - layers * block), last),
        (all_gradients - (0 if setting.accumulates else weight * block), first),
        (all_gradients, 0),
    ]
    if setting.frees_gradients:  # then those of a block at most, while the activations of all before it are kept
        moments = [(weight * block, last)]
    gradients, activations = max(moments, key=sum)
    if setting.blocks_on_device:
        copies = own.block_bytes * min(layers, setting.blocks_on_device)
        if setting.has_host_memory:
            return _offloaded(own, setting, weight=weight, activations=round(copies + last))
        activations += copies
    shards = setting.num_shards
    if shards > 1 and setting.accumulates:  # weights and gradients stay whole until the last micro batch
        activations += own.weight_bytes
    elif shards > 1:  # the block at work and the next one are whole, and so are the gradients of one
        activations += 2 * own.block_bytes + weight * block
        gradients = round(gradients / shards)
    return TrainingMemory(
        weights=weight * parameters // shards + own.fixed_bytes // (shards if own.is_shared else 1),
        gradients=round(gradients),
        moments=setting.optimizer_bytes // shards,
        ema=MASTER_BYTES * parameters // shards if setting.has_ema else 0,
        activations=round(activations),
        spare=(weight * parameters + setting.optimizer_bytes) // shards if setting.has_spare else 0,
        host=0 if setting.has_ema else MASTER_BYTES * parameters // shards,
    )


@dataclass(frozen=True)
class _Own:
    """The parameters that learn, all and those of blocks; and the bytes of weights, those that stay included."""

    parameters: int
    in_blocks: int
    weight_bytes: int
    block_bytes: int  # of one block
    fixed_bytes: int = 0
    fixed_in_blocks: int = 0
    is_shared: bool = True

    @classmethod
    def of(cls, sizes: TransformerSizes, learned: Learned | None, weight: int) -> "_Own":
        layers = sizes.num_layers
        if learned is None:
            block = sizes.block_parameters
            return cls(sizes.num_parameters, layers * block, weight * sizes.num_parameters, weight * block)
        in_blocks = weight * learned.in_blocks + learned.fixed_in_blocks
        return cls(
            learned.num_parameters,
            learned.in_blocks,
            weight * learned.num_parameters + learned.fixed_bytes,
            in_blocks // layers,
            learned.fixed_bytes,
            learned.fixed_in_blocks,
            learned.is_shared,
        )


def _offloaded(own: _Own, setting: TrainingSetting, *, weight: int, activations: int) -> TrainingMemory:
    """Return the memory where all of the blocks but copies is the host's: weights, gradients, moments; and the EMA.

    The fullest moment is before the last block's backward pass: a block's gradients leave before the next one is
    computed.
    """
    rest = own.parameters - own.in_blocks
    moments = round(setting.optimizer_bytes * rest / own.parameters)
    return TrainingMemory(
        weights=weight * rest + own.fixed_bytes - own.fixed_in_blocks,
        gradients=weight * rest,
        moments=moments,
        ema=0,
        activations=activations,
        host=2 * weight * own.in_blocks
        + own.fixed_in_blocks
        + setting.optimizer_bytes
        - moments
        + MASTER_BYTES * own.parameters,
    )
