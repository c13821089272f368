"""A forward pass of fixed shapes as one CUDA graph: the same kernels, hence the same bits, in one launch.

A small model on a fast GPU waits for the host, which launches its thousand kernels one by one. More inputs in a forward
pass would hide that, but change last bits.
"""

import logging
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

Forward = Callable[..., Tensor]
Capture = Callable[[Forward, tuple[Tensor, ...]], Forward]
_MAX_GRAPHS = 16  # shapes; each graph keeps the memory of its activations
_log = logging.getLogger(__name__)


class Replayed:
    """Calls `forward`, on a GPU as a captured graph from the second call of a shape on.

    A graph is used only if it gives what `forward` gives, bit for bit, on the inputs that it was captured with.
    What is returned is overwritten by the next call.
    """

    def __init__(self, forward: Forward, *, capture: Capture | None = None) -> None:
        self._forward, self._capture = forward, capture or _capture
        self._num_calls: Counter[tuple[object, ...]] = Counter()
        self._graphs: dict[tuple[object, ...], Forward] = {}

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return `forward(*inputs)`; all inputs are on one device."""
        if inputs[0].device.type != "cuda" and self._capture is _capture:
            return self._forward(*inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in inputs)
        self._num_calls[key] += 1
        if self._num_calls[key] == 2 and len(self._graphs) < _MAX_GRAPHS:
            self._graphs[key] = self._checked(inputs)
        return self._graphs.get(key, self._forward)(*inputs)

    def _checked(self, inputs: tuple[Tensor, ...]) -> Forward:
        """Return a graph for inputs of these shapes, or the forward itself where there is none that is equal."""
        expected = self._forward(*inputs).clone()
        try:
            replay = self._capture(self._forward, inputs)
            if torch.equal(replay(*inputs), expected):
                return replay
            why = "a CUDA graph of it gives other bits"
        except RuntimeError as error:  # torch's for whatever cannot be captured, memory included
            why = f"it cannot be a CUDA graph: {str(error).splitlines()[0]}"
        _log.warning("the model's kernels are launched one by one, which is slower: %s", why)
        return self._forward


def _capture(forward: Forward, inputs: tuple[Tensor, ...]) -> Forward:
    held = tuple(tensor.clone() for tensor in inputs)
    with torch.cuda.device(held[0].device):
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(current)
        with torch.cuda.stream(side):
            forward(*held)  # what is made once, on first use, is no part of the graph
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = forward(*held)

    def replay(*inputs: Tensor) -> Tensor:
        for to, tensor in zip(held, inputs, strict=True):
            to.copy_(tensor)
        graph.replay()
        return result

    return replay
