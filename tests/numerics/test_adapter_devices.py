"""Adapters as calibration measures them, and on a GPU: what the CPU gives, and the memory that is counted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu.sizes import PUBLISHED, TINY, Sizes
from sana import metrics as m
from sana.config.training.train import TrainConfig
from sana.costs.memory import GIB
from sana.costs.training import estimate_training
from sana.costs.transformer import TransformerSizes
from sana.model.adapters.keyed_dropout import kept
from sana.model.adapters.quantized_layers import QuantizedLinear
from sana.training.peak_memory import PeakMemory
from sana.training.synthetic import SyntheticTraining
from tests.devices import fresh_accelerator

LORA: dict[str, Any] = {"name": "lora", "rank": 16, "targets": ["self_attention", "transformer_blocks.19.*.to_q"]}
SETTINGS: dict[str, dict[str, Any]] = {
    "lora": {"method": {**LORA, "dropout": 0.1}},
    "int8": {"method": LORA, "base_weights": "int8"},
    "fp8": {"method": {**LORA, "use_dora": True}, "base_weights": "fp8"},
}
ON_A_GPU = pytest.param(PUBLISHED, marks=pytest.mark.gpu, id="published")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("sizes", [pytest.param(TINY, id="tiny"), ON_A_GPU])
@pytest.mark.parametrize("name", SETTINGS)
def test_a_step_is_measured_as_a_calibration_measures_it(name: str, sizes: Sizes, tmp_path: Path) -> None:
    """Also of fewer blocks than a target names. On a GPU the peak is near what is counted, and below 24 GiB."""
    plain = sizes.train_config({"activation_memory": "recompute_all"})
    fast = {"learning_rate": 1e-2, "lr_schedule": {"warmup_steps": 0}}
    config = TrainConfig.model_validate({**plain.model_dump(), **fast, **SETTINGS[name]})
    with fresh_accelerator():
        peak = PeakMemory(torch.device(sizes.device))
        training = SyntheticTraining(config, sizes.transformer, work_dir=tmp_path, bucket=sizes.bucket)
        batches = training.batches(sizes.bucket, sizes.caption_tokens)
        losses = [training.take(batches).scalars[m.TRAIN_LOSS].value.item() for _ in range(3)]
    assert all(torch.isfinite(torch.tensor(losses))) and losses[-1] < losses[0]
    if sizes.device == "cuda":
        counted = estimate_training(
            config, TransformerSizes.of(sizes.transformer), sizes.bucket, caption_tokens=300, on_gpu=True
        )
        print(f"{name}: {peak.read() / GIB:.2f} GiB, counted {counted.peak / GIB:.2f}")
        assert peak.read() < 24 * GIB
        assert peak.read() == pytest.approx(counted.peak, rel=0.2)


@pytest.mark.gpu
def test_masks_and_codes_on_a_gpu_are_those_of_the_cpu() -> None:
    keys = torch.tensor([[3774383887, 158879464], [1, 2**32 - 1]])
    shape = torch.Size((2, 300, 112))
    assert torch.equal(kept(keys.cuda(), shape, 0.3).cpu(), kept(keys, shape, 0.3))
    layer = nn.Linear(112, 64)
    for kind in ("int8", "fp8", "fp8_cast"):
        stored = QuantizedLinear(layer, kind)  # type: ignore[arg-type]
        weight = stored.weight
        assert torch.equal(stored.cuda().weight.cpu(), weight)
