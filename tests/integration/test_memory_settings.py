"""What saves memory changes no byte of a checkpoint: every setting against the run without it, and a resume with it."""

import gc
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sana.runtime.job import Job
from sana.runtime.launcher import result_path
from sana.runtime.results import TrainResult
from sana.runtime.specs import TrainSpec
from sana.training.peak_memory import PeakMemory
from sana.workers.train import train
from tests.training_lab import Lab

pytestmark = pytest.mark.timeout(120)

slow = pytest.mark.slow(group="numbers")

LARGE = 192 * 2**20
BLOCKS = {"type": "block_level"}
STRAIGHT: dict[str, Any] = {"max_steps": 4, "checkpoint_every": 2, "eval_every": 2, "activation_memory": 0}


# one micro batch a step, and no norm over all gradients
ONE_PASS: dict[str, Any] = {"micro_batch_size": 4, "gradient_clipping": "none"}
BY_VALUE: dict[str, Any] = {**ONE_PASS, "gradient_clipping": "value", "max_grad_value": 1e-5}
FUSED: dict[str, Any] = {"fused_backward": True}
BF16: dict[str, Any] = {"weights_dtype": "bf16", "mixed_precision": "bf16", "optimizer": {"name": "adamw_bf16"}}


@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ({}, {"offload": BLOCKS}),
        pytest.param({}, {"ema_device": "cpu"}, marks=slow),
        pytest.param(ONE_PASS, FUSED, marks=slow),
        pytest.param(BY_VALUE, FUSED | {"ema_device": "cpu"}, marks=slow),
        pytest.param(ONE_PASS | BF16, FUSED | {"activation_memory": 1}, marks=slow),
        pytest.param(
            {}, {"offload": BLOCKS | {"blocks_per_group": 2, "use_stream": False}, "ema_device": "cpu"}, marks=slow
        ),
        pytest.param(BF16, {"offload": BLOCKS, "activation_memory": "auto"}, marks=slow),
    ],
    ids=str,
)
def test_the_run_is_the_same_to_the_byte_and_resumes_without_the_setting(
    lab: Lab, run: dict[str, Any], settings: dict[str, Any]
) -> None:
    plain = STRAIGHT | run
    straight = lab.train("straight", **plain)
    saving = lab.train("saving", **plain | settings)
    lab.assert_same(straight, saving)
    longer = {"max_steps": 6}
    lab.assert_same(lab.train("straight", **plain | settings | longer), lab.train("saving", **plain | longer))


def _train_and_note_memory(job: Job[TrainSpec]) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # forget the parent's peak
    peak = PeakMemory(torch.device("cpu"))
    train(job)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = [type(found).__name__ for found in gc.get_objects() if isinstance(found, torch.nn.Module)]
    noted = {"before": peak._before, "peak": int(status["VmHWM"].split()[0]) * 1024, "held": sorted(set(held))}
    job.path.with_suffix(".noted").write_text(json.dumps(noted))


@slow
def test_text_encoder_and_vae_are_never_in_the_trainers_memory(lab: Lab, tmp_path: Path) -> None:
    """Their weights are files of zeros here, larger than all that training needs: loading them fails or is seen."""
    model = tmp_path / "model"
    shutil.copytree(lab.model, model)
    for path in [*model.glob("vae/*.safetensors"), *model.glob("text_encoder/*.safetensors")]:
        path.write_bytes(b"")
        os.truncate(path, LARGE)
    lab.model = model
    job = lab.job("lean", max_steps=2, eval_every=1, offload=BLOCKS, activation_memory=0)
    lab.run(job, _train_and_note_memory)
    exported = TrainResult.load(result_path(job.path)).files
    assert sum(info.num_bytes == LARGE for info in exported.values()) == 2  # they are in the export all the same
    noted = json.loads(job.path.with_suffix(".noted").read_text())
    assert "SanaVideoTransformer3DModel" in noted["held"]
    assert not [name for name in noted["held"] if "Gemma" in name or "Autoencoder" in name]
    assert noted["peak"] - noted["before"] < LARGE
