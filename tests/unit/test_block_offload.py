"""Laws of training with the blocks' weights in the host's memory: the same steps, and few blocks on the device."""

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from sana.config.training.offload import GroupOffload
from sana.model.offload.host_memory import HostMemory
from sana.model.transformer import predict
from sana.training.compute.compiled_blocks import CompiledBlocks
from sana.training.offload.block_offload import BlockOffload
from sana.training.offload.block_weights import BlockWeights

pytestmark = pytest.mark.timeout(120)

CHANNELS = 16
NUM_BLOCKS = 4


def transformer(*, width: int = 12) -> SanaVideoTransformer3DModel:
    torch.manual_seed(0)
    model = SanaVideoTransformer3DModel(
        num_attention_heads=2, attention_head_dim=width, num_layers=NUM_BLOCKS, num_cross_attention_heads=2,
        cross_attention_head_dim=width, cross_attention_dim=2 * width, caption_channels=CHANNELS,
    )  # fmt: skip
    model.enable_gradient_checkpointing()
    return model.train()


def group_offload(blocks_per_group: int, use_stream: bool) -> GroupOffload:
    return GroupOffload(type="block_level", blocks_per_group=blocks_per_group, use_stream=use_stream)


def forward(model: nn.Module, generator: torch.Generator, *, device: str = "cpu", bf16: bool = False) -> Tensor:
    """Return the mean square of what a model predicts of the next random input."""
    noisy = torch.randn(2, 16, 3, 4, 6, generator=generator).to(device)
    captions = torch.randn(2, 5, CHANNELS, generator=generator).to(device)
    sigma, mask = torch.tensor([100.0, 700.0], device=device), torch.ones(2, 5, dtype=torch.long, device=device)
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        return predict(model, noisy, sigma, captions, mask).square().mean()


def trained(offload: GroupOffload | None, *, device: str = "cpu", bf16: bool = False, micro_batches: int = 2) -> list:
    """Return losses and gradient norms of four steps, a loss without gradients, and the weights and gradients after."""
    model, generator, measured = transformer(), torch.Generator().manual_seed(1), []
    if offload is None:
        model.to(device)
    if offload is not None:
        BlockOffload(model, offload, torch.device(device))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(4):
        optimizer.zero_grad()
        for _ in range(micro_batches):
            loss = forward(model, generator, device=device, bf16=bf16)
            loss.backward()
            measured.append(loss.item())
        measured.append(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        with torch.no_grad():
            measured.append(forward(model, generator, device=device, bf16=bf16).item())
    tensors = [tensor for p in model.parameters() for tensor in (p.detach().cpu(), p.grad.cpu())]
    return [torch.tensor(measured), *tensors]


@pytest.mark.parametrize(("bf16", "groups"), [(False, [(1, True)]), (True, [(3, False)])])
def test_every_step_is_that_without_offload_bit_for_bit(bf16: bool, groups: list[tuple[int, bool]]) -> None:
    straight = trained(None, bf16=bf16)
    for blocks_per_group, use_stream in groups:
        found = trained(group_offload(blocks_per_group, use_stream), bf16=bf16)
        assert all(map(torch.equal, found, straight)), (blocks_per_group, use_stream)


@pytest.mark.slow(group="compile")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_compiled_blocks_take_the_same_steps_by_the_same_graph(backend: str) -> None:
    def steps(offload: GroupOffload | None) -> list[Tensor]:
        torch._dynamo.reset()
        model, generator = transformer(), torch.Generator().manual_seed(1)
        compiled = CompiledBlocks(model.transformer_blocks, backend=backend)
        if offload is not None:
            BlockOffload(model, offload, torch.device("cpu"))
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(3):
            losses.append(forward(model, generator))
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert compiled.num_graphs == compiled.num_shapes == 1
        return [*losses, *model.parameters()]

    straight = steps(None)
    for blocks_per_group, use_stream in [(1, True), (2, False)]:
        assert all(map(torch.equal, steps(group_offload(blocks_per_group, use_stream)), straight))


@pytest.mark.parametrize(
    ("blocks_per_group", "use_stream", "most"), [(1, False, 1), (1, True, 2), (2, False, 2), (2, True, 4)]
)
def test_few_blocks_have_weights_on_the_device_at_once(
    blocks_per_group: int, use_stream: bool, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever holds them, autograd included; and gradients are off the device before the next block computes."""
    alive: dict[StorageWeakRef, int] = {}
    seen, clones = [], BlockWeights._clones

    def counted(self: BlockWeights, block: int) -> dict[str, Tensor]:
        made = clones(self, block)
        alive.update({StorageWeakRef(tensor.untyped_storage()): block for tensor in made.values()})
        seen.append(len({number for storage, number in alive.items() if not storage.expired()}))
        return made

    monkeypatch.setattr(BlockWeights, "_clones", counted)
    model, generator = transformer(), torch.Generator().manual_seed(1)
    BlockOffload(model, group_offload(blocks_per_group, use_stream), torch.device("cpu"))
    loss = forward(model, generator)
    assert max(seen) == most and len(seen) == NUM_BLOCKS
    loss.backward()
    # the last group is still there when the backward pass begins, all others are copied again
    assert max(seen) == most and len(seen) == 2 * NUM_BLOCKS - blocks_per_group
    with torch.no_grad():
        forward(model, generator)
    assert max(seen) == most and len(seen) == 3 * NUM_BLOCKS - blocks_per_group


def test_without_recomputation_all_blocks_would_be_there() -> None:
    """Why gradient checkpointing is needed: the law above is one of recomputation, not of luck."""
    model, generator = transformer(), torch.Generator().manual_seed(1)
    model.disable_gradient_checkpointing()
    made: list[StorageWeakRef] = []
    offload = BlockOffload(model, group_offload(1, False), torch.device("cpu"))
    clones = offload._weights._clones

    def noted(block: int) -> dict[str, Tensor]:
        weights = clones(block)
        made.append(StorageWeakRef(weights["attn1.to_q.weight"].untyped_storage()))
        return weights

    offload._weights._clones = noted  # type: ignore[method-assign]
    loss = forward(model, generator)
    assert sum(not storage.expired() for storage in made) == NUM_BLOCKS
    del loss


def test_names_and_weights_stay_the_masters() -> None:
    model = transformer()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    BlockOffload(model, group_offload(2, True), torch.device("cpu"))
    assert {name: id(p) for name, p in model.named_parameters()} == {name: id(p) for name, p in parameters.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.load_state_dict({name: 0.9 * tensor for name, tensor in before.items()})
    other = transformer()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():  # the copies are of the weights as they are now
        same = [forward(each, torch.Generator().manual_seed(2)) for each in (model, other)]
    assert torch.equal(*same)


def test_pinned_memory_is_taken_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch rounds each allocation up to a power of two, so tensors share blocks of one; here the blocks are small."""
    allocated: list[int] = []

    def unpinned(self: HostMemory, num_bytes: int) -> Tensor:
        allocated.append(num_bytes)
        return torch.empty(num_bytes, dtype=torch.uint8)

    monkeypatch.setattr(HostMemory, "_allocate", unpinned)
    monkeypatch.setattr("sana.model.offload.host_memory.BLOCK_BYTES", 1024)
    memory, tensors = HostMemory(pinned=True), [torch.randn(n) for n in (3, 100, 100, 50, 0, 300)]
    tensors += [torch.randn(7, 9).bfloat16(), torch.randn(4, 6).t()]
    held = [memory.holding(tensor) for tensor in tensors]
    assert allocated == [1024, 1024, 1200]  # 12 + 400 + 400 bytes; 200; too large for any; and the rest
    assert all(map(torch.equal, held, tensors)), "none overwrote another"
    assert all(tensor.is_contiguous() and tensor.data_ptr() % 2 == 0 for tensor in held)


@pytest.mark.gpu
@pytest.mark.parametrize("use_stream", [False, True])
def test_on_a_gpu_steps_agree_and_memory_holds_few_blocks(use_stream: bool) -> None:
    straight = trained(None, device="cuda")
    found = trained(group_offload(1, use_stream), device="cuda")
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(found, straight, strict=True))
    peaks = []
    for offload in (None, group_offload(1, use_stream)):
        model = transformer(width=256)  # a block of 13 M parameters
        model.cuda() if offload is None else BlockOffload(model, offload, torch.device("cuda"))
        block = sum(p.numel() * p.element_size() for p in model.transformer_blocks[0].parameters())
        torch.cuda.reset_peak_memory_stats()
        forward(model, torch.Generator().manual_seed(1), device="cuda").backward()
        torch.cuda.synchronize()
        peaks.append(torch.cuda.max_memory_allocated() / block)
        del model
        torch.cuda.empty_cache()
    # weights and gradients of four blocks, against two of weights and two of gradients on their way
    assert peaks[1] < peaks[0] - 2
