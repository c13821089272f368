"""Models that do not learn, their weights copied to the device group by group by diffusers: the same numbers."""

import gc
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sana.config.training.offload import FrozenGroupOffload
from sana.errors import ConfigError
from sana.model.offload.group_offload import OffloadedModel
from sana.model.offload.scratch_folder import ScratchFolder
from sana.model.pipeline import load_pipeline, sample_video
from sana.model.text import TextEncoder
from sana.runtime.specs import CheckpointName
from sana.workers.evaluate import evaluate
from tests.training_lab import Lab
from tests.training_store import evaluate_job

pytestmark = pytest.mark.timeout(120)

WAYS: list[dict[str, Any]] = [
    {"type": "block_level"},
    {"type": "block_level", "blocks_per_group": 2, "use_stream": False, "to_disk_path": "disk"},
    {"type": "leaf_level", "to_disk_path": "disk"},
]
CLIP: dict[str, Any] = {"num_frames": 5, "height": 64, "width": 96, "steps": 2, "guidance": 6.0, "seed": 7}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(autouse=True)
def what_is_not_loaded_is_no_number(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Weights on a disk have empty memory, which could still hold the numbers: here it holds none."""
    empty_like = torch.empty_like

    def filled(tensor: Tensor, **settings: Any) -> Tensor:
        made = empty_like(tensor, **settings)
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty_like", filled)
    yield
    gc.collect()


def is_gone(tensor: Tensor) -> bool:
    return bool(tensor.isnan().all())


@pytest.mark.parametrize("device", DEVICES)
def test_samples_are_the_same_to_the_bit(tiny_model: Path, tmp_path: Path, device: str) -> None:
    pipe, generator = load_pipeline(str(tiny_model), device=device), torch.Generator().manual_seed(0)
    width = pipe.transformer.config.caption_channels
    embeds = {f"{name}_embeds": torch.randn(4, width, generator=generator) for name in ("prompt", "negative")}
    plain = sample_video(pipe, **embeds, **CLIP)
    for way in WAYS:
        offload = FrozenGroupOffload(**way)
        saving = load_pipeline(str(tiny_model), device=device, offload=offload, work_dir=tmp_path)
        assert np.array_equal(sample_video(saving, **embeds, **CLIP), plain), way
        assert all(parameter.device.type == "cpu" for parameter in saving.transformer.parameters())
        assert {is_gone(parameter) for parameter in saving.transformer.parameters()} == {bool(offload.to_disk_path)}
        del saving
        gc.collect()
        assert not [*(tmp_path / "disk").glob("*")]  # its files went with it


@pytest.mark.parametrize("device", DEVICES)
def test_eval_losses_are_the_same_to_the_bit(lab: Lab, tmp_path: Path, device: str) -> None:
    """Three sets of weights are loaded into one model, one after the other."""
    settings = {"max_steps": 2, "learning_rate": 0.1, "mixed_precision": "bf16", "device": device}
    checkpoint = lab.train("evaluated", **settings)

    def losses(way: dict[str, Any]) -> dict[str, bytes]:
        config = lab.job("evaluated", **settings).config
        resources = config.evaluate.resources.model_copy(update={"offload": FrozenGroupOffload(**way)})
        section = config.evaluate.model_copy(update={"resources": resources, "max_samples": 2})
        config = config.model_copy(update={"evaluate": section})
        out = tmp_path / "out"
        name = CheckpointName(checkpoint.trajectory, checkpoint.step)
        evaluate(evaluate_job(lab.encoded, config, lab.model, name, out))
        gc.collect()
        assert not [*Path(config.work_dir).glob("disk/*")]
        return {file: (out / file).read_bytes() for file in ("losses.parquet", "report.json")}

    plain = losses({})
    for way in WAYS[1:]:
        assert losses(way) == plain, way


def test_captions_are_the_same_to_the_bit(tiny_model: Path, tmp_path: Path) -> None:
    def encoded(encoder: TextEncoder) -> list[Tensor]:
        return [encoder.encode([text], template="none")[0].tokens for text in ("a red ball", "")]

    plain = encoded(TextEncoder.load(str(tiny_model)))
    for way in WAYS:
        encoder = TextEncoder.load(str(tiny_model), offload=FrozenGroupOffload(**way), work_dir=tmp_path)
        assert all(map(torch.equal, encoded(encoder), plain)), way
        assert is_gone(encoder.model.embed_tokens.weight) == ("to_disk_path" in way)


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_on_a_gpu_few_weights_are_on_the_device(tiny_model: Path, tmp_path: Path, way: dict[str, Any]) -> None:
    layers = [torch.nn.Linear(2048, 2048) for _ in range(8)]  # 16 MiB each
    model, whole = torch.nn.Sequential(torch.nn.Sequential(*layers)), 8 * 2048 * 2049 * 4
    given = torch.randn(4, 2048)
    plain = model.cuda()(given.cuda()).cpu()
    model.cpu()
    OffloadedModel(model, FrozenGroupOffload(**way), torch.device("cuda"), work_dir=tmp_path)
    with torch.no_grad():
        for _ in range(3):  # with a stream the order of the layers is learned in the first
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            assert torch.equal(model(given.cuda()).cpu(), plain)
            assert torch.cuda.max_memory_allocated() - before < whole / 2


def test_folders_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    hold = "import sys, time; from pathlib import Path; from sana.model.offload.scratch_folder import ScratchFolder; "
    hold += "held = ScratchFolder(Path(sys.argv[1])); print(held.path, flush=True); time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout
        theirs = Path(other.stdout.readline().strip())
        (theirs / "group.safetensors").write_bytes(b"weights")
        making = tmp_path / "making-x"
        making.mkdir()
        ours = ScratchFolder(tmp_path)
        assert theirs.exists() and making.exists() and ours.path.exists()
    finally:
        other.kill()
        other.wait()
    os.utime(making, (time.time() - 7200,) * 2)
    last = ScratchFolder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([ours.path, last.path])
    ours.remove()
    assert [*tmp_path.iterdir()] == [last.path]


def test_a_second_gpu_cannot_read_from_a_disk_without_streams(tmp_path: Path) -> None:
    way = FrozenGroupOffload(type="leaf_level", use_stream=False, to_disk_path="disk")
    with pytest.raises(ConfigError, match="to cuda:0, not to cuda:1; set use_stream to true"):
        OffloadedModel(torch.nn.Linear(2, 2), way, torch.device("cuda:1"), work_dir=tmp_path)
