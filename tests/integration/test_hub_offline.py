"""Offline a hub's data sets and models are those of the last online run, or one error says what to do."""

import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest

from sana.config.encode import ModelConfig
from sana.data.sources.listing import files_of
from sana.errors import ConfigError
from sana.model.model_resolver import resolve_model
from tests.hub_server import HubServer
from tests.hub_sources import DATASET, FILES, MODEL, MODEL_FILES, cats, go_offline, go_online, read_all
from tests.source_files import listing

pytestmark = pytest.mark.timeout(60)


def test_offline_works_with_the_caches_of_an_online_run(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(DATASET, FILES)
    hub.publish(MODEL, MODEL_FILES)
    online, model = cats(tmp_path), resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path / "work")
    files = read_all(online)
    go_offline(monkeypatch)
    asked = len(hub.requests)
    offline = cats(tmp_path)
    assert (offline.revision, offline.listing_digest()) == (commit, online.listing_digest())
    assert read_all(offline) == files
    assert resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path / "work") == model
    assert len(hub.requests) == asked


def test_offline_works_from_the_hugging_face_cache(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish(DATASET, FILES)
    huggingface_hub.snapshot_download("films/cats", repo_type="dataset", endpoint=hub.endpoint, max_workers=1)
    online = cats(tmp_path / "elsewhere").listing_digest()
    go_offline(monkeypatch)
    source = cats(tmp_path)
    assert source.listing_digest() == online
    assert read_all(source)["a/one.mp4"] == FILES["a/one.mp4"]


def test_offline_without_a_cache_says_what_to_do(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.publish(DATASET, FILES)
    go_offline(monkeypatch)
    for revision in ("main", commit):
        with pytest.raises(ConfigError, match=r"HF_HUB_OFFLINE.*hf download films/cats --repo-type dataset"):
            listing(cats(tmp_path, revision=revision))
    go_online(monkeypatch)
    source = cats(tmp_path)
    listing(source)
    go_offline(monkeypatch)
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        source.read(next(files_of(source.caption_files)))
    assert hub.count("GET /datasets") == 0


def test_a_new_process_honours_its_environment_and_imports_nothing_heavy(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    script = (
        "import sys; from pathlib import Path\n"
        "import sana.data.sources.source, sana.model.model_resolver\n"
        "heavy = {'huggingface_hub', 'torch', 'transformers', 'diffusers', 's3fs'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from sana.config.data import DatasetConfig\n"
        "dataset = DatasetConfig(id='cats', source='hf://datasets/films/cats')\n"
        "from sana.data.sources.file_cache import FileCache\n"
        "cache = FileCache(Path(sys.argv[1], 'cache/videos'), max_bytes=10**9)\n"
        "source = sana.data.sources.source.open_source(dataset, work_dir=Path(sys.argv[1]), cache=cache)\n"
        "from sana.data.sources.listing import files_of\n"
        "print(source.listing_digest(), source.read(list(files_of(source.caption_files))[1]))\n"
        "assert not {'torch', 'transformers', 'diffusers'} & set(sys.modules)\n"
    )
    outputs = []
    for offline in ("0", "1"):
        env = {**os.environ, "HF_HUB_OFFLINE": offline, "HF_HOME": str(tmp_path / "home")}
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "work")], env=env, capture_output=True, text=True, timeout=50
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] == f"{cats(tmp_path).listing_digest()} {FILES['two.txt']!r}\n"
