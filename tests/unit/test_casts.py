"""How often a step casts its fp32 weights to bf16: counted, and told in docs/memory-and-speed.md."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.estimates import TINY
from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.model.random_weights import random_transformer
from sana.model.transformer import predict
from sana.training.compute.compiled_blocks import CompiledBlocks
from sana.training.synthetic import SyntheticTraining

pytestmark = pytest.mark.timeout(60)

BUCKET, CAPTION_TOKENS, LAYERS = Bucket(5, 64, 64), 8, 2
CASTS = (torch.ops.aten._to_copy.default, torch.ops.prims.convert_element_type.default)


@pytest.fixture(autouse=True)
def own_precision() -> Iterator[None]:
    """accelerate has one precision a process."""
    AcceleratorState._reset_state()
    yield
    AcceleratorState._reset_state()


class CountCasts(TorchDispatchMode):
    """Counts the casts of parameters to bf16, by name."""

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._names = {parameter.data_ptr(): name for name, parameter in parameters.items()}
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in CASTS and kwargs.get("dtype") is torch.bfloat16 and args[0].data_ptr() in self._names:
            self.counts[self._names[args[0].data_ptr()]] += 1
        return func(*args, **kwargs)


def training(batch: int, kept: Any) -> SyntheticTraining:
    resources = {"device": "cpu", "activation_memory": kept}
    settings = {"max_steps": 9, "global_batch_size": batch, "mixed_precision": "bf16", "resources": resources}
    sizes = {**TINY, "num_layers": LAYERS}
    return SyntheticTraining(TrainConfig.model_validate(settings), sizes, work_dir=Path(), bucket=BUCKET)


def matrices(names: Mapping[str, Any]) -> list[str]:
    return [name for name in names if name.startswith("transformer_blocks.") and name.endswith("to_q.weight")]


@pytest.mark.parametrize(
    ("micro_batches", "kept", "times"),
    [
        (1, 1.0, 1),  # autocast keeps a weight's copy for a forward pass, which is a step
        (3, 1.0, 1),
        (1, "recompute_all", 2),  # a block that is computed again casts again: the copies of all would need memory
        (3, "recompute_all", 6),
    ],
)
def test_a_weight_is_cast_once_a_step_where_its_copy_is_kept_anyway(micro_batches: int, kept: Any, times: int) -> None:
    run = training(micro_batches, kept)
    batches = run.batches(BUCKET, CAPTION_TOKENS)
    with CountCasts(run.state.parameters) as casts:
        run.take(batches)
    assert len(matrices(casts.counts)) == 2 * LAYERS
    assert {casts.counts[name] for name in matrices(casts.counts)} == {times}
    assert max(casts.counts.values()) == times
    with CountCasts(run.state.parameters) as again:  # weights have changed: the copies were not kept any longer
        run.take(batches)
    assert again.counts == casts.counts


def test_copies_that_are_used_again_change_no_bit() -> None:
    kept, recast = (training(3, 1.0) for _ in range(2))
    recast._step._keeps_casts = False
    for _ in range(2):
        for run in (kept, recast):
            run.take(run.batches(BUCKET, CAPTION_TOKENS))
    for part, tensors in kept.state.parts().items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, recast.state.parts()[part][name]), name


@pytest.mark.slow(group="compile")
@pytest.mark.parametrize(("kept", "in_backward"), [(0.3, True), (1.0, False)])
def test_a_compiled_block_casts_a_weight_once_a_pass(kept: float, in_backward: bool) -> None:
    """In its graph; where not all is kept, torch counts a copy among what it computes again in the backward pass."""
    counts: dict[str, list[int]] = {"forward": [], "backward": []}

    def counted(which: str) -> Any:
        def compiler(graph: GraphModule, _inputs: Any) -> Any:
            casts = [node.args[0] for node in graph.graph.nodes if node.target in CASTS]
            weights = [node for node in casts if node.op == "placeholder" and node.meta["val"].ndim == 2]
            assert len(set(weights)) == len(weights), "a weight is cast twice"
            counts[which].append(len(weights))
            return make_boxed_func(graph)

        return compiler

    torch._dynamo.reset()
    model = random_transformer({**TINY, "num_layers": LAYERS}, device=torch.device("cpu")).train()
    backend = aot_autograd(
        fw_compiler=counted("forward"),
        bw_compiler=counted("backward"),
        partition_fn=min_cut_rematerialization_partition,
    )
    CompiledBlocks(model.transformer_blocks, kept=kept, backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        captions, mask = torch.randn(1, CAPTION_TOKENS, 16), torch.ones(1, CAPTION_TOKENS, dtype=torch.int64)
        velocity = predict(model, torch.randn(1, *BUCKET.latent_shape), torch.tensor([500.0]), captions, mask)
    velocity.square().mean().backward()
    assert len(counts["forward"]) == len(counts["backward"]) == 1, "one graph for all blocks"
    assert counts["forward"][0] >= 8
    assert (counts["backward"][0] >= 8) == in_backward
