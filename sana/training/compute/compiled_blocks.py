"""Transformer blocks compiled by torch: one graph for all blocks of a shape, whatever the caption's length.

Compiling changes the last bits: products are fused, and sums are taken in another order.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sana.errors import ConfigError

_MAX_GRAPHS = 256  # of one function: 11 buckets in training and in evaluation are 22; torch's own limit is 8
# Captions are padded to a multiple of it: the official 300 tokens have one length, so one graph. Cross-attention to so
# many is 1.5 % of a forward pass at 81x480x832. A graph for any length fails on the CPU (torch 2.13: inductor takes a
# stride of attention's keys for that of the first length).
CAPTION_MULTIPLE = 320
_MASKED = -10_000.0  # what diffusers adds to the scores of tokens that the mask hides

_log = logging.getLogger(__name__)

Backend = str | Callable[..., Any]


class CompiledBlocks:
    """The blocks of a transformer, compiled in place: parameters, their names and hooks stay as they are.

    Graphs are made at the first forward pass of a shape. `kept` is the share of a block's activations that is kept
    for its backward pass; the rest is computed again from them (torch's activation memory budget), and 1 keeps all that
    is not cheaper to compute again. A forward pass raises BlocksNotCompiledError where they cannot be compiled.
    """

    def __init__(self, blocks: nn.ModuleList, *, kept: float = 1.0, backend: Backend = "inductor") -> None:
        # in force within a block's forward pass only: they are settings of the process, which others compile in too
        self._limit = torch._dynamo.config.patch(recompile_limit=_MAX_GRAPHS)
        self._budget = torch._functorch.config.patch(activation_memory_budget=kept)
        self._shapes: set[tuple[object, ...]] = set()
        self.num_graphs = 0  # that were compiled so far; torch counts those of others too, such as an optimizer's
        self._warned = False
        self._is_eager = False
        self.on_new_shape: Callable[[], None] = _nothing  # called before a graph is made, or read from the cache
        # one function for all blocks, so that twenty of them are compiled once
        self._compiled = torch.compile(type(blocks[0]).forward, backend=backend, dynamic=False)
        for block in blocks:
            block.forward = self.forward_of(block)

    @property
    def num_shapes(self) -> int:
        """Shapes of latents that came, those of training and of evaluation counted apart: as many graphs are needed."""
        return len(self._shapes)

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Within it blocks compute without compiled code, as the model's own do, and no graph is made."""
        self._is_eager = True
        try:
            yield
        finally:
            self._is_eager = False

    def check(self) -> None:
        """Warn, once, if more was compiled than one graph a shape: recompiling costs minutes on a GPU."""
        if self.num_graphs > self.num_shapes and not self._warned:
            self._warned = True
            _log.warning(
                "%d graphs were compiled for %d shapes of latents: blocks are compiled again and again. "
                "TORCH_LOGS=recompiles says why; train.resources.compile=never trains without",
                self.num_graphs,
                self.num_shapes,
            )

    def forward_of(self, block: nn.Module) -> Callable[..., Tensor]:
        """Return the compiled forward pass of a block, or of a module like one; its `of` gives that of another."""

        def forward(
            hidden_states: Tensor,
            attention_mask: Tensor | None,
            encoder_hidden_states: Tensor,
            encoder_attention_mask: Tensor | None,
            *rest: Any,
        ) -> Tensor:
            if self._is_eager:
                masked = (hidden_states, attention_mask, encoder_hidden_states, encoder_attention_mask)
                own: Tensor = type(block).forward(block, *masked, *rest)
                return own
            if torch.is_autocast_enabled(hidden_states.device.type):
                # all blocks return fp32, but the first one gets bf16: it would have a graph of its own, and rounds what
                # its self-attention returns once more than the others do
                hidden_states = hidden_states.float()
            if torch.is_grad_enabled() and not hidden_states.requires_grad:
                # where nothing before the blocks learns, the first one would have a graph of its own
                hidden_states = hidden_states.detach().requires_grad_()
            captions, bias = _pad_to_graph(encoder_hidden_states, encoder_attention_mask)
            shape = (*hidden_states.shape, *rest[1:4], captions.shape[1])
            shape = (torch.is_grad_enabled(), block.training, *shape)
            if shape not in self._shapes:
                self._shapes.add(shape)
                self.on_new_shape()
            graphs_before = _unique_graphs()
            # the patches come transposed to the first block, which would be a graph of its own
            with self._limit, self._budget, compile_failure_explained():
                result: Tensor = self._compiled(
                    block,
                    hidden_states.contiguous(),
                    attention_mask,
                    captions,
                    bias,
                    *rest,
                )
            self.num_graphs += _unique_graphs() - graphs_before
            return result

        forward.of = self.forward_of  # type: ignore[attr-defined]
        return forward


def _nothing() -> None:
    """Tell nobody."""


def _pad_to_graph(captions: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pad captions [B, L, D] and what is added to their scores, [B, 1, L], to the next CAPTION_MULTIPLE.

    What the bias hides has no effect. None hides nothing.
    """
    batch, length, _ = captions.shape
    if bias is None:
        bias = captions.new_zeros(batch, 1, length)
    missing = -length % CAPTION_MULTIPLE
    return nn.functional.pad(captions, (0, 0, 0, missing)), nn.functional.pad(bias, (0, missing), value=_MASKED)


class BlocksNotCompiledError(ConfigError):
    """The blocks cannot be compiled, or what compiles them was killed."""


@contextmanager
def compile_failure_explained() -> Iterator[None]:
    """Turn what torch's compiler raises into a BlocksNotCompiledError: without a C++ compiler, on a GPU without Triton.

    A backward graph is compiled when it is first used: backward passes raise as well.
    """
    try:
        yield
    except torch._dynamo.exc.TorchDynamoException as error:
        why = " ".join(line.strip() for line in str(error).splitlines() if line.strip())[:200]
        raise BlocksNotCompiledError(
            f"train.resources.compile: the transformer's blocks cannot be compiled here ({why}); install a C++ "
            "compiler such as g++, or set it to never"
        ) from error


def _unique_graphs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])
