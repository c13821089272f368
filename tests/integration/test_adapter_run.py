"""A LoRA as the train stage commits it: its exports, their passport, and what copies, verifies and samples them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaVideoPipeline
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flows.display.show import exports_of, stage_lines
from sana.artifact import Artifact, find
from sana.context import Context
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.maintenance.copy import copy_root
from sana.maintenance.export_model import export_model
from sana.maintenance.object_graph import read_object_graph
from sana.maintenance.verify import verify
from sana.model.adapters.stock_loading import load_comfyui_layout
from sana.model.pipeline import sample_video
from sana.model.text import TextEncoder
from sana.pipeline.plan import inputs_of
from sana.runtime.results import Passport
from sana.runtime.specs import CheckpointName, ModelSource
from sana.stages import train as stage
from sana.store import LocalStore, open_store
from sana.workers.sample import load_trained
from tasks.tracking.values import linked_files, metrics, small_files
from tests.integration.test_sampling import CLIP, SETTINGS, stock_sample
from tests.pipeline_runs import Outcome, Place, inline_workers, run_stages
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(200)

LORA = (
    "train.max_steps=2",
    "train.learning_rate=0.3",
    "train.mixed_precision=fp32",
    "train.base_check=off",
    "train.method.name=lora",
    "train.method.rank=2",
    "train.method.alpha=64",
    "train.method.targets=[self_attention,feed_forward]",
)
PEFT = "model/pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def lora(trained: tuple[Place, Outcome], tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Artifact]:
    """The demo with a LoRA, up to train; read only."""
    import shutil

    folder = tmp_path_factory.mktemp("lora")
    shutil.copytree(trained[0].root, folder / "root")
    place = Place(trained[0].folder, trained[0].model, str(folder / "root"))
    with inline_workers():
        return place, run_stages(place.context(*LORA), last="train")["train"]


def test_the_artifact_says_what_was_exported_and_checked(lora: tuple[Place, Artifact]) -> None:
    place, made = lora
    store = LocalStore(place.root)
    assert exports_of(made) == ("peft", "comfyui", "merged")
    facts = TrainFacts.of(made)
    passport = Passport.from_json(store.read(made.files["passport.json"].key), where="passport")
    assert facts.passport == {check.layout: check.difference for check in passport.checks}
    assert facts.passport["peft"] == facts.passport["comfyui"] == 0.0 and facts.passport["merged"] < 1e-5
    assert "passport.json" in small_files(made) and PEFT in linked_files(made, store)
    assert metrics(made)["passport.merged"] == facts.passport["merged"]
    said = "\n".join(stage_lines("train", made, store, ""))
    assert "trained adapter: " in said and "peft bit-equal, comfyui bit-equal, merged off by" in said
    with safe_open(store.local_path(made.files[PEFT].key), framework="pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
    assert settings["transformer.r"] == 2 and settings["transformer.lora_alpha"] == 64


def test_every_export_samples_the_video_of_our_own_sampler(lora: tuple[Place, Artifact]) -> None:
    place, made = lora
    config, facts = place.config(*LORA), TrainFacts.of(made)
    encoder = TextEncoder.load(str(place.model), dtype=torch.float32)
    embeds = {
        "prompt_embeds": encoder.encode(["a red ball"], template="video")[0].tokens,
        "negative_embeds": encoder.encode([""], template="none")[0].tokens,
    }
    checkpoint = CheckpointName(facts.trajectory, facts.step)
    ours = load_trained(config, open_store(place.root), ModelSource(str(place.model), None), checkpoint)
    video = sample_video(ours, **embeds, **CLIP, **SETTINGS)  # type: ignore[arg-type]
    folder = Path(place.root, facts.model)

    base = SanaVideoPipeline.from_pretrained(str(place.model))
    before = (stock_sample(base, embeds, length=None) * 255).round()
    base.load_lora_weights(str(folder))
    found = {"peft": stock_sample(base, embeds, length=None)}
    base.unload_lora_weights()
    load_comfyui_layout(base, folder / "comfyui/sana_video_lora.safetensors")
    found["comfyui"] = stock_sample(base, embeds, length=None)
    found["merged"] = stock_sample(SanaVideoPipeline.from_pretrained(str(folder / "merged")), embeds, length=None)
    assert np.array_equal(found["peft"], found["comfyui"])
    for layout, sampled in found.items():
        assert np.abs((sampled * 255).round() - video).max() <= 1, layout  # one step of rounding, as of full training
    assert np.abs(before - video).max() > 1


def test_copies_verify_and_export_know_its_files(lora: tuple[Place, Artifact], tmp_path: Path, s3: WeedServer) -> None:
    place, made = lora
    source, back = LocalStore(place.root), LocalStore(str(tmp_path / "back"))
    remote = open_store(f"s3://{s3.bucket}/adapter")
    copy_root(source, remote, stages={"train"})
    copy_root(remote, back, stages={"train"}, staging=tmp_path)
    assert not verify(back, deep=True).problems
    links = read_object_graph(back).links()
    folder = TrainFacts.of(made).model
    assert f"{folder}/merged/model_index.json" in links and not any("passport" in name for name in links)
    for store, name in ((remote, "of s3"), (back, "of disk")):
        target = tmp_path / name
        export_model(store, made, LocalStore(str(target)), layout="merged", staging=tmp_path)
        SanaVideoPipeline.from_pretrained(str(target))
    everything = tmp_path / "all"
    export_model(back, made, LocalStore(str(everything)))
    assert {path.name for path in everything.iterdir()} == {"pytorch_lora_weights.safetensors", "comfyui", "merged"}
    with pytest.raises(SanaError, match="already holds"):
        export_model(back, made, LocalStore(str(everything)), layout="peft")


@pytest.fixture
def flipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Give each adapter, before it is checked, the alpha of another training; the names of what was changed."""
    done: list[str] = []
    run_worker = stage.run_worker

    def run(context: Context, *args: object, **settings: object) -> Path:
        job = run_worker(context, *args, **settings)  # type: ignore[arg-type]
        for path in Path(context.store.root).glob(f"train/*/*/{PEFT}"):
            with safe_open(path, framework="pt") as file:
                metadata = dict(file.metadata())
            metadata["lora_adapter_metadata"] = metadata["lora_adapter_metadata"].replace('alpha": 64', 'alpha": 32')
            save_file(load_file(path), path, metadata=metadata)
            done.append(str(path))
        return job

    monkeypatch.setattr(stage, "run_worker", run)
    yield done


def test_an_export_with_another_alpha_fails_the_stage_and_nothing_is_committed(
    place: Place, flipped: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = place.context(*LORA)
    with inline_workers():
        with pytest.raises(SanaError, match=r"the export model/pytorch_lora.* off by \d.*allowed is 1e-06"):
            run_stages(context, last="train")
        assert len(flipped) == 1
        recipe = stage.recipe(context, inputs_of(context, "train"))
        assert find(context.store, recipe) is None
        monkeypatch.undo()
    without = ("train.resources.check_exports=false", "train.resources.export_merged=false")
    with inline_workers():
        made = run_stages(place.context(*LORA, *without), last="train")["train"]  # from its last checkpoint
    assert exports_of(made) == ("peft", "comfyui") and "passport.json" not in made.files
    assert "sana lora merge" in TrainFacts.of(made).not_exported["merged"] and not TrainFacts.of(made).passport
    assert find(context.store, recipe) is not None
