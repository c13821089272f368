"""Layouts of adapter files: what is read back is what was written, and merging is what peft computes."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sana.config.training.adapter_names import TARGET_GROUPS, adapter_targets
from sana.config.training.method import LoraMethod
from sana.errors import SanaError
from sana.model.adapters.extract import check_same_model
from sana.model.adapters.layouts import (
    METADATA,
    AdapterLayer,
    adapter_of,
    comfyui_tensors,
    peft_tensors,
    read_adapter,
    settings_of,
    why_not_comfyui,
)
from sana.model.adapters.lora_layers import add_lora, lora_metadata
from sana.model.adapters.merge import merge_into
from sana.model.random import philox_normal
from sana.model.transformer import load_transformer, transformer_with
from tests.numerics.test_lora import velocity

ALL = tuple(TARGET_GROUPS)
Shapes = dict[str, tuple[int, ...]]


def shapes_of(model: Path) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in load_transformer(str(model)).state_dict().items()}


def adapter_for(shapes: Shapes, method: LoraMethod) -> dict[str, AdapterLayer]:
    """Return an adapter of random matrices beside all targets."""
    found = {}
    for target in adapter_targets(method, shapes):
        outputs, *inputs = shapes[f"{target}.weight"]
        a = 0.2 * philox_normal([method.rank, *inputs], key=("a", target))
        b = 0.2 * philox_normal([outputs, method.rank, *[1] * (len(inputs) - 1)], key=("b", target))
        rows = [1, outputs, *[1] * (len(inputs) - 1)] if len(inputs) > 1 else [outputs]
        magnitude = 1 + 0.1 * philox_normal(rows, key=("m", target)) if method.use_dora else None
        found[target] = AdapterLayer(a, b, method.scale, magnitude)
    return found


@pytest.fixture(scope="module")
def shapes(tiny_model: Path) -> Shapes:
    return shapes_of(tiny_model)


def renamed(tensors: dict[str, Tensor], **names: str) -> dict[str, Tensor]:
    found = {}
    for key, tensor in tensors.items():
        for old, new in names.items():
            key = key.replace(f".{old}.", f".{new}.")
        found[key] = tensor
    return found


def kohya(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return ComfyUI's tensors under the names of kohya's trainers."""
    found = {}
    for key, tensor in renamed(tensors, lora_A="lora_down", lora_B="lora_up").items():
        layer, end = key.removeprefix("diffusion_model."), ""
        for end in (".lora_down.weight", ".lora_up.weight", ".alpha"):
            if layer.endswith(end):
                break
        found[prefix + layer.removesuffix(end).replace(".", "_") + end] = tensor
    return found


LAYOUTS: dict[str, Callable[[dict[str, AdapterLayer]], dict[str, Tensor]]] = {
    "peft": peft_tensors,
    "peft's own": lambda adapter: {f"base_model.model.{k[12:]}": t for k, t in peft_tensors(adapter).items()},
    "no prefix": lambda adapter: {k[12:]: t for k, t in peft_tensors(adapter).items()},
    "default": lambda adapter: renamed(peft_tensors(adapter), lora_A="lora_A.default", lora_B="lora_B.default"),
    "comfyui": comfyui_tensors,
    "comfyui, down and up": lambda adapter: renamed(comfyui_tensors(adapter), lora_A="lora_down", lora_B="lora_up"),
    "kohya": lambda adapter: kohya(comfyui_tensors(adapter), "lora_unet_"),
    "onetrainer": lambda adapter: kohya(comfyui_tensors(adapter), "lora_transformer_"),
    "old diffusers": lambda adapter: renamed(peft_tensors(adapter), lora_A="lora.down", lora_B="lora.up"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("use_dora", [False, True])
def test_every_layout_is_read_as_the_same_adapter(shapes: Shapes, tmp_path: Path, layout: str, use_dora: bool) -> None:
    method = LoraMethod(name="lora", rank=3, alpha=7.5, targets=ALL, use_dora=use_dora)
    adapter = adapter_for(shapes, method)
    has_alpha = "comfyui" in layout or layout in ("kohya", "onetrainer")
    if use_dora and has_alpha:
        assert "would compute another model" in (why_not_comfyui(adapter) or "")
        return
    metadata = {} if has_alpha else lora_metadata(method, list(adapter))
    file = tmp_path / "adapter.safetensors"
    save_file({k: t.contiguous() for k, t in LAYOUTS[layout](adapter).items()}, file, metadata=metadata)
    found = read_adapter(file, shapes)
    assert found.keys() == adapter.keys() and len(adapter) == 2 * 11
    for name, layer in found.items():
        assert layer.scale == pytest.approx(2.5) and layer.alpha == pytest.approx(7.5)
        assert torch.equal(layer.a, adapter[name].a) and torch.equal(layer.b, adapter[name].b)
        ours = adapter[name].magnitude
        assert (layer.magnitude is None) == (ours is None)
        assert ours is None or layer.magnitude is not None and torch.equal(layer.magnitude, ours)


def test_alpha_is_the_rank_where_a_file_says_nothing_and_patterns_hold_for_their_layers(shapes: Shapes) -> None:
    adapter = adapter_for(shapes, LoraMethod(name="lora", rank=4, alpha=4, targets=("self_attention",)))
    tensors = peft_tensors(adapter)
    assert {layer.scale for layer in adapter_of(tensors, {}, shapes, where="x").values()} == {1.0}
    settings: dict[str, Any] = {
        "r": 4,
        "lora_alpha": 2,
        "alpha_pattern": {"attn1.to_q": 8, "^transformer_blocks.1.attn1.to_k": 1},
    }
    found = adapter_of(tensors, settings, shapes, where="x")
    scales = {name: layer.scale for name, layer in found.items()}
    assert scales["transformer_blocks.0.attn1.to_q"] == scales["transformer_blocks.1.attn1.to_q"] == 2.0
    assert scales["transformer_blocks.1.attn1.to_k"] == 0.25 and scales["transformer_blocks.0.attn1.to_k"] == 0.5
    rslora = adapter_of(tensors, {**settings, "use_rslora": True}, shapes, where="x")
    assert rslora["transformer_blocks.0.attn1.to_v"].scale == 1.0


def without(end: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if not key.endswith(end)}


BAD: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "of another model": (lambda t: {k.replace("attn1", "self_attn"): v for k, v in t.items()}, "model: this"),
    "of other widths": (lambda t: {k: v[:, :2].contiguous() for k, v in t.items()}, "another model, or damaged"),
    "unknown keys": (lambda t: {**t, "transformer.x.hada_w1": torch.ones(1)}, "keys that are none of a LoRA.*LoHa"),
    "dora_scale": (lambda t: {**t, "diffusion_model.x.dora_scale": torch.ones(1)}, "disagree on what a dora_scale"),
    "half": (without("lora_B.weight"), "lacks lora_B"),
    "empty": (lambda _: {"nothing": torch.ones(1)}, "keys that are none"),
    "rank of the header": (
        lambda t: {k: v[:2] if "lora_A" in k else v[:, :2].contiguous() for k, v in t.items()}, "says rank 4"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_is_no_adapter_of_this_model_is_refused(shapes: Shapes, tmp_path: Path, case: str) -> None:
    method = LoraMethod(name="lora", rank=4, targets=("self_attention",))
    change, said = BAD[case]
    file = tmp_path / "adapter.safetensors"
    tensors = change(peft_tensors(adapter_for(shapes, method)))
    save_file(tensors, file, metadata=lora_metadata(method, ["to_q"]))
    with pytest.raises(SanaError, match=said) as error:
        read_adapter(file, shapes)
    assert "\n" not in str(error.value)


def test_a_file_that_is_damaged_or_missing_is_refused(shapes: Shapes, tmp_path: Path) -> None:
    method = LoraMethod(name="lora", rank=4, targets=("self_attention",))
    file = tmp_path / "pytorch_lora_weights.safetensors"
    with pytest.raises(SanaError, match="there is no adapter"):
        read_adapter(file, shapes)
    with pytest.raises(SanaError, match="holds none of"):
        read_adapter(tmp_path, shapes)
    tensors = peft_tensors(adapter_for(shapes, method))
    save_file(tensors, file, metadata=lora_metadata(method, ["to_q"]))
    assert len(read_adapter(tmp_path, shapes)) == 8
    whole = file.read_bytes()
    for cut in (whole[:-10], whole[:20], b""):
        file.write_bytes(cut)
        with pytest.raises(SanaError, match="cannot be read as a safetensors file"):
            read_adapter(tmp_path, shapes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.mul(math.nan), "is not of finite real numbers"),
        (lambda a: a.mul(math.inf), "is not of finite real numbers"),
        (lambda a: a.int(), "is not of finite real numbers"),
        (lambda a: a.to(torch.complex64), "is not of finite real numbers"),
        (lambda a: a.sum(), "of another model, or damaged"),
    ],
)
def test_numbers_that_no_adapter_has_are_refused(shapes: Shapes, change: Callable[[Tensor], Tensor], says: str) -> None:
    tensors = peft_tensors(adapter_for(shapes, LoraMethod(name="lora", rank=2, targets=("self_attention",))))
    for key in list(tensors)[:2]:
        with pytest.raises(SanaError, match=says):
            adapter_of({**tensors, key: change(tensors[key])}, {}, shapes, where="here")


def test_a_tensor_that_two_layouts_give_is_refused(shapes: Shapes) -> None:
    adapter = adapter_for(shapes, LoraMethod(name="lora", rank=2, targets=("self_attention",)))
    with pytest.raises(SanaError, match="has two tensors that are a of transformer_blocks.0"):
        adapter_of({**peft_tensors(adapter), **comfyui_tensors(adapter)}, {}, shapes, where="here")


@pytest.mark.parametrize(
    "settings",
    [
        "[]", "null", '"x"', '{"transformer.rank_pattern": [1]}', '{"transformer.rank_pattern": {"(": 1}}',
        '{"transformer.lora_alpha": "x"}', '{"transformer.lora_alpha": null}', '{"transformer.lora_alpha": NaN}',
    ],
)  # fmt: skip
def test_settings_that_peft_does_not_write_are_refused(shapes: Shapes, tmp_path: Path, settings: str) -> None:
    tensors = peft_tensors(adapter_for(shapes, LoraMethod(name="lora", rank=2, targets=("self_attention",))))
    save_file(tensors, tmp_path / "x.safetensors", metadata={METADATA: settings})
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings.replace("transformer.", ""))
    for path in (tmp_path / "x.safetensors", tmp_path):
        with pytest.raises(SanaError, match="JSON object|settings of rank and alpha|settings say alpha nan"):
            read_adapter(path, shapes)


def test_peft_s_settings_beside_its_own_file_are_read(shapes: Shapes, tmp_path: Path) -> None:
    adapter = adapter_for(shapes, LoraMethod(name="lora", rank=4, targets=("self_attention",)))
    save_file(LAYOUTS["peft's own"](adapter), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 12}))
    assert {layer.scale for layer in read_adapter(tmp_path, shapes).values()} == {3.0}


@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_the_merged_model_computes_what_peft_does(tiny_model: Path, use_dora: bool, scale: float) -> None:
    method = LoraMethod(name="lora", rank=3, alpha=6.0, targets=ALL, use_dora=use_dora)
    model = load_transformer(str(tiny_model))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    before = velocity(model)
    parameters = add_lora(model, method, adapter_targets(method, shapes), seed=0, store=lambda _: None)
    with torch.no_grad():
        for name, parameter in parameters.items():
            noise = philox_normal(parameter.shape, key=("test", name))
            parameter.copy_(parameter * (1 + 0.1 * noise) if name.endswith("magnitude_vector") else 0.1 * noise)
    tensors = {f"transformer.{name}": parameter.detach() for name, parameter in parameters.items()}
    settings = settings_of(lora_metadata(method, adapter_targets(method, shapes)))
    for module in model.modules():
        if hasattr(module, "scale_layer"):
            module.scale_layer(scale)
    wanted = velocity(model)
    merge_into(weights, adapter_of(tensors, settings, shapes, where="x"), scale=scale)
    found = velocity(transformer_with(str(tiny_model), weights))
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-6 * float(wanted.detach().abs().max()))
    assert (found - before).norm() > 0.05 * before.norm()


def test_models_of_other_shapes_have_no_difference(shapes: Shapes) -> None:
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    check_same_model(tensors, tensors, where="tuned")
    wider = {**tensors, "proj_out.bias": torch.zeros(3)}
    with pytest.raises(SanaError, match=r"tuned is no fine-tuned model of this base: proj_out.bias \[3\], in the base"):
        check_same_model(wider, tensors, where="tuned")
