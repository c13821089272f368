"""Gauges: each against a count by hand or by another way."""

import re
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sana import metrics as m
from sana.data.loading.epoch import Cursor
from sana.data.loading.loader import load_samples
from sana.model.transformer import load_transformer
from sana.training.gauges.gradient_norms import gradient_norms, group_of, groups_of
from sana.training.gauges.matmul_peak import matmul_peak_flops
from sana.training.gauges.memory import memory_peaks
from sana.training.gauges.throughput import CountedStep, Throughput
from tests.published import TRANSFORMER
from tests.training_store import build_encoded

pytestmark = pytest.mark.timeout(120)

CPU = torch.device("cpu")


class OneRank:
    """The part of Parallel that norms use."""

    def grad_norm(self, parameters: Iterable[nn.Parameter]) -> torch.Tensor:
        return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("transformer_blocks.0.attn1.to_q.weight", "self_attention"),
        ("transformer_blocks.19.attn1.norm_k.weight", "self_attention"),
        ("transformer_blocks.0.attn2.to_out.0.bias", "cross_attention"),
        ("transformer_blocks.7.ff.conv_depth.weight", "feed_forward"),
        ("transformer_blocks.7.scale_shift_table", "other"),
        ("patch_embedding.weight", "other"),
        ("time_embed.emb.timestep_embedder.linear_1.weight", "other"),
        ("caption_projection.linear_1.bias", "other"),
        ("proj_out.weight", "other"),
    ],
)
def test_each_parameter_has_a_group(name: str, group: str) -> None:
    assert group_of(name) == group


def test_norms_of_groups_add_up_to_the_whole(tiny_model: Path) -> None:
    model = load_transformer(str(tiny_model))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    parallel: Any = OneRank()
    groups = groups_of(dict(model.named_parameters()))
    norms = {name: scalar.value.item() for name, scalar in gradient_norms(parallel.grad_norm, groups).items()}
    assert set(norms) == {
        f"train/grad_norm_{g}" for g in ("self_attention", "cross_attention", "feed_forward", "other")
    }
    whole = parallel.grad_norm(model.parameters()).item()
    assert sum(norm**2 for norm in norms.values()) == pytest.approx(whole**2, rel=1e-5)
    feed_forward = [p for name, p in model.named_parameters() if ".ff." in name]
    by_hand = sum(p.grad.double().square().sum().item() for p in feed_forward) ** 0.5
    assert norms["train/grad_norm_feed_forward"] == pytest.approx(by_hand, rel=1e-5)


def throughput(tmp_path: Path, **settings: Any) -> Throughput:
    encoded = build_encoded(tmp_path / "store")
    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    cursor = Cursor(samples.bucket_codes, samples.draws_per_epoch, seed=0, batch_size=4)
    of_all = {"batch_size": 4, "num_ranks": 1, "peak_flops": None, **settings}
    return Throughput(TRANSFORMER, cursor, samples, **of_all)


def test_rates_are_counts_over_seconds(tmp_path: Path) -> None:
    """Both buckets of the store have latents of 2 x 96 positions, so 48 tokens a sample."""
    steps = [CountedStep(step, 300) for step in (1, 2, 3)]
    rates = throughput(tmp_path, num_ranks=2, peak_flops=1e12).rates(steps, 2.0)
    assert rates[m.SAMPLES_PER_S] == 3 * 4 / 2.0
    assert rates[m.TOKENS_PER_S] == 3 * 4 * 48 / 2.0
    assert rates[m.MFU] == pytest.approx(rates[m.TFLOPS])  # a peak of one
    longer = throughput(tmp_path).rates([CountedStep(1, 600)], 1.0)
    assert longer[m.TFLOPS] > throughput(tmp_path).rates([CountedStep(1, 300)], 1.0)[m.TFLOPS]
    assert m.MFU not in longer  # without a peak


def test_a_step_of_the_published_model_is_363_teraflops(tmp_path: Path) -> None:
    """The formula itself is held by tests/unit/test_costs.py, against torch's counter and the published count."""
    samples: Any = SimpleNamespace(buckets=("81x480x832",), bucket_codes=[0])
    cursor: Any = SimpleNamespace(batch=lambda _: [0])
    counted = Throughput(TRANSFORMER, cursor, samples, batch_size=1, num_ranks=1, peak_flops=767e12)
    rates = counted.rates([CountedStep(1, 300)], 0.944)
    assert rates[m.TFLOPS] * 0.944 == pytest.approx(363.1, rel=0.01)
    assert rates[m.MFU] == pytest.approx(0.50, abs=0.01)  # as it was measured on an H200
    assert rates[m.TOKENS_PER_S] == pytest.approx(32_760 / 0.944)


def test_the_peak_is_that_of_a_matrix_product() -> None:
    peak = matmul_peak_flops(CPU, torch.float32, nullcontext)
    assert 1e8 < peak < 1e14


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_peak_of_a_gpu_is_above_a_teraflop_and_its_memory_is_told() -> None:
    device = torch.device("cuda", 0)
    assert matmul_peak_flops(device, torch.bfloat16, nullcontext) > 1e12
    assert memory_peaks(device)[m.GPU_RESERVED_PEAK_GIB] >= memory_peaks(device)[m.GPU_ALLOCATED_PEAK_GIB] > 0


def test_the_peak_of_memory_follows_what_is_used() -> None:
    before = memory_peaks(CPU)[m.HOST_PEAK_GIB]
    held = torch.ones(2**26)  # 256 MiB
    peaks = memory_peaks(CPU)
    assert set(peaks) == {m.HOST_PEAK_GIB} and 0.05 < before <= peaks[m.HOST_PEAK_GIB] < 64
    assert peaks[m.HOST_PEAK_GIB] >= held.nbytes / 2**30


def test_every_metric_has_a_row_in_the_docs_and_a_name_that_mlflow_takes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "training-metrics.md").read_text()
    table = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    names = {value for name, value in vars(m).items() if name.isupper() and isinstance(value, str) and "/" in value}
    names = {name for name in names if "{" not in name} - {m.OF_ONE_SIGMA}  # a name of each condition or noise level
    assert len(names) > 20
    for name in names | {f"{m.GRAD_NORM}_{group}" for group in ("self_attention", "other")}:
        assert f"`{name}`" in table, name
        assert re.fullmatch(r"[\w./ -]+", name), name
