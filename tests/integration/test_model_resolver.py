"""Laws of models in a folder: a digest per component, of content alone, and clear errors about missing files."""

import os
from pathlib import Path

import pytest

from sana.config.encode import ModelConfig
from sana.errors import ConfigError
from sana.model.model_resolver import COMPONENTS, ModelRef, resolve_model

pytestmark = pytest.mark.timeout(60)

FILES = ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "small"
    for component in COMPONENTS:
        (folder / component).mkdir(parents=True)
        for name in FILES:
            (folder / component / name).write_text(f"{component} {name}")
    (folder / "model_index.json").write_text("{}")
    return folder


def resolve(folder: Path | str, tmp_path: Path, *, read_only: bool = False) -> ModelRef:
    return resolve_model(ModelConfig(path=str(folder)), work_dir=tmp_path / "work", read_only=read_only)


def test_digests_depend_on_content_not_on_the_path(model: Path, tmp_path: Path) -> None:
    first = resolve(model, tmp_path)
    assert (first.path, first.revision, tuple(first.digests)) == (str(model), None, COMPONENTS)
    assert len(set(first.digests.values())) == len(COMPONENTS)
    moved = model.rename(tmp_path / "elsewhere")
    assert resolve(moved, tmp_path).digests == first.digests
    for path in moved.rglob("*"):
        os.utime(path)
    (moved / "vae/README.md").write_text("# words")
    (moved / "vae/.cache").write_text("hidden")
    assert resolve(moved, tmp_path).digests == first.digests


@pytest.mark.parametrize("component", COMPONENTS)
def test_a_change_changes_the_digest_of_its_component_only(model: Path, tmp_path: Path, component: str) -> None:
    before = resolve(model, tmp_path).digests
    (model / component / FILES[1]).rename(model / component / "model-00003-of-00003.safetensors")
    after = resolve(model, tmp_path).digests
    assert [name for name in COMPONENTS if before[name] != after[name]] == [component]


def test_a_folder_of_symlinks_has_the_digests_of_its_content(model: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    for path in model.rglob("*.*"):
        link = linked / path.relative_to(model)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path)
    assert resolve(linked, tmp_path).digests == resolve(model, tmp_path).digests


def test_relative_and_home_paths_are_folders_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve("models/small", tmp_path).path == str(model)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/models/small", tmp_path).path == str(model)


def test_missing_files_are_named(model: Path, tmp_path: Path) -> None:
    (model / "model_index.json").unlink()
    for name in FILES:
        (model / "vae" / name).unlink()
    with pytest.raises(ConfigError, match=r"model_index\.json, vae/.*sana make-tiny-model OUT"):
        resolve(model, tmp_path)


@pytest.mark.parametrize("path", ["./nothing", "nothing", "/no/such/folder", "a/b/c", "../x", "http://host/x", "a/.."])
def test_a_path_that_is_neither_a_folder_nor_a_hub_id_is_an_error(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="neither a folder nor a Hugging Face id"):
        resolve(path, tmp_path)


def test_read_only_writes_nothing(model: Path, tmp_path: Path) -> None:
    digests = resolve(model, tmp_path, read_only=True).digests
    assert not (tmp_path / "work").exists()
    assert resolve(model, tmp_path).digests == digests
