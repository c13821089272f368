"""Memory by counting: against what torch saves and holds, and against peaks that were measured."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from transformers import Gemma2Config, Gemma2Model

from benchmarks import cards, estimates
from sana.bucket import Bucket
from sana.config.training.offload import GroupOffload
from sana.config.training.train import TrainConfig
from sana.costs.learned import learned_part, training_passes
from sana.costs.memory import (
    GIB,
    Precision,
    TrainingMemory,
    TrainingSetting,
    block_activation_bytes,
    block_modulation_bytes,
    training_memory,
)
from sana.costs.offload import text_encoder_parameters_on_device, transformer_parameters_on_device
from sana.costs.text import TextSizes
from sana.costs.training import estimate_training, optimizer_bytes
from sana.costs.transformer import TransformerSizes
from sana.model.adapters.keyed_dropout import KeyedDropout
from sana.model.random_weights import random_transformer
from sana.model.transformer import DTYPES
from sana.training.optimizers.registry import OPTIMIZERS, build_optimizer
from sana.training.trainables.registry import build_trainable
from tests.published import TEXT_ENCODER, TRANSFORMER

FULL, SMALL_BUCKET = Bucket(81, 480, 832), Bucket(9, 128, 160)
SMALL = {
    **TRANSFORMER, "num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 24, "num_cross_attention_heads": 4,
    "cross_attention_head_dim": 24, "cross_attention_dim": 96, "caption_channels": 40,
}  # fmt: skip


@pytest.mark.parametrize(("precision", "gib"), [("bf16", 8.98), ("fp32", 14.2)])
def test_one_published_block_saves_what_was_measured(precision: Precision, gib: float) -> None:
    """On the meta device, where attention keeps its probabilities."""
    sizes = TransformerSizes.of(TRANSFORMER)
    saved = block_activation_bytes(sizes, sizes.num_tokens(FULL), precision=precision, attention="math")
    assert saved / GIB == pytest.approx(gib, rel=0.02)


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "autocast"])
def test_a_block_saves_what_autograd_keeps(precision: Precision, by_token: bool) -> None:
    sizes, cpu = TransformerSizes.of(SMALL), torch.device("cpu")
    model = random_transformer(SMALL, device=cpu)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    model.to(dtype)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # by address: held, so that none is used twice
    within = False
    _, frames, height, width = SMALL_BUCKET.latent_shape
    tokens = (frames, height // 2, width // 2)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if within and tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def enter(*_: Any) -> None:
        nonlocal within
        within = True

    def leave(*_: Any) -> None:
        nonlocal within
        within = False

    model.transformer_blocks[1].register_forward_pre_hook(enter)
    model.transformer_blocks[1].register_forward_hook(leave)
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(
            torch.randn(2, *SMALL_BUCKET.latent_shape).to(dtype),
            torch.randn(2, 9, 40).to(dtype),
            torch.full((2, 1, *tokens) if by_token else (2,), 500.0),
            encoder_attention_mask=torch.ones(2, 9, dtype=torch.int64),
        )
    counted = block_activation_bytes(
        sizes, 2 * sizes.num_tokens(SMALL_BUCKET), precision=precision, caption_tokens=2 * 9, batch=2
    )
    if by_token:
        counted += block_modulation_bytes(sizes, 2 * sizes.num_tokens(SMALL_BUCKET), precision=precision)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    # the rotary tables are those of all blocks and samples
    kept -= 2 * sizes.num_tokens(SMALL_BUCKET) * sizes.attention_head_dim * (2 if precision == "bf16" else 4)
    assert counted == pytest.approx(kept, rel=0.02)


def test_conditions_need_the_memory_of_a_timestep_by_token() -> None:
    """At 81x480x832 0.82 GiB in bf16 for what modulates the blocks, as much for its gradient; and a block's own."""
    sizes, tokens = TransformerSizes.of(TRANSFORMER), TransformerSizes.of(TRANSFORMER).num_tokens(FULL)
    assert 6 * sizes.width * 2 * tokens / GIB == pytest.approx(0.82, abs=0.005)
    conditions = [{"name": "image_to_video", "probability": 0.5}]
    for changed, most in (({}, 7.0), ({"weights_dtype": "bf16", "optimizer": {"name": "adamw_bf16"}}, 4.5)):
        configs = [
            TrainConfig.model_validate({"max_steps": 1, "global_batch_size": 1, "conditions": of, **changed})
            for of in ([], conditions)
        ]
        peaks = [estimate_training(one, sizes, FULL, caption_tokens=300, on_gpu=True).peak / GIB for one in configs]
        assert 2 * 0.82 < peaks[1] - peaks[0] < most


@pytest.mark.parametrize(
    ("name", "dtype", "more"),
    [
        *((name, "fp32", {}) for name in OPTIMIZERS),
        ("adamw_bf16", "bf16", {}),
        ("optimi_adamw", "bf16", {}),
        ("adafactor", "fp32", {"kernels": "matrix"}),
    ],
)
def test_optimizer_has_the_state_that_is_counted(name: str, dtype: str, more: dict[str, Any]) -> None:
    if name in ("optimi_adamw", "prodigy", "came"):
        pytest.importorskip({"optimi_adamw": "optimi"}.get(name, "pytorch_optimizer"))
    settings = {"max_steps": 1, "global_batch_size": 1, "optimizer": {"name": name, **more}, "weights_dtype": dtype}
    config = TrainConfig.model_validate(settings)
    wide = {**SMALL, "num_attention_heads": 8, "num_cross_attention_heads": 8, "cross_attention_dim": 192}
    model = random_transformer(wide, device=torch.device("cpu"), dtype=DTYPES[dtype])
    state = build_optimizer(config, dict(model.named_parameters())).state()
    counted, held = optimizer_bytes(config, TransformerSizes.of(wide)), 0
    for key, tensor in state.items():  # what is outside of the blocks is small in a model of real size
        if "transformer_blocks" in key or name not in ("adafactor", "came"):
            held += tensor.nbytes if "qmap" not in key else 0
    # of few layers: CAME has a first moment of all parameters, and 8 bits are not for small tensors
    assert counted == pytest.approx(held, rel={"came": 0.25, "adamw_8bit": 0.1}.get(name, 0.05))


@pytest.mark.parametrize(
    ("setting", "gib"),
    [
        ({}, 40.8),
        ({"precision": "bf16"}, 24.1),
        ({"compiled": True}, 37.4),
        ({"precision": "bf16", "compiled": True}, 22.1),
        ({"compiled": True, "kept": 0.2}, 53.7),
        ({"compiled": True, "kept": 0.4}, 73.8),
        ({"compiled": True, "kept": 0.6}, 89.1),
        ({"compiled": True, "micro_batch_size": 2}, 47.1),
    ],
)
def test_published_model_needs_what_an_h200_measured(setting: dict[str, Any], gib: float) -> None:
    sizes = TransformerSizes.of(TRANSFORMER)
    moments = (4 if setting.get("precision") == "bf16" else 8) * sizes.num_parameters
    defaults = {"precision": "autocast", "micro_batch_size": 1, "kept": 0.0, "accumulates": False, "has_ema": False}
    counted = training_memory(
        sizes, FULL, TrainingSetting(**{**defaults, **setting}, optimizer_bytes=moments, caption_tokens=300)
    )
    assert counted.peak / GIB == pytest.approx(gib, rel=0.1)


@pytest.mark.parametrize(("bucket", "saved"), [(SMALL_BUCKET, 0.9), (FULL, 0.2)])
def test_freed_gradients_save_the_smaller_of_gradients_and_activations(bucket: Bucket, saved: float) -> None:
    """At the fullest moment after it all activations are there, and a block's gradients: it saves what is beyond."""
    sizes, train = TransformerSizes.of(TRANSFORMER), {"max_steps": 1, "global_batch_size": 1}
    plain, fused = (
        estimate_training(
            TrainConfig.model_validate(train | {"gradient_clipping": "none", "resources": {"fused_backward": frees}}),
            sizes, bucket, caption_tokens=300, on_gpu=True,
        )
        for frees in (False, True)
    )  # fmt: skip
    assert plain.state == fused.state and fused.gradients == 4 * sizes.block_parameters
    assert saved < (plain.peak - fused.peak) / (4 * sizes.num_parameters) < 1


def test_more_kept_larger_batches_and_accumulation_need_more() -> None:
    sizes = TransformerSizes.of(TRANSFORMER)

    def peak(**changed: Any) -> int:
        config = {"max_steps": 1, "global_batch_size": changed.pop("batch", 1), "resources": changed}
        return estimate_training(TrainConfig.model_validate(config), sizes, FULL, caption_tokens=300, on_gpu=True).peak

    assert peak(activation_memory=1.0) > 3 * peak()
    assert peak(batch=2, micro_batch_size=2) > peak(batch=2) > peak()
    assert peak() - peak(ema_device="cpu") == 4 * sizes.num_parameters
    whole, parts = (peak(batch=8, num_processes=8, sharding=kind) for kind in ("none", "full"))
    assert 16 * 7 / 8 * sizes.num_parameters < whole - parts < 20 * 7 / 8 * sizes.num_parameters


def test_offload_moves_what_it_says_from_the_device_to_the_host() -> None:
    sizes = TransformerSizes.of(TRANSFORMER)
    block, blocks = sizes.block_parameters, sizes.num_layers * sizes.block_parameters

    def counted(on_gpu: bool = True, **resources: Any) -> TrainingMemory:
        given = {"compile": "never", "activation_memory": "recompute_all", **resources}
        config = TrainConfig.model_validate({"max_steps": 1, "global_batch_size": 1, "resources": given})
        return estimate_training(config, sizes, FULL, caption_tokens=300, on_gpu=on_gpu)

    def offloaded(blocks_per_group: int, use_stream: bool, on_gpu: bool = True) -> TrainingMemory:
        way = {"type": "block_level", "blocks_per_group": blocks_per_group, "use_stream": use_stream}
        return counted(on_gpu, offload=way)

    plain, one = counted(), offloaded(1, use_stream=False)
    assert plain.state - one.state == 12 * blocks + 4 * sizes.num_parameters  # weights, moments; EMA of all
    assert one.host == 16 * blocks + 4 * sizes.num_parameters  # and gradients
    for blocks_per_group, use_stream, held in [(1, True, 2), (3, False, 3), (3, True, 6), (20, True, 20)]:
        more = offloaded(blocks_per_group, use_stream)
        assert more.peak - one.peak == 4 * (held - 1) * block and more.host == one.host
    # where a CPU trains it is one memory, and the copies come on top
    assert offloaded(1, False, on_gpu=False).peak - counted(on_gpu=False).peak == 4 * block


@pytest.mark.parametrize("use_stream", [False, True])
def test_a_model_that_only_computes_has_its_groups_on_the_device(use_stream: bool) -> None:
    """Counted against the modules of both models: blocks with all that is in none, or the largest layer."""
    sizes, text_sizes, groups = TransformerSizes.of(TRANSFORMER), TextSizes.of(TEXT_ENCODER), 2 if use_stream else 1
    with torch.device("meta"):
        transformer, text = SanaVideoTransformer3DModel(**TRANSFORMER), Gemma2Model(Gemma2Config(**TEXT_ENCODER))
    counts: list[tuple[torch.nn.Module, torch.nn.ModuleList, Callable[[GroupOffload], int]]] = [
        (transformer, transformer.transformer_blocks, partial(transformer_parameters_on_device, sizes)),
        (text, text.layers, partial(text_encoder_parameters_on_device, text_sizes)),
    ]
    for model, blocks, counted in counts:
        block, total = (sum(p.numel() for p in module.parameters()) for module in (blocks[0], model))
        layers = [sum(p.numel() for p in module.parameters()) for module in model.modules() if not [*module.children()]]
        assert counted(GroupOffload()) == total
        by_block = counted(GroupOffload(type="block_level", use_stream=use_stream))
        assert by_block == pytest.approx(total - (len(blocks) - groups) * block, rel=1e-4)
        by_layer = counted(GroupOffload(type="leaf_level", use_stream=use_stream))
        assert by_layer == pytest.approx(groups * max(layers), rel=1e-3)


def test_the_table_of_cards_in_the_docs_is_what_is_counted() -> None:
    text = (Path(__file__).parents[2] / "docs/memory-and-speed.md").read_text()
    assert "\n".join(cards.rows()) in text, "python -m benchmarks.cards prints another table"


@pytest.mark.slow(group="memory")
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("name", "device"),
    [
        ("fp32, all kept", "cpu"),  # three of those that `python -m benchmarks.estimates` shows
        (estimates.FUSED, "cpu"),
        (estimates.OFFLOADED, "cpu"),
        *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in estimates.SETTINGS),
    ],
)
def test_a_process_needs_what_was_estimated(name: str, device: str) -> None:
    assert estimates.estimated(name, device) == pytest.approx(estimates.measured(name, device), rel=0.1)


ADAPTERS: dict[str, dict[str, Any]] = {
    "self_attention": {"targets": ["self_attention"]},
    "all": {"targets": ["self_attention", "cross_attention", "feed_forward"]},
    "dora": {"use_dora": True},
    "all, dora": {"use_dora": True, "targets": ["self_attention", "cross_attention", "feed_forward"]},
    "dropout": {"dropout": 0.1},
    "all, dropout": {"dropout": 0.1, "targets": ["self_attention", "cross_attention", "feed_forward"]},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_block_beside_adapters_saves_what_is_counted(name: str, precision: str) -> None:
    method = {"name": "lora", "rank": 4, **ADAPTERS[name]}
    config = TrainConfig.model_validate(
        {"max_steps": 1, "global_batch_size": 1, "mixed_precision": precision, "method": method}
    )
    model = build_trainable(random_transformer(SMALL, device=torch.device("cpu")), config).model.train()
    for module in model.modules():
        if isinstance(module, KeyedDropout):
            module.set_keys(torch.zeros(1, 2, dtype=torch.int64))
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}
    within: list[bool] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if within and tensor.untyped_storage().data_ptr() not in weights:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    block: Any = model.transformer_blocks[1]  # type: ignore[index]
    block.register_forward_pre_hook(lambda *_: within.append(True))
    block.register_forward_hook(lambda *_: within.clear())
    autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model(
            torch.randn(1, *SMALL_BUCKET.latent_shape),
            torch.randn(1, 9, 40),
            torch.full((1,), 500.0),
            encoder_attention_mask=torch.ones(1, 9, dtype=torch.int64),
        )
    kept = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    sizes = TransformerSizes.of(SMALL)
    num_tokens, learned = sizes.num_tokens(SMALL_BUCKET), learned_part(config, sizes)
    assert learned is not None
    counted = block_activation_bytes(
        sizes, num_tokens, precision="autocast" if precision == "bf16" else "fp32", caption_tokens=9
    )
    counted += num_tokens * learned.added_per_token - (2 * sizes.block_parameters if precision == "bf16" else 0)
    print(f"{name}, {precision}: {kept / counted:.3f} of what is counted")
    assert 0.88 < kept / counted < 1.08


@pytest.mark.parametrize("base_weights", ["plain", "int8", "fp8_cast"])
@pytest.mark.parametrize("mixed_precision", ["bf16", "fp32"])
def test_an_adapter_and_its_base_have_the_bytes_that_are_counted(base_weights: str, mixed_precision: str) -> None:
    config = TrainConfig.model_validate(
        {
            "max_steps": 1, "global_batch_size": 1, "mixed_precision": mixed_precision, "base_weights": base_weights,
            "method": {"name": "lora", "rank": 4, "targets": ["cross_attention", "feed_forward"], "use_dora": True},
        }
    )  # fmt: skip
    trainable = build_trainable(random_transformer(SMALL, device=torch.device("cpu")), config)
    learned = learned_part(config, TransformerSizes.of(SMALL))
    assert learned is not None
    assert {name: tuple(p.shape) for name, p in trainable.parameters.items()} == dict(learned.shapes)
    held = [*trainable.model.parameters()]
    held += [b for name, b in trainable.model.named_buffers() if name.endswith(("codes", "scale", "bias"))]  # type: ignore[misc]
    stays = sum(tensor.nbytes for tensor in held) - sum(p.nbytes for p in trainable.parameters.values())
    assert learned.fixed_bytes == pytest.approx(stays, rel=0.02)
    state = build_optimizer(config, trainable.parameters).state()
    assert optimizer_bytes(config, TransformerSizes.of(SMALL)) == sum(tensor.nbytes for tensor in state.values())


def test_an_adapter_needs_little_beside_its_base() -> None:
    """Of the published model; what was not measured on a GPU is said so in docs/adapters.md."""
    sizes = TransformerSizes.of(TRANSFORMER)

    def memory(**settings: Any) -> TrainingMemory:
        config = TrainConfig.model_validate({"max_steps": 1, "global_batch_size": 1, **settings})
        return estimate_training(config, sizes, FULL, caption_tokens=300, on_gpu=True)

    lora = {"name": "lora", "rank": 16}
    full, plain, eight = memory(), memory(method=lora), memory(method=lora, base_weights="int8")
    print(*(f"{m.state / GIB:.2f} GiB between steps, {m.peak / GIB:.2f} at most" for m in (full, plain, eight)))
    assert full.state == 16 * sizes.num_parameters
    assert plain.state < 0.15 * full.state and eight.state < 0.6 * plain.state
    assert eight.peak < plain.peak < full.peak
    frozen = memory(frozen=["transformer_blocks.*"])
    assert full.state - frozen.state == 12 * sizes.num_layers * sizes.block_parameters
    offloaded = {"resources": {"offload": {"type": "block_level"}}}
    assert memory(method=lora, **offloaded).peak < plain.peak
    assert training_passes(TrainConfig(max_steps=1, global_batch_size=1), sizes) == 3.0
    config = TrainConfig.model_validate({"max_steps": 1, "global_batch_size": 1, "method": lora})
    assert 2.0 < training_passes(config, sizes) < 2.05
