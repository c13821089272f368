"""The exports of a training: stock diffusers loads each, and the stage fails where one computes something else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sana.errors import SanaError
from sana.runtime.launcher import result_path
from sana.runtime.results import TrainResult
from sana.workers.train import train
from tests.training_lab import Lab
from tests.training_store import build_encoded

pytestmark = pytest.mark.timeout(120)

LORA = {"name": "lora", "rank": 2, "alpha": 5.0, "targets": ["self_attention", "feed_forward"]}
PEFT, COMFYUI = "model/pytorch_lora_weights.safetensors", "model/comfyui/sana_video_lora.safetensors"
MERGED = "model/merged/transformer/diffusion_pytorch_model.safetensors"
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "full, bf16": {"mixed_precision": "bf16"},
    "full, bf16 weights": {"mixed_precision": "bf16", "weights_dtype": "bf16", "optimizer": {"name": "adamw_bf16"}},
    "lora": {"method": LORA},
    "lora, bf16": {"method": LORA, "mixed_precision": "bf16"},
    "full, frozen": {"frozen": ["*.attn1.*"], "mixed_precision": "bf16"},
    "lora, frozen A": {"method": LORA, "frozen": ["*.lora_A.weight"]},
    "lora, fp8_cast": {"method": LORA, "base_weights": "fp8_cast"},
    "dora": {"method": {**LORA, "use_dora": True}},
    "dora, bf16": {"method": {**LORA, "use_dora": True}, "mixed_precision": "bf16"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("exports")
    return Lab(build_encoded(folder / "root"), folder / "lab", tiny_model)


def trained(lab: Lab, way: str) -> TrainResult:
    settings = {"max_steps": 2, "learning_rate": 1e-2, "eval_every": 0, **WAYS[way]}
    job = lab.job(f"exports-{lab.runs}", **settings)
    train(job)
    return TrainResult.load(result_path(job.path), repair_hint="")


_ALWAYS = ("full, bf16 weights", "lora, bf16", "dora")


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=() if way in _ALWAYS else pytest.mark.slow(group="exports")) for way in WAYS]
)
def test_each_export_gives_the_velocity_that_was_trained(lab: Lab, way: str) -> None:
    trained(lab, way)
    found = lab.passport()
    print(
        way,
        [(c.layout, c.difference, c.strict_difference, c.strict_bound, c.bound) for c in found.checks],
        found.effect,
    )
    if "method" not in WAYS[way]:
        assert [check.layout for check in found.checks] == ["diffusers"] and found.effect is None
        assert found.checks[0].is_bit_equal
        return
    is_dora = "dora" in way
    assert [check.layout for check in found.checks] == (
        ["peft", "merged"] if is_dora else ["peft", "comfyui", "merged"]
    )
    assert set(found.not_exported) == ({"comfyui"} if is_dora else set())
    assert found.effect is not None and found.effect > 1e-3
    for one in found.checks:
        assert one.strict_difference is not None and one.strict_difference < 1e-6
        assert one.is_bit_equal == (one.layout != "merged" and way not in ("dora, bf16", "lora, fp8_cast"))


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def scaled(end: str, factor: float) -> Callable[[Path], None]:
    """Multiply the tensors of a file whose names end so."""

    def change(path: Path) -> None:
        tensors = load_file(path)
        changed = {name: tensor * factor if name.endswith(end) else tensor for name, tensor in tensors.items()}
        assert any(not torch.equal(changed[name], tensors[name]) for name in tensors)
        save_file(changed, path, metadata=header(path))

    return change


def other_alpha(path: Path) -> None:
    metadata = header(path)
    settings = json.loads(metadata["lora_adapter_metadata"])
    metadata["lora_adapter_metadata"] = json.dumps({**settings, "transformer.lora_alpha": 2})
    save_file(load_file(path), path, metadata=metadata)


def no_metadata(path: Path) -> None:
    save_file(load_file(path), path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def renamed(path: Path) -> None:
    found: dict[str, Tensor] = {name.replace("transformer.", "unet."): t for name, t in load_file(path).items()}
    save_file(found, path, metadata=header(path))


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "alpha of the header": (PEFT, other_alpha, "the export model/pytorch_lora_weights.safetensors.* off by 0.00"),
    "no metadata": (PEFT, no_metadata, "the export model/pytorch_lora_weights.safetensors"),
    "other names": (PEFT, renamed, "the export model/pytorch_lora_weights.safetensors"),
    "a scaled matrix": (PEFT, scaled("attn1.to_q.lora_B.weight", 1.5), "off by .* allowed is 0.0"),
    "ComfyUI's alpha": (COMFYUI, scaled(".alpha", 0.4), "the export model/comfyui/.* does not give what was trained"),
    "a merged weight": (MERGED, scaled("to_v.weight", 1.05), "the export model/merged/transformer.* does not give"),
    "a cut file": (PEFT, cut, "diffusers cannot load .*pytorch_lora_weights.safetensors"),
    "a cut merged file": (MERGED, cut, "diffusers cannot load .*merged"),
}


@pytest.fixture(scope="module")
def lora(lab: Lab) -> TrainResult:
    return trained(lab, "lora, bf16")


@pytest.mark.parametrize("case", DAMAGE)
def test_an_export_that_computes_something_else_is_named(lab: Lab, lora: TrainResult, case: str) -> None:
    name, damage, said = DAMAGE[case]
    path = lab.path(lora.files[name].key)
    whole = path.read_bytes()
    try:
        damage(path)
        with pytest.raises(SanaError, match=said) as error:
            lab.passport()
    finally:
        path.write_bytes(whole)
    [out] = lab.last_job.parent.glob("*.passport")
    assert "\n" not in str(error.value) and not list(out.iterdir())
    out.rmdir()
