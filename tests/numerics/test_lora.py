"""LoRA and DoRA layers against a plain rendering of their formulas: what the model computes, and each gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SanaVideoPipeline
from torch import Tensor, nn
from torch.nn import functional

from sana.config.training.adapter_names import TARGET_GROUPS
from sana.config.training.train import TrainConfig
from sana.model.random import philox_normal
from sana.model.tiny_model import CAPTION_CHANNELS
from sana.model.transformer import load_transformer, predict
from sana.training.trainables.lora import LoraTransformer

ALL = tuple(TARGET_GROUPS)


def config_of(**method: Any) -> TrainConfig:
    settings = {"name": "lora", "rank": 4, "alpha": 6.0, "targets": ALL, **method}
    return TrainConfig.model_validate(
        {"max_steps": 1, "global_batch_size": 1, "seed": 3, "mixed_precision": "fp32", "method": settings}
    )


def randomise(trainable: LoraTransformer) -> None:
    """Make every tensor of the adapter one that has an effect: B is zeros at the start."""
    with torch.no_grad():
        for name, parameter in trainable.parameters.items():
            noise = philox_normal(parameter.shape, key=("test", name))
            parameter.copy_(parameter * (1 + 0.1 * noise) if name.endswith("magnitude_vector") else 0.1 * noise)


def velocity(model: nn.Module) -> Tensor:
    noisy = philox_normal([1, 16, 2, 4, 6], key=("noisy",))
    captions = philox_normal([1, 7, CAPTION_CHANNELS], key=("captions",))
    return predict(model, noisy, torch.tensor([500.0]), captions, torch.ones(1, 7, dtype=torch.int64))


def merged(weight: Tensor, adapter: dict[str, Tensor], scale: float) -> Tensor:
    """Return W + alpha / rank B A of one layer; with a magnitude m, m times its rows' directions, a constant length."""
    a, b = adapter["lora_A.weight"], adapter["lora_B.weight"]
    changed = weight + scale * (b.flatten(1) @ a.flatten(1)).view_as(weight)
    if "lora_magnitude_vector" not in adapter:
        return changed
    lengths = changed.detach().flatten(1).norm(dim=1).view(-1, *[1] * (weight.ndim - 1))
    return adapter["lora_magnitude_vector"].view_as(lengths) * changed / lengths


@pytest.mark.parametrize("use_dora", [False, True])
def test_the_model_and_its_gradients_are_those_of_the_formula(tiny_model: Path, use_dora: bool) -> None:
    config = config_of(use_dora=use_dora)
    trainable = LoraTransformer(load_transformer(str(tiny_model)), config)
    randomise(trainable)
    loss = velocity(trainable.model).square().mean()
    loss.backward()

    plain = load_transformer(str(tiny_model)).requires_grad_(False)
    adapter = {name: p.detach().clone().requires_grad_() for name, p in trainable.parameters.items()}
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        layer, _, part = name.partition(".lora_")
        layers.setdefault(layer, {})[f"lora_{part}"] = tensor
    assert len(layers) == 2 * 11, "each block has 8 linear layers and 3 convolutions"
    weights = {
        f"{layer}.weight": merged(plain.get_parameter(f"{layer}.weight"), tensors, config.method.scale)  # type: ignore[union-attr]
        for layer, tensors in layers.items()
    }
    expected = _functional_velocity(plain, weights).square().mean()
    expected.backward()

    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    for name, parameter in trainable.parameters.items():
        wanted = adapter[name].grad
        assert parameter.grad is not None and wanted is not None, name
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-6 * float(wanted.abs().max()) + 1e-9)


def _functional_velocity(model: nn.Module, weights: dict[str, Tensor]) -> Tensor:
    class Bound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self.model, weights, args, kwargs)

    return velocity(Bound())


def test_the_start_is_the_base_model_and_is_keyed_by_the_seed(tiny_model: Path) -> None:
    base = velocity(load_transformer(str(tiny_model)))
    for use_dora in (False, True):
        first = LoraTransformer(load_transformer(str(tiny_model)), config_of(use_dora=use_dora))
        assert torch.equal(velocity(first.model), base)
    torch.manual_seed(77)  # which other code may do
    second = LoraTransformer(load_transformer(str(tiny_model)), config_of(use_dora=True))
    assert all(torch.equal(first.parameters[name], second.parameters[name]) for name in second.parameters)
    other = config_of(use_dora=True).model_copy(update={"seed": 4})
    third = LoraTransformer(load_transformer(str(tiny_model)), other)
    a = [name for name in third.parameters if name.endswith("lora_A.weight")]
    assert all(not torch.equal(second.parameters[name], third.parameters[name]) for name in a)
    bounds = {name: third.parameters[name].abs().max() * third.parameters[name][0].numel() ** 0.5 for name in a}
    assert all(0.8 < bound <= 1 for bound in bounds.values()), "U(-1, 1) / sqrt(inputs)"


def test_a_base_in_bf16_costs_no_bit_under_autocast(tiny_model: Path) -> None:
    """Autocast rounds the weights of products for each of them, so they may as well be stored so."""
    bf16 = config_of().model_copy(update={"mixed_precision": "bf16"})
    rounded = LoraTransformer(load_transformer(str(tiny_model)), bf16)
    whole = LoraTransformer(load_transformer(str(tiny_model)), config_of())
    kinds = {p.dtype for name, p in rounded.model.named_parameters() if ".base_layer." in name}
    assert kinds == {torch.bfloat16} and all(p.dtype == torch.float32 for p in rounded.parameters.values())
    losses = []
    for trainable in (rounded, whole):
        randomise(trainable)
        with torch.autocast("cpu", torch.bfloat16):
            loss = velocity(trainable.model).square().mean()
        loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    for name, parameter in rounded.parameters.items():
        assert parameter.grad is not None and torch.equal(parameter.grad, whole.parameters[name].grad), name


@pytest.mark.parametrize("use_dora", [False, True])
def test_stock_diffusers_loads_the_export_and_computes_the_same(
    tiny_model: Path, tmp_path: Path, use_dora: bool
) -> None:
    from safetensors.torch import save_file

    trainable = LoraTransformer(load_transformer(str(tiny_model)), config_of(use_dora=use_dora))
    randomise(trainable)
    weights = {name: parameter.detach() for name, parameter in trainable.parameters.items()}
    tensors = dict(trainable.export(weights, tmp_path))
    save_file(tensors, tmp_path / trainable.weights_file, metadata=dict(trainable.weights_metadata))
    pipe = SanaVideoPipeline.from_pretrained(str(tiny_model), text_encoder=None, tokenizer=None)
    before = velocity(pipe.transformer)
    pipe.load_lora_weights(str(tmp_path))
    after = velocity(pipe.transformer)
    assert torch.equal(after, velocity(trainable.model.eval()))
    assert functional.mse_loss(after, before) > 1e-4
    again = LoraTransformer(load_transformer(str(tiny_model)), config_of(use_dora=use_dora))
    again.load(again.read_export(tmp_path))
    assert all(torch.equal(again.parameters[name], weights[name]) for name in weights)
