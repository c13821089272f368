"""Where and what is published is checked when the config is read; a card is text that the hub takes."""

from dataclasses import replace

import pytest
import yaml

from sana.artifact import Artifact, FileInfo
from sana.config.load import load_config
from sana.counts import Counts
from sana.delivery.model_card import Card, DatasetLine, LossLine, Shape, render, snippet
from sana.errors import ConfigError
from sana.stages.bodies.publication import exported_files
from tests.hub_uploads import wrong_metadata

CARD = Card(
    title="Bunny",
    description="About | it.",
    load_from="labs/bunny",
    load_revision="",
    on_hub=True,
    is_adapter=False,
    has_merged=False,
    base_model="Efficient/Sana-Video",
    base_revision="0" * 40,
    base_license="NVIDIA licence",
    license="other",
    license_name="my licence",
    license_link="https://example.com/licence",
    tags=["lora", "bunny"],
    datasets=[DatasetLine("clips", "", ""), DatasetLine("films", "hf://datasets/labs/films", "CC BY 4.0")],
    training={"steps": "4", "odd | cell": "two\nlines"},
    losses=[LossLine("initial", 1.5, 0.25), LossLine("ema", 0.5, None, -1.0, None)],
    num_eval_samples=3,
    prompts={"a": 'it\'s "quoted"\nand \\ more', "b": "second"},
    videos={"a": "a.mp4", "b": "b.mp4"},
    shape=Shape(832, 480, 81, 50, 6.0, 16.0, 0, "blurry"),
    checkpoints=(2,),
)


@pytest.mark.parametrize(
    "override, says",
    [
        ("publish.to=hf://bunny", "names no model repository: write hf://owner/name"),
        ("publish.to=hf://datasets/labs/bunny", "names no model repository"),
        ("publish.to=https://huggingface.co/labs/bunny", "is neither hf://owner/name, s3://bucket/prefix nor a folder"),
        ("publish.to=s3://key:sEcReT@bucket/x", "holds a password"),
        ("publish={to: out, license: Apache 2.0}", "is no identifier of the hub's"),
        ("publish={to: out, license: other}", "needs license_name and license_link"),
        ("publish={to: out, license: mit, license_name: x}", "are for license: other"),
        ("publish={to: out, licenses: {nobody: mit}}", "publish.licenses names 'nobody', and data sets are demo"),
        ("publish={to: out, extra_files: {../x: /y}}", "is no name of a file in a repository"),
        ("publish={to: out, extra_files: {README.md: /y}}", "is made by the stage itself"),
        ("publish={to: out, base_model: /models/sana}", "publish.base_model: must be the id of a model on the hub"),
        ("publish.to=.sana/store", "publish.to .sana/store is in root .sana/store"),
        ("publish.to=.sana/store/../store/out", "is in root .sana/store"),
        ("publish={what: final}", "publish.to: missing"),
        ("publish={to: out, token: hf_x}", "publish.token: unknown key"),
    ],
)
def test_a_wrong_publication_is_said_when_the_config_is_read(override: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("configs/demo.yaml", [override])
    assert says in str(error.value) and "sEcReT" not in str(error.value)


@pytest.mark.parametrize(
    "changes, wants",
    [
        ({}, {"base_model_relation": "finetune", "datasets": ["labs/films"], "license_name": "my licence"}),
        (
            {"is_adapter": True},
            {"base_model_relation": "adapter", "tags": ["sana-video", "text-to-video", "lora", "bunny"]},
        ),
        ({"is_adapter": True, "has_merged": True}, {"base_model_relation": "adapter"}),
        ({"base_model": ""}, {"base_model": None, "base_model_relation": None}),
        ({"license": None, "license_name": None, "license_link": None}, {"license": None}),
        ({"datasets": [], "videos": {}, "losses": (), "checkpoints": ()}, {"datasets": None, "widget": None}),
    ],
)
def test_the_metadata_of_a_card_is_what_the_hub_takes(changes: dict, wants: dict) -> None:
    text = render(replace(CARD, **changes))
    assert wrong_metadata(text) == []
    data = yaml.safe_load(text.split("---\n")[1])
    assert data["pipeline_tag"] == "text-to-video" and data["library_name"] == "diffusers"
    assert {name: data.get(name) for name in wants} == wants


@pytest.mark.parametrize("is_adapter", [True, False])
@pytest.mark.parametrize("revision", ["", "step-00000002"])
def test_the_snippet_is_python_whatever_a_prompt_holds(is_adapter: bool, revision: str) -> None:
    code = snippet(replace(CARD, is_adapter=is_adapter, load_revision=revision))
    compile(code, "card", "exec")
    assert ("load_lora_weights('labs/bunny'" in code) == is_adapter and ("revision=" in code) == bool(revision)


def test_tables_hold_whatever_a_cell_says() -> None:
    text = render(CARD)
    assert "| odd \\| cell | two lines |" in text and "| initial | 1.5000 ± 0.2500 |  |" in text
    assert "| ema | 0.5000 | -1.0000 |" in text and "| this | [my licence](https://example.com/licence) |" in text
    assert "| clips | not public | not stated |" in text and "branches `step-00000002`" in text


WEIGHTS, LORA = "transformer/diffusion_pytorch_model.safetensors", "pytorch_lora_weights.safetensors"
WHOLE = ("model_index.json", WEIGHTS, "vae/config.json")
COMFY = "comfyui/sana_video_lora.safetensors"


@pytest.mark.parametrize(
    "exported, with_merged, published",
    [
        (WHOLE, False, WHOLE),
        ((LORA,), False, (LORA,)),
        ((LORA, COMFY, *(f"merged/{name}" for name in WHOLE)), False, (LORA, COMFY)),
        ((LORA, "merged/model_index.json"), True, (LORA, "merged/model_index.json")),
        (tuple(f"merged/{name}" for name in WHOLE), False, WHOLE),
    ],
)
def test_what_is_published_of_each_export(
    exported: tuple[str, ...], with_merged: bool, published: tuple[str, ...]
) -> None:
    names = [*(f"model/{name}" for name in exported), "passport.json", "metrics.json"]
    files = {name: FileInfo(name, 1, "") for name in names}
    trained = Artifact("train", "f" * 16, 1, {}, {}, {}, Counts.all_kept(1), files)
    assert set(exported_files(trained, with_merged=with_merged)) == {*published, "passport.json"}
