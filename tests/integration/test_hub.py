"""Data sets and models on a Hugging Face hub: listings, commits, permissions and failures."""

import hashlib
from pathlib import Path

import pytest

from sana.config.encode import ModelConfig
from sana.data.sources import hub as hub_module
from sana.errors import ConfigError, SanaError
from sana.model.model_resolver import COMPONENTS, resolve_model
from tests.hub_server import HubServer, git_blob
from tests.hub_sources import (
    DATASET,
    FILES,
    MODEL,
    MODEL_FILES,
    cached_files,
    cats,
    read_all,
)
from tests.source_files import digests, listing

pytestmark = pytest.mark.timeout(60)


def test_listing_shows_media_with_the_hubs_own_digests(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.publish(DATASET, FILES)
    source = cats(tmp_path)
    assert [file.path for file in listing(source)] == ["a/one.mp4", "a/one.txt", "two.MP4", "two.txt"]
    identities = {file.path: file.identity for file in listing(source)}
    assert identities["a/one.mp4"] == f"sha256:{hashlib.sha256(FILES['a/one.mp4']).hexdigest()}"
    assert identities["two.MP4"] == f"git:{git_blob(FILES['two.MP4'])}"
    assert all(source.digest(file) == file.identity for file in listing(source))
    assert source.revision == commit
    assert hub.count("GET /datasets") == 0, "a listing reads no file"


def test_a_long_listing_comes_in_pages(hub: HubServer, tmp_path: Path) -> None:
    hub.page_size = 7
    hub.publish(DATASET, {f"{i:03}.mp4": b"x" * i for i in range(40)})
    assert [file.num_bytes for file in listing(cats(tmp_path))] == list(range(40))


def test_a_moved_branch_is_seen_and_a_readme_changes_no_clip(hub: HubServer, tmp_path: Path) -> None:
    first = hub.publish(DATASET, FILES)
    before = cats(tmp_path)
    digest = before.listing_digest()
    second = hub.publish(DATASET, {**FILES, "README.md": b"# more cats", "notes.txt": b"other notes"})
    moved = cats(tmp_path)
    assert (moved.revision, digests(moved)) == (second, digests(before))
    assert moved.unused_files.column("path").to_pylist() == ["README.md", "notes.txt"]
    assert moved.listing_digest() != digest, "its counts are written down"
    hub.publish(DATASET, {**FILES, "a/one.mp4": b"changed"})
    assert cats(tmp_path).listing_digest() != digest
    assert cats(tmp_path, revision=first).listing_digest() == digest, "a commit stays what it was"
    assert before.listing_digest() == digest, "a Source keeps the listing it made"
    hub.publish(DATASET, FILES, branch="refs/pr/1")
    assert cats(tmp_path, revision="refs/pr/1").listing_digest() == digest


def test_a_file_that_changed_since_it_was_listed_is_not_opened(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    old = {file.path: file.identity for file in listing(cats(tmp_path))}
    hub.publish(DATASET, {**FILES, "a/one.mp4": b"changed"})
    now = cats(tmp_path)
    with pytest.raises(SanaError, match="not what was listed"), now.open_video("a/one.mp4", digest=old["a/one.mp4"]):
        pass
    with now.open_video("two.MP4", digest=old["two.MP4"]) as path:
        assert path.read_bytes() == FILES["two.MP4"]


@pytest.mark.parametrize("secret", [None, "hf_thisIsASecret"])
def test_missing_permission_is_one_error_with_the_page_and_no_token(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, secret: str | None
) -> None:
    hub.publish(DATASET, FILES)
    hub.publish(MODEL, MODEL_FILES)
    if secret:
        monkeypatch.setenv("HF_TOKEN", secret)
    hub.token = "hf_another"
    with pytest.raises(ConfigError) as private:
        listing(cats(tmp_path))
    hub.token, hub.gated = None, True
    with pytest.raises(ConfigError) as gated:
        listing(cats(tmp_path))
    with pytest.raises(ConfigError) as model:
        resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path / "work")
    for error, page in ((private, "datasets/films/cats"), (gated, "datasets/films/cats"), (model, "labs/video")):
        assert f"{hub.endpoint}/{page}" in str(error.value)
        assert "HF_TOKEN" in str(error.value) and "licence" in str(error.value)
        assert "hf_" not in str(error.value)
        assert str(error.value).startswith("download.datasets[d]: ") == (error is not model)
    assert cached_files(tmp_path) == []


def test_the_token_gives_access_to_a_private_data_set(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(DATASET, FILES)
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert len(read_all(cats(tmp_path))) == 4


def test_a_missing_repository_or_revision_is_a_config_error(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="films/cats does not exist"):
        listing(cats(tmp_path))
    hub.publish(DATASET, FILES)
    with pytest.raises(ConfigError, match="no revision 'v9'"):
        listing(cats(tmp_path, revision="v9"))
    with pytest.raises(ConfigError, match=f"no commit {'0' * 40}"):
        listing(cats(tmp_path, revision="0" * 40))
    hub.publish(DATASET, {"README.md": b""})
    with pytest.raises(ConfigError, match="no video"):
        listing(cats(tmp_path))


def test_an_unreachable_hub_is_no_config_error_and_shows_no_password(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://user:password@127.0.0.1:1")
    with pytest.raises(SanaError, match="HF_ENDPOINT") as caught:
        listing(cats(tmp_path))
    assert not isinstance(caught.value, ConfigError)
    assert "password" not in str(caught.value)


def test_a_transient_failure_of_the_hub_is_retried(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    hub.failures = [503]
    assert len(listing(cats(tmp_path))) == 4


def test_read_only_writes_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    hub.publish(MODEL, MODEL_FILES)
    cats(tmp_path, read_only=True).listing_digest()
    resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path / "work", read_only=True)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("path", ["../out.mp4", "/etc/out.mp4", "a/../../out.mp4"])
def test_a_path_that_leaves_its_folder_is_an_error(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.publish(DATASET, FILES)
    hub.extra_paths = [path]
    with pytest.raises(SanaError, match="leave its folder"):
        listing(cats(tmp_path))


def test_a_model_is_identified_by_commit_and_a_digest_per_component(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.publish(MODEL, MODEL_FILES)
    model = resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path)
    assert (model.path, model.revision, tuple(model.digests)) == ("labs/video", commit, COMPONENTS)
    hub.publish(MODEL, {**MODEL_FILES, "README.md": b"# changed", "vae/README.md": b"new"})
    assert resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path).digests == model.digests
    hub.publish(MODEL, {**MODEL_FILES, "vae/diffusion_pytorch_model.safetensors": b"other"})
    changed = resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path).digests
    assert [name for name in COMPONENTS if changed[name] != model.digests[name]] == ["vae"]
    assert hub.count("GET /labs") == 0, "nothing is downloaded"
    hub.publish(MODEL, {path: data for path, data in MODEL_FILES.items() if not path.startswith("vae/")})
    with pytest.raises(ConfigError, match="lacks vae/"):
        resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path)
    with pytest.raises(ConfigError, match="labs/nothing does not exist.*no folder"):
        resolve_model(ModelConfig(path="labs/nothing"), work_dir=tmp_path)


def test_retries_take_less_than_five_seconds() -> None:
    assert sum(hub_module.RETRY_WAITS_S) < 5
