"""Compiled blocks: as few graphs as shapes, the same numbers within a bound, and what is recorded of them."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.transformer import TransformerSizes
from sana.errors import ConfigError
from sana.facts import ComputeSettings
from sana.model.transformer import load_transformer, predict
from sana.training.compute import activations
from sana.training.compute.activations import kept_activations
from sana.training.compute.blocks import compute_settings, prepare_blocks
from sana.training.compute.compiled_blocks import (
    CAPTION_MULTIPLE,
    BlocksNotCompiledError,
    CompiledBlocks,
    compile_failure_explained,
)
from sana.training.parallel.distributed import StopFlag
from sana.workers.train import _compilers_killed_by_signal

SIDES = [(4, 10), (5, 8), (8, 5), (6, 6), (10, 4), (7, 6), (6, 7), (9, 5), (5, 9), (8, 6), (6, 8)]  # of tokens
CAPTIONS = [64, 128, 192, 256, 320]


def pass_through(graph: Any, _inputs: Any) -> Any:
    """A backend of torch.compile that compiles nothing: what it is given is what would be compiled."""
    return graph


def loss_and_gradients(
    model: Any, frames: int, height: int, width: int, num_tokens: int
) -> tuple[float, dict[str, Any]]:
    generator = torch.Generator().manual_seed(num_tokens)
    latents = torch.randn(1, 16, frames, 2 * height, 2 * width, generator=generator)
    captions = torch.randn(1, num_tokens, model.config.caption_channels, generator=generator)
    mask = torch.ones(1, num_tokens, dtype=torch.int64)
    loss = predict(model, latents, torch.tensor([500.0]), captions, mask).square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return loss.item(), gradients


def test_sampling_makes_no_graph_and_computes_what_the_plain_model_does(tiny_model: Path) -> None:
    plain, model = (load_transformer(str(tiny_model)) for _ in range(2))
    blocks = CompiledBlocks(model.transformer_blocks, backend=pass_through)
    two = (torch.randn(2, 16, 2, 8, 20), torch.tensor([9.0, 9.0]), torch.randn(2, 7, 16), torch.ones(2, 7))
    with torch.no_grad():
        with blocks.eager():
            sampled = predict(model, *two)
        assert (blocks.num_graphs, blocks.num_shapes) == (0, 0)
        assert torch.equal(sampled, predict(plain, *two))
        predict(model, *two)
        assert blocks.num_graphs == 1, "compiled again afterwards"


@pytest.mark.parametrize("num_buckets", [2, pytest.param(len(SIDES), marks=pytest.mark.slow(group="compile"))])
def test_one_graph_a_bucket_whatever_the_caption(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, num_buckets: int
) -> None:
    model = load_transformer(str(tiny_model)).train()
    blocks = CompiledBlocks(model.transformer_blocks, kept=0.5, backend=pass_through)
    # what others compile in stays theirs: as many graphs as they allow, one here, and their memory budget
    others = (1, torch._functorch.config.activation_memory_budget)
    with torch._dynamo.config.patch(recompile_limit=1):
        for count, (height, width) in enumerate(SIDES[:num_buckets], start=1):
            for num_tokens in CAPTIONS:
                loss_and_gradients(model, 2, height, width, num_tokens)
                assert (blocks.num_graphs, blocks.num_shapes) == (count, count), num_tokens
        model.eval()
        with torch.no_grad():  # evaluation has graphs of its own, one a bucket
            for num_tokens in CAPTIONS:
                predict(model, torch.zeros(1, 16, 2, 8, 20), torch.tensor([1.0]), torch.zeros(1, num_tokens, 16), None)
        assert blocks.num_graphs == blocks.num_shapes == num_buckets + 1
        assert (torch._dynamo.config.recompile_limit, torch._functorch.config.activation_memory_budget) == others
    torch.compile(lambda number: number + 1, backend=pass_through)(torch.zeros(2))  # as adamw_8bit does, of its steps
    assert blocks.num_graphs == num_buckets + 1
    blocks.check()
    assert not warnings(caplog)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), caplog.at_level(logging.WARNING):
        predict(model, torch.zeros(1, 16, 2, 8, 20), torch.tensor([1.0]), torch.zeros(1, 64, 16), None)
        blocks.check()
        blocks.check()
    [warning] = warnings(caplog)
    assert blocks.num_graphs > num_buckets + 1  # another precision at the same shape
    assert f"{blocks.num_graphs} graphs were compiled for {num_buckets + 1} shapes" in warning


@pytest.mark.parametrize(("weights", "autocast"), [(torch.float32, True), (torch.bfloat16, False)])
def test_all_blocks_have_one_graph_in_bf16_too(weights: torch.dtype, autocast: bool, tiny_model: Path) -> None:
    """Under autocast the first block would get another dtype than the others, which rounds once more within it."""
    plain, wrapped = (load_transformer(str(tiny_model), dtype=weights).train() for _ in range(2))
    blocks = CompiledBlocks(wrapped.transformer_blocks, backend=pass_through)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        untouched, _ = loss_and_gradients(plain, 2, 4, 6, CAPTION_MULTIPLE)
        stream = torch.float32 if autocast else weights
        plain.transformer_blocks[0].register_forward_pre_hook(
            lambda _, args: (args[0].to(stream).contiguous(), *args[1:])
        )
        loss, gradients = loss_and_gradients(plain, 2, 4, 6, CAPTION_MULTIPLE)
        found, again = loss_and_gradients(wrapped, 2, 4, 6, CAPTION_MULTIPLE)
    assert blocks.num_graphs == blocks.num_shapes == 1
    assert loss == pytest.approx(untouched, rel=1e-3)
    assert found == loss
    for name, gradient in gradients.items():  # in bf16 those of all blocks are added up in another order
        size = gradient.abs().max().item()
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=0.0 if autocast else 0.02 * size)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_wrapped_blocks_compute_what_blocks_do_and_keep_their_names(tiny_model: Path) -> None:
    plain, wrapped = (load_transformer(str(tiny_model)).train() for _ in range(2))
    CompiledBlocks(wrapped.transformer_blocks, backend="eager")
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    for num_tokens in (1, 9, CAPTION_MULTIPLE, 400):  # padded: what is hidden has no effect
        loss, gradients = loss_and_gradients(plain, 2, 4, 6, num_tokens)
        found, again = loss_and_gradients(wrapped, 2, 4, 6, num_tokens)
        assert found == pytest.approx(loss, rel=1e-6)
        for name, gradient in gradients.items():
            torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-6)


def test_blocks_that_cannot_be_compiled_are_an_error_that_names_the_setting(tiny_model: Path) -> None:
    def fails(graph: Any, _inputs: Any) -> Any:
        raise RuntimeError("no compiler")

    model = load_transformer(str(tiny_model))
    CompiledBlocks(model.transformer_blocks, backend=fails)
    with pytest.raises(ConfigError, match=r"train\.resources\.compile: .*no compiler.* set it to never"):
        predict(model, torch.zeros(1, 16, 2, 8, 20), torch.tensor([1.0]), torch.zeros(1, 9, 16), None)


def test_a_backward_graph_that_cannot_be_compiled_is_the_same_error() -> None:
    def fails(_graph: Any, _inputs: Any) -> Any:
        raise torch._inductor.exc.InductorError(RuntimeError("no compiler"), None)  # type: ignore[no-untyped-call]

    backend = aot_autograd(fw_compiler=pass_through, bw_compiler=fails)
    with pytest.raises(BlocksNotCompiledError, match=r"no compiler.* set it to never"), compile_failure_explained():
        torch.compile(torch.sin, backend=backend)(torch.ones(2, requires_grad=True)).sum().backward()


@pytest.mark.parametrize(("exit_code", "ends"), [(0, BlocksNotCompiledError), (75, SystemExit), (143, SystemExit)])
def test_a_signal_that_kills_the_compilers_ends_the_run_as_it_asks(exit_code: int, ends: type[BaseException]) -> None:
    stop = StopFlag(num_ranks=1)
    stop.request(exit_code)
    with pytest.raises(ends) as caught, _compilers_killed_by_signal(stop):
        raise BlocksNotCompiledError("g++ was killed")
    assert getattr(caught.value, "code", 0) == exit_code


def config(precision: str = "bf16", **resources: Any) -> TrainConfig:
    settings = {"max_steps": 1, "global_batch_size": 1, "mixed_precision": precision, "resources": resources}
    return TrainConfig.model_validate(settings)


SIZES = TransformerSizes(20, 20, 112, 20, 112, 2240, 2304, 3.0)
GIB = 2**30


@pytest.mark.parametrize(
    ("setting", "compiling", "gib", "kept"),
    [
        ("recompute_all", "always", 10_000, 0.0),
        (0.35, "always", 1, 0.35),
        (1.0, "never", 1, 1.0),
        ("auto", "always", 10_000, 1.0),
        ("auto", "always", 80, 0.3),  # EMA included
        ("auto", "always", 139 * 0.92, 0.8),
        ("auto", "always", 50, 0.0),
        ("auto", "never", 10_000, 1.0),
        ("auto", "never", 139, 0.0),
    ],
)
def test_auto_keeps_as_much_as_fits(
    setting: Any, compiling: str, gib: float, kept: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(activations, "available_bytes", lambda device: gib * GIB)
    buckets = [Bucket(81, 480, 832), Bucket(17, 480, 832)]
    device = torch.device("cuda")
    settings = config(activation_memory=setting, compile=compiling)
    found = kept_activations(
        settings, SIZES, buckets, caption_tokens=300, device=device, num_ranks=1, work_dir=tmp_path
    )
    assert found == pytest.approx(kept)


def test_weights_that_are_on_the_card_already_are_no_less_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (70 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 8 * GIB)
    assert activations.available_bytes(torch.device("cuda")) == pytest.approx(0.92 * 78 * GIB)


def test_a_share_needs_compiled_blocks(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="activation_memory 0.5 needs compiled blocks, and compile is never"):
        config(activation_memory=0.5, compile="never")
    from sana.training.parallel.parallel import Parallel

    settings = config("fp32", activation_memory=0.5, device="cpu")
    model = load_transformer(str(tiny_model))
    with pytest.raises(ConfigError, match="compile: auto compiles none on a cpu; set train.resources.compile=always"):
        prepare_blocks(model, settings, Parallel.open(settings), buckets=["17x64x96"], work_dir=tmp_path)


def test_differences_are_those_that_change_bits() -> None:
    before = ComputeSettings("cpu", "2.13", compiled=False, activations_kept=0.0, micro_batch_size=1, num_ranks=1)
    after = ComputeSettings("cpu", "2.13", compiled=False, activations_kept=1.0, micro_batch_size=1, num_ranks=2)
    assert after.differences(before) == ["num_ranks 1 -> 2"]
    compiled = [
        ComputeSettings("cpu", "2.13", compiled=True, activations_kept=kept, micro_batch_size=1, num_ranks=1)
        for kept in (0.2, 0.4)
    ]
    assert compiled[0].differences(compiled[1]) == ["activations_kept 0.4 -> 0.2"]
    assert compiled[0].differences(before) == ["compiled False -> True"]
    strict, tf32 = replace(before, precision="fp32"), replace(before, precision="tf32")
    assert tf32.differences(strict) == ["precision fp32 -> tf32"]
    assert tf32.differences(before) == []  # of an older checkpoint it is not known


@pytest.mark.parametrize(
    ("precision", "weights", "device", "recorded"),
    [
        ("fp32", "fp32", "cuda", "fp32"),
        ("tf32", "fp32", "cuda", "tf32"),
        ("tf32", "fp32", "cpu", "fp32"),
        ("bf16", "fp32", "cpu", "bf16 autocast"),
        ("bf16", "bf16", "cuda", "bf16"),
    ],
)
def test_the_precision_of_this_device_is_recorded(
    precision: str, weights: str, device: str, recorded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card")
    settings = {"mixed_precision": precision, "weights_dtype": weights, "optimizer": {"name": "adamw_bf16"}}
    settings["resources"] = {"sharding": "full"}
    train = TrainConfig.model_validate({"max_steps": 1, "global_batch_size": 4, **settings})
    ranks: Any = SimpleNamespace(device=torch.device(device), num_ranks=2)
    found = compute_settings(train, ranks, compiled=False, kept=1.0)
    assert (found.precision, found.sharding, found.num_ranks) == (recorded, "full", 2)


def test_a_containers_limit_and_ranks_of_a_cpu_share_its_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket, cpu = [Bucket(17, 480, 832)], torch.device("cpu")
    settings = config(activation_memory="auto")

    def kept(gib: float, num_ranks: int) -> float:
        monkeypatch.setattr(activations, "host_memory", lambda: int(gib * GIB))
        return kept_activations(
            settings, SIZES, bucket, caption_tokens=300, device=cpu, num_ranks=num_ranks, work_dir=tmp_path
        )

    assert [kept(400, 1), kept(400, 4), kept(20, 1)] == [1.0, 0.0, 0.0]
