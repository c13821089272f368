"""The encoder of features: in a folder, on a hub or offline; what is missing or closed is told before a download."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from sana.config.encode import EncodeFeaturesConfig
from sana.config.load import load_config
from sana.context import Context
from sana.errors import ConfigError, SanaError
from sana.model.features.dinov2 import FeatureEncoder
from sana.model.features.encoder_files import EncoderRef, resolve_encoder
from sana.model.random import philox_uniform
from sana.pipeline.plan import preflight
from sana.store import open_store
from tests.hub_server import HubServer
from tests.hub_sources import go_offline
from tests.pipeline_runs import ROOT

pytestmark = pytest.mark.timeout(60)

REPO = "models/meta/dino"
CONFIG = json.dumps({"model_type": "dinov2", "hidden_size": 1536, "patch_size": 14}).encode()
FILES = {"config.json": CONFIG, "model.safetensors": b"weights" * 1000, "README.md": b"# a"}


def resolve(encoder: str | Path, tmp_path: Path, **config: str) -> EncoderRef:
    return resolve_encoder(EncodeFeaturesConfig(encoder=str(encoder), **config), work_dir=tmp_path / "work")


def test_a_folder_has_the_digest_of_its_config_and_weights(tiny_encoder: Path, tmp_path: Path) -> None:
    first = resolve(tiny_encoder, tmp_path)
    assert (first.source.path, first.source.revision, first.sizes.hidden_size) == (str(tiny_encoder), None, 16)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_encoder, copy)
    (copy / "README.md").write_text("# words")
    assert resolve(copy, tmp_path).digest == first.digest
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"x")
    assert resolve(copy, tmp_path).digest != first.digest


def test_weights_of_an_older_checkpoint_are_read_too(tiny_encoder: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    shutil.copy(tiny_encoder / "config.json", old)
    torch.save(load_file(tiny_encoder / "model.safetensors"), old / "pytorch_model.bin")
    assert resolve(old, tmp_path).digest != resolve(tiny_encoder, tmp_path).digest
    frames = (255 * philox_uniform([2, 28, 28, 3], key=("frames",))).to(torch.uint8)
    found = [
        FeatureEncoder.load(str(path), revision=None, precision="fp32", device=torch.device("cpu")).encode(
            frames, size=(28, 28), grid=(2, 2), at_once=2
        )
        for path in (tiny_encoder, old)
    ]
    assert torch.equal(*found)


def test_a_hub_encoder_is_a_commit_and_no_weight_is_read(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(REPO, FILES)
    found = resolve("meta/dino", tmp_path)
    assert (found.source.path, found.source.revision, found.sizes.hidden_size) == ("meta/dino", commit, 1536)
    assert not [request for request in hub.requests if request.startswith("GET") and "safetensors" in request]
    hub.publish(REPO, {**FILES, "model.safetensors": b"others"})
    assert resolve("meta/dino", tmp_path).digest != found.digest
    assert resolve("meta/dino", tmp_path, revision=commit) == found
    go_offline(monkeypatch)
    with pytest.raises(ConfigError, match=r"encode_features.encoder: .*hf download meta/dino"):
        resolve("meta/dino", tmp_path, revision=commit)


def test_offline_a_copy_of_the_hugging_face_cache_does(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(REPO, FILES)
    huggingface_hub.snapshot_download("meta/dino", endpoint=hub.endpoint, max_workers=1)
    online = resolve("meta/dino", tmp_path / "elsewhere")
    go_offline(monkeypatch)
    assert resolve("meta/dino", tmp_path) == online


def _gated(hub: HubServer) -> None:
    hub.publish(REPO, FILES)
    hub.gated = True


def _without(name: str) -> Callable[[HubServer], None]:
    return lambda hub: (hub.publish(REPO, {n: d for n, d in FILES.items() if n != name}), None)[1]


def _config(text: bytes) -> Callable[[HubServer], None]:
    return lambda hub: (hub.publish(REPO, {**FILES, "config.json": text}), None)[1]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda _: None, "meta/dino does not exist.*HF_TOKEN"),
        (_gated, "meta/dino is closed.*HF_TOKEN"),
        (_without("model.safetensors"), "lacks a .safetensors file or pytorch_model.bin"),
        (_without("config.json"), "lacks config.json"),
        (_config(b'{"model_type": "clip", "hidden_size": 8}'), "model_type is 'clip'.*must be a dinov2"),
        (_config(b'{"model_type": "dinov2"}'), "sizes cannot be read"),
        (_config(b"{"), "is no JSON"),
        (_config(b"[]"), "is no JSON object"),
    ],
)
def test_what_is_wrong_is_one_error(
    hub: HubServer, tmp_path: Path, prepare: Callable[[HubServer], None], message: str
) -> None:
    prepare(hub)
    with pytest.raises(SanaError, match=message):
        resolve("meta/dino", tmp_path)


@pytest.mark.parametrize("encoder", ["./nothing", "nothing", "a/b/c"])
def test_a_name_that_is_neither(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="encode_features.encoder .* is neither a folder nor a Hugging Face id"):
        resolve(encoder, tmp_path)


def _preflight(tmp_path: Path, tiny_model: Path, *overrides: str) -> None:
    places = [f"root={tmp_path / 'root'}", f"work_dir={tmp_path / 'work'}", f"model.path={tiny_model}"]
    config = load_config(ROOT / "configs/demo.yaml", [*places, *overrides])
    preflight(Context(config, open_store(config.root), Path(config.work_dir)))


def test_all_of_it_is_looked_at_before_anything_runs(
    tiny_model: Path, tiny_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    nowhere = f"encode_features.encoder={tmp_path / 'nowhere'}"
    _preflight(tmp_path, tiny_model, nowhere)  # without train.crepa nothing looks at it
    with pytest.raises(SanaError) as found:
        _preflight(tmp_path, tiny_model, nowhere, "train.crepa={}")
    text = str(found.value)
    assert "encode_features.encoder" in text and "is neither a folder" in text
    assert "train.crepa.block_index is 10, and the blocks of" in text and "are 0 to 1" in text
    _preflight(tmp_path, tiny_model, f"encode_features.encoder={tiny_encoder}", "train.crepa.block_index=1")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encode_features.short_side=500"], "encode_features.short_side.*14"),
        (["train.crepa={weight: 0.1, schedule: {name: linear, decay_steps: 5, end_weight: 0.2}}"], "end_weight"),
        (["train.crepa.schedule={name: linear}"], "decay_steps"),
        (["train.crepa.schedule={name: constant, decay_steps: 5}"], "decay_steps"),
        (
            ["train.crepa={}", "train.init_from=a@1", "train.init_weights=live", "train.init_optimizer=true"],
            "projector",
        ),
    ],
)
def test_settings_that_cannot_hold_are_found_at_load(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(ROOT / "configs/demo.yaml", overrides)
