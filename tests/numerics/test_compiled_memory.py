"""What compiled blocks keep for their backward pass: less memory by share, the same losses, and as much as fits."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu.sizes import PUBLISHED, TINY, Sizes
from sana import metrics as m
from sana.training.compute.activations import available_bytes
from sana.training.peak_memory import PeakMemory
from sana.training.synthetic import SyntheticTraining
from tests.devices import CPU_BACKEND, compiled_by, fresh_accelerator, take_compiled_steps
from tests.forked import start

pytestmark = pytest.mark.timeout(600)

SHARES: tuple[float | str, ...] = ("recompute_all", 0.2, 0.5, 1.0)
# relative, of losses over three steps; autocast rounds to bf16, and what is fused with it rounds at other places
TOLERANCES = {"fp32": 1e-5, "bf16": 2e-2}
ON = pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(TINY, id="cpu", marks=pytest.mark.slow(group="activations")),
        pytest.param(PUBLISHED, id="cuda", marks=pytest.mark.gpu),
    ],
)


@pytest.fixture(autouse=True)
def compiling(sizes: Sizes) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(fresh_accelerator())
        if sizes.device == "cpu":
            stack.enter_context(compiled_by(CPU_BACKEND))
        yield


def train(sizes: Sizes, work_dir: Path, *, num_layers: int | None = None, **resources: Any) -> tuple[list[float], int]:
    """Take three steps; returns their losses, and the most bytes that a GPU held, or that were saved on a CPU."""
    torch._dynamo.reset()  # else a graph of another share is taken, for it has the same code
    config = sizes.train_config({"compile": "always", **resources})
    peak = PeakMemory(torch.device(sizes.device))
    training = SyntheticTraining(
        config, sizes.transformer, work_dir=work_dir, bucket=sizes.bucket, num_layers=num_layers
    )
    batches = training.batches(sizes.bucket, sizes.caption_tokens)
    losses = [training.take(batches).scalars[m.TRAIN_LOSS].value.item() for _ in range(2)]
    saved: dict[int, int] = {}  # bytes by storage

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        losses.append(training.take(batches).scalars[m.TRAIN_LOSS].value.item())
    return losses, peak.read() if sizes.device == "cuda" else sum(saved.values())


@ON
def test_a_smaller_share_needs_less_memory_and_gives_the_same_losses(sizes: Sizes, tmp_path: Path) -> None:
    found = {share: train(sizes, tmp_path, num_layers=2, activation_memory=share) for share in SHARES}
    print({share: f"{num_bytes / 2**20:.2f} MiB" for share, (_, num_bytes) in found.items()})
    held = [num_bytes for _, num_bytes in found.values()]
    assert held == sorted(held) and held[0] < held[1] < held[-1]
    for losses, _ in found.values():
        assert losses == pytest.approx(found[1.0][0], rel=TOLERANCES[sizes.precision])


@ON
def test_auto_fits_and_uses_what_there_is(sizes: Sizes, tmp_path: Path) -> None:
    available = available_bytes(torch.device(sizes.device))
    config = sizes.train_config({"compile": "always", "activation_memory": "auto"})
    peak = PeakMemory(torch.device(sizes.device))
    training = SyntheticTraining(config, sizes.transformer, work_dir=tmp_path, bucket=sizes.bucket)
    batches = training.batches(sizes.bucket, sizes.caption_tokens)
    for _ in range(3):  # would run out of memory
        training.take(batches)
    kept = training.blocks.settings.activations_kept
    print(f"auto keeps {kept:g}: {peak.read() / 2**30:.2f} of {available / 2**30:.2f} GiB")
    assert kept == 1.0 or peak.read() > 0.7 * available


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(TINY, id="cpu", marks=pytest.mark.slow(group="compile_ranks")),
        pytest.param(PUBLISHED, id="cuda", marks=pytest.mark.gpu),
    ],
)
def test_a_cold_cache_and_a_warm_one_give_the_same_bits(sizes: Sizes, tmp_path: Path) -> None:
    """Each in a process of its own: kernels that were compiled there, and those that are read back."""
    found = []
    for name in ("cold", "warm"):
        process = start(take_compiled_steps, sizes.name, tmp_path / "compiled", tmp_path / name)
        process.join(400)
        process.kill()
        found.append((tmp_path / name).read_text().splitlines())
    assert len(found[0]) == 5
    assert found[0] == found[1]
