"""`sana lora extract` and `sana lora merge`: there and back, and what is refused, each in one line."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import SanaVideoPipeline
from safetensors.torch import load_file, save_file

from flows.cli.main import main
from sana.config.training.adapter_names import TARGET_GROUPS, adapter_targets
from sana.config.training.method import LoraMethod
from sana.model.adapters.layouts import comfyui_tensors, read_adapter
from sana.model.adapters.merge import merge_into
from sana.model.transformer import load_transformer
from sana.progress import Report
from sana.runtime import tool
from sana.runtime.command_specs import LoraExtractSpec, LoraMergeSpec
from sana.runtime.specs import Spec
from sana.workers.commands.lora import extract_adapter, merge
from tests.numerics.test_adapter_layouts import adapter_for
from tests.numerics.test_lora import velocity

pytestmark = pytest.mark.timeout(120)

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
ALL = tuple(TARGET_GROUPS)
BODIES: dict[type[Spec], Callable[[Any, Path, Report], None]] = {
    LoraMergeSpec: merge,
    LoraExtractSpec: extract_adapter,
}


@pytest.fixture(autouse=True)
def _in_this_process(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run the worker's body here: a process of its own takes ten seconds."""

    def run_tool(spec: Spec, *, work_dir: Path, report: Report) -> Path:
        path = work_dir / "job.json"
        work_dir.mkdir(parents=True, exist_ok=True)
        BODIES[type(spec)](spec, path, report)
        return path

    with pytest.MonkeyPatch.context() as patch:
        if "process" not in request.node.name:
            patch.setattr(tool, "run_tool", run_tool)
        yield


def sana(*args: str, work_dir: Path) -> int:
    try:
        main(["lora", *args, "--work-dir", str(work_dir)])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose target layers differ from the tiny one's by products of rank 4, and one bias by itself."""
    folder = tmp_path_factory.mktemp("tuned") / "model"
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / WEIGHTS)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    merge_into(weights, adapter_for(shapes, LoraMethod(name="lora", rank=4, alpha=2, targets=ALL)))
    weights["proj_out.bias"] = weights["proj_out.bias"] + 1e-3
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_extracted_and_merged_again_is_the_model(
    tiny_model: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora, merged = tmp_path / "lora", tmp_path / "merged"
    before = {path: path.stat().st_mtime_ns for path in tiny_model.rglob("*")}
    assert sana("extract", str(tuned), str(tiny_model), "--rank", "4", "--to", str(lora), work_dir=tmp_path / "w") == 0
    said = capsys.readouterr().out
    assert "rank 4 beside 22 layers" in said and "it has 100.0% of the squared change" in said
    assert "in 1 other tensors" in said
    found = json.loads((lora / "extract.json").read_bytes())
    assert found["captured"] == pytest.approx(1, abs=1e-6) and set(found["energy"]) == set(
        adapter_targets(LoraMethod(name="lora", targets=ALL), shapes_of(tiny_model))
    )
    assert found["model_velocity"] > 0.05 and found["adapter_velocity"] < 0.1 * found["model_velocity"]

    comfyui = lora / "comfyui/sana_video_lora.safetensors"
    for name, adapter in (("merged", lora), ("from comfyui", comfyui)):
        out = tmp_path / name
        assert sana("merge", str(tiny_model), str(adapter), "--to", str(out), work_dir=tmp_path / "w") == 0
        weights, wanted = load_file(out / WEIGHTS), load_file(tuned / WEIGHTS)
        wanted["proj_out.bias"] = load_file(tiny_model / WEIGHTS)["proj_out.bias"]
        assert weights.keys() == wanted.keys()
        for key in wanted:
            torch.testing.assert_close(weights[key], wanted[key], rtol=0, atol=2e-6)
    assert {path.relative_to(merged).as_posix() for path in merged.rglob("*") if path.is_file()} == {
        path.relative_to(tiny_model).as_posix() for path in tiny_model.rglob("*") if path.is_file()
    }
    assert before == {path: path.stat().st_mtime_ns for path in tiny_model.rglob("*")}

    pipe = SanaVideoPipeline.from_pretrained(str(tiny_model), text_encoder=None, tokenizer=None)
    pipe.load_lora_weights(str(lora))
    whole = SanaVideoPipeline.from_pretrained(str(merged), text_encoder=None, tokenizer=None)
    beside, inside = velocity(pipe.transformer), velocity(whole.transformer)
    torch.testing.assert_close(beside, inside, rtol=0, atol=5e-6 * float(inside.abs().max()))


def shapes_of(model: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in load_file(model / WEIGHTS).items()}


def test_a_lower_rank_has_the_largest_singular_values(tiny_model: Path, tuned: Path, tmp_path: Path) -> None:
    lora = tmp_path / "lora"
    args = ("extract", str(tuned), str(tiny_model), "--rank", "2", "--targets", "attn1.to_q", "--to", str(lora))
    assert sana(*args, work_dir=tmp_path) == 0
    found = json.loads((lora / "extract.json").read_bytes())
    a, b = load_file(tuned / WEIGHTS), load_file(tiny_model / WEIGHTS)
    assert len(found["energy"]) == 2 and found["num_left_out"] == 20 + 1
    for layer, share in found["energy"].items():
        values = torch.linalg.svdvals((a[f"{layer}.weight"] - b[f"{layer}.weight"]).double()).square()
        assert share == pytest.approx(float(values[:2].sum() / values.sum())) and share < 0.99
    [first, *_] = read_adapter(lora, shapes_of(tiny_model)).values()
    assert first.rank == 2 and first.scale == 1.0


def test_a_scale_multiplies_what_the_adapter_adds(tiny_model: Path, tmp_path: Path) -> None:
    shapes = shapes_of(tiny_model)
    adapter = adapter_for(shapes, LoraMethod(name="lora", rank=2, alpha=1, targets=("feed_forward",)))
    save_file(comfyui_tensors(adapter), tmp_path / "a.safetensors")
    args = ("merge", str(tiny_model), str(tmp_path / "a.safetensors"), "--scale", "-0.5", "--dtype", "bf16")
    assert sana(*args, "--to", str(tmp_path / "out"), work_dir=tmp_path / "w") == 0
    found, base = load_file(tmp_path / "out" / WEIGHTS), load_file(tiny_model / WEIGHTS)
    for name, layer in adapter.items():
        weight = base[f"{name}.weight"]
        wanted = weight - 0.25 * (layer.b.flatten(1) @ layer.a.flatten(1)).view_as(weight)
        torch.testing.assert_close(found[f"{name}.weight"], wanted.bfloat16())
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert load_transformer(str(tmp_path / "out"), dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def broken(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of what cannot be merged or extracted."""
    folder = tmp_path_factory.mktemp("broken")
    adapter = adapter_for(shapes_of(tiny_model), LoraMethod(name="lora", rank=2, targets=("self_attention",)))
    good = comfyui_tensors(adapter)
    save_file(good, folder / "good.safetensors")
    (folder / "cut.safetensors").write_bytes((folder / "good.safetensors").read_bytes()[:-50])
    save_file({k.replace("attn1", "self_attn"): t for k, t in good.items()}, folder / "names.safetensors")
    save_file({**good, "diffusion_model.x.lokr_w1": torch.ones(1)}, folder / "lokr.safetensors")
    other = {k: t[..., :3].contiguous() if k.endswith("lora_A.weight") else t for k, t in good.items()}
    save_file(other, folder / "width.safetensors")
    shutil.copytree(tiny_model, folder / "wide")
    weights = load_file(folder / "wide" / WEIGHTS)
    weights["proj_out.bias"] = torch.zeros(3)
    save_file(weights, folder / "wide" / WEIGHTS, metadata={"format": "pt"})
    shutil.copytree(tiny_model, folder / "cut")
    (folder / "cut" / WEIGHTS).write_bytes((tiny_model / WEIGHTS).read_bytes()[:-50])
    (folder / "full").mkdir()
    (folder / "full/mine.txt").write_text("mine")
    return folder


REFUSED: dict[str, tuple[tuple[str, ...], str]] = {
    "missing adapter": (("merge", "{tiny}", "{broken}/none.safetensors"), "there is no adapter"),
    "truncated adapter": (("merge", "{tiny}", "{broken}/cut.safetensors"), "cannot be read as a safetensors file"),
    "names of another model": (("merge", "{tiny}", "{broken}/names.safetensors"), "is an adapter of another model"),
    "widths of another model": (("merge", "{tiny}", "{broken}/width.safetensors"), "of another model, or damaged"),
    "unknown keys": (("merge", "{tiny}", "{broken}/lokr.safetensors"), "keys that are none of a LoRA"),
    "missing base": (("merge", "{broken}/none", "{broken}/good.safetensors"), "there is no folder"),
    "base that is no model": (("merge", "{broken}", "{broken}/good.safetensors"), "has no model_index.json"),
    "truncated base": (("merge", "{broken}/cut", "{broken}/good.safetensors"), "cannot be loaded"),
    "scale": (("merge", "{tiny}", "{broken}/good.safetensors", "--scale", "nan"), "not a finite number"),
    "rank": (("extract", "{tuned}", "{tiny}", "--rank", "999"), "rank 999 is more than"),
    "rank 0": (("extract", "{tuned}", "{tiny}", "--rank", "0"), "--rank"),
    "targets": (("extract", "{tuned}", "{tiny}", "--targets", "attn9.to_q"), "no layer has such a name"),
    "grouped": (("extract", "{tuned}", "{tiny}", "--targets", "ff.conv_depth"), "grouped convolution"),
    "wrong base": (("extract", "{tuned}", "{broken}/wide"), "cannot be loaded"),
    "same": (("extract", "{tiny}", "{tiny}", "--rank", "2"), "there is nothing to extract"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    tiny_model: Path, tuned: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    template, said = REFUSED[case]
    args = [word.format(tiny=tiny_model, tuned=tuned, broken=broken) for word in template]
    out = tmp_path / "out"
    assert sana(*args, "--to", str(out), work_dir=tmp_path / "w") != 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.lower().startswith("error")]
    assert len(lines) == 1 and said in lines[0] and "Traceback" not in lines[0]
    assert not out.exists() and not list(tmp_path.glob(".tmp-*"))


@pytest.mark.parametrize("command", ["merge", "extract"])
def test_nothing_is_overwritten(
    tiny_model: Path, tuned: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    names = [str(tiny_model), str(broken / "good.safetensors")] if command == "merge" else [str(tuned), str(tiny_model)]
    assert sana(command, *names, "--to", str(broken / "full"), work_dir=tmp_path) != 0
    assert "nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in (broken / "full").iterdir()] == ["mine.txt"]


def test_the_worker_is_a_process_whose_error_is_told(
    tiny_model: Path, broken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ("merge", str(tiny_model), str(broken / "cut.safetensors"), "--to", str(tmp_path / "out"))
    assert sana(*args, work_dir=tmp_path / "w") == 1
    assert "cannot be read as a safetensors file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
