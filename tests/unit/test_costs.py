"""Costs by counting, from config files alone: against the published model, and against torch's own counts."""

import math
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, SanaVideoTransformer3DModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import Gemma2Config, Gemma2Model

from sana.bucket import Bucket
from sana.costs.parameter_shapes import parameter_shapes
from sana.costs.text import TextSizes
from sana.costs.transformer import TransformerSizes
from sana.costs.vae import VaeSizes
from sana.errors import SanaError
from tests.published import TEXT_ENCODER, TRANSFORMER, VAE

FULL = Bucket(81, 480, 832)
SMALL: dict[str, Any] = {
    "num_layers": 3, "num_attention_heads": 2, "attention_head_dim": 24, "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 24, "cross_attention_dim": 48, "caption_channels": 40, "mlp_ratio": 2.5,
}  # fmt: skip
SMALL_TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 100,
}  # fmt: skip


def test_published_model_is_counted_as_it_was_measured() -> None:
    transformer, vae = TransformerSizes.of(TRANSFORMER), VaeSizes.of(VAE)
    step = transformer.flops(FULL)
    assert transformer.num_parameters == 2_056_862_144
    assert (transformer.block_parameters, transformer.num_tokens(FULL)) == (100_533_440, 32_760)
    counted = [step.forward, step.training, step.with_recompute()]
    assert [flops / 1e12 for flops in counted] == pytest.approx([121.1, 363.1, 484.2], rel=1e-3)
    assert vae.num_parameters == 126_892_531
    assert vae.encode_flops(FULL) / 1e12 == pytest.approx(163.8, rel=1e-3)
    assert vae.decode_flops(FULL) / 1e12 == pytest.approx(275.4, rel=1e-3)
    assert vae.encode_flops(FULL, tiling=True) / vae.encode_flops(FULL) == pytest.approx(1.66, rel=0.01)
    assert TextSizes.of(TEXT_ENCODER).num_parameters == 2_614_341_888
    assert TextSizes.of(TEXT_ENCODER).flops(600) / 1e12 == pytest.approx(2.5, rel=0.01)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_cross_attention_heads": 3, "qk_norm": None},
        {"attention_bias": True, "mlp_ratio": 3.0, "out_channels": 8},
        {"norm_elementwise_affine": True},
    ],
)
def test_transformer_is_counted_as_torch_counts_it(changed: dict[str, Any]) -> None:
    """Of any config that diffusers builds, `cross_attention_dim` is the width of its captions."""
    config = {**SMALL, **changed}
    sizes, bucket = TransformerSizes.of(config), Bucket(9, 64, 96)
    with torch.device("meta"):
        model = SanaVideoTransformer3DModel(**config)
        latent, captions = torch.empty(2, *bucket.latent_shape), torch.empty(2, 7, 40)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(latent, captions, torch.empty(2), return_dict=False)
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert parameter_shapes(sizes) == shapes
    # torch counts the whole kernel of padded convolutions as well, and no sum over positions
    assert sizes.flops(bucket, caption_tokens=7, batch=2).forward == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(("bucket", "tiling"), [(Bucket(9, 32, 48), False), (Bucket(1, 64, 288), True)])
def test_vae_is_counted_as_torch_counts_it(bucket: Bucket, tiling: bool) -> None:
    config = {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 2, 1], "num_res_blocks": 1}
    config["temperal_downsample"] = [False, True, True]
    sizes = VaeSizes.of(config)
    with torch.device("meta"):
        model = AutoencoderKLWan(**config)
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    model.use_tiling = tiling
    with torch.no_grad(), torch.device("meta"):
        with FlopCounterMode(display=False) as encoding:
            model.encode(torch.empty(1, 3, bucket.num_frames, bucket.height, bucket.width))
        with FlopCounterMode(display=False) as decoding:
            model.decode(torch.empty(1, *bucket.latent_shape))
    assert sizes.encode_flops(bucket, tiling=tiling) == pytest.approx(encoding.get_total_flops(), rel=0.01)
    assert sizes.decode_flops(bucket, tiling=tiling) == pytest.approx(decoding.get_total_flops(), rel=0.01)


def test_text_encoder_is_counted_as_torch_counts_it() -> None:
    sizes = TextSizes.of(SMALL_TEXT)
    with torch.device("meta"):
        model = Gemma2Model(Gemma2Config(**SMALL_TEXT, attn_implementation="eager"))
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 20, dtype=torch.int64))
    assert sizes.num_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sizes.flops(20) == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    ("sizes", "whole"), [(TransformerSizes, TRANSFORMER), (VaeSizes, VAE), (TextSizes, TEXT_ENCODER)]
)
def test_config_of_another_model_is_named(sizes: Any, whole: dict[str, Any]) -> None:
    for key in ("num_layers", "z_dim", "hidden_size"):
        if key in whole:
            with pytest.raises(SanaError, match=f"my/config.json.*{key}"):
                sizes.of({name: value for name, value in whole.items() if name != key}, where="my/config.json")
    with pytest.raises(SanaError, match="config.json"):
        sizes.of({**whole, next(iter(whole)): math.nan})
