"""Laws of what comes from a Hugging Face hub: data sets and models, online and offline, whole or not at all."""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from sana.config.data import DatasetConfig
from sana.config.encode import ModelConfig
from sana.config.load import load_config
from sana.context import Context
from sana.data import hub as hub_module
from sana.data.hub import HubFile, HubRepo
from sana.data.listing import SourceFile, files_of
from sana.data.source import Source, open_source
from sana.data.weights import COMPONENTS, resolve_model
from sana.errors import ConfigError, SanaError
from sana.stages import download
from sana.store import open_store
from sana.work.job import read_job, write_job
from sana.work.probe import probe
from tests.hub_server import HubServer, git_blob

pytestmark = pytest.mark.timeout(60)

DATASET, MODEL = "datasets/films/cats", "models/labs/video"
FILES = {
    "README.md": b"# cats",
    ".gitattributes": b"*.mp4 filter=lfs",
    "a/one.mp4": b"video one" * 1000,
    "a/one.txt": "a cat, \u00e9l\u00e9gant".encode(),
    "two.MP4": b"not in LFS, by its name",
    "two.txt": b"\xef\xbb\xbfanother cat",
    "notes.txt": b"beside no video",
}
MODEL_FILES = {
    "model_index.json": b"{}",
    "README.md": b"# a model",
    "transformer/config.json": b'{"layers": 2}',
    "transformer/diffusion_pytorch_model.safetensors": b"weights" * 100,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.safetensors": b"vae" * 100,
    "text_encoder/config.json": b"{}",
    "text_encoder/model.safetensors": b"text" * 100,
    "tokenizer/tokenizer.json": b"{}",
    "scheduler/scheduler_config.json": b"{}",
}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that this process's settings point to, with an empty Hugging Face cache and no token."""
    go_online(monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        huggingface_hub.close_session()


def go_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def cats(tmp_path: Path, *, revision: str = "main", read_only: bool = False, cache_bytes: int = 10**9) -> Source:
    dataset = DatasetConfig(id="cats", source="hf://datasets/films/cats", revision=revision)
    return open_source(dataset, work_dir=tmp_path / "work", cache_bytes=cache_bytes, read_only=read_only)


def cached_files(tmp_path: Path) -> list[str]:
    folder = tmp_path / "work" / "cache" / "videos"
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".lock"))


def used(tmp_path: Path) -> int:
    folder = tmp_path / "work" / "cache" / "videos"
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".lock"))


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not done():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def listing(source: Source) -> list[SourceFile]:
    return sorted([*files_of(source.videos), *files_of(source.caption_files)], key=lambda file: file.path)


def read_all(source: Source) -> dict[str, bytes]:
    found = {}
    for file in listing(source):
        with source.open_video(file.path, digest=source.digest(file)) as path:
            found[file.path] = path.read_bytes()
    return found


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


def test_files_are_what_was_published_and_are_fetched_once(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    source = cats(tmp_path)
    assert read_all(source) == {file.path: FILES[file.path] for file in listing(source)}
    asked = len(hub.requests)
    read_all(source)
    assert len(hub.requests) == asked


def test_a_long_listing_comes_in_pages(hub: HubServer, tmp_path: Path) -> None:
    hub.page_size = 7
    hub.publish(DATASET, {f"{i:03}.mp4": b"x" * i for i in range(40)})
    assert [file.num_bytes for file in listing(cats(tmp_path))] == list(range(40))


def test_a_moved_branch_is_seen_and_a_readme_changes_nothing(hub: HubServer, tmp_path: Path) -> None:
    first = hub.publish(DATASET, FILES)
    before = cats(tmp_path)
    digest = before.listing_digest()
    second = hub.publish(DATASET, {**FILES, "README.md": b"# more cats", "notes.txt": b"other notes"})
    assert (cats(tmp_path).listing_digest(), cats(tmp_path).revision) == (digest, second)
    hub.publish(DATASET, {**FILES, "a/one.mp4": b"changed"})
    assert cats(tmp_path).listing_digest() != digest
    assert cats(tmp_path, revision=first).listing_digest() == digest, "a commit stays what it was"
    assert before.listing_digest() == digest, "a Source keeps the listing it made"
    hub.publish(DATASET, FILES, branch="refs/pr/1")
    assert cats(tmp_path, revision="refs/pr/1").listing_digest() == digest


def test_what_changed_since_it_was_listed_is_not_taken_for_it(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    old = {file.path: file.identity for file in listing(cats(tmp_path))}
    hub.publish(DATASET, {**FILES, "a/one.mp4": b"changed"})
    now = cats(tmp_path)
    with pytest.raises(SanaError, match="not what was listed"), now.open_video("a/one.mp4", digest=old["a/one.mp4"]):
        pass
    with now.open_video("two.MP4", digest=old["two.MP4"]) as path:
        assert path.read_bytes() == FILES["two.MP4"]


@pytest.mark.parametrize("secret", [None, "hf_thisIsASecret"])
def test_no_right_to_read_is_one_error_with_the_page_and_no_token(
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
        assert str(error.value).startswith("download.datasets[cats]: ") == (error is not model)
    assert cached_files(tmp_path) == []


def test_the_token_opens_what_is_private(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish(DATASET, FILES)
    hub.token = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert len(read_all(cats(tmp_path))) == 4


def test_what_is_not_there_is_a_config_error(hub: HubServer, tmp_path: Path) -> None:
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


def test_a_hub_that_stumbles_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    hub.failures = [503]
    assert len(listing(cats(tmp_path))) == 4


def test_a_cut_connection_is_resumed_where_it_broke(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)  # it resumes at a multiple of this, else of 10 MiB
    big = os.urandom(2**20)
    hub.publish(DATASET, {"big.mp4": big})
    hub.cut = {"big.mp4"}
    source = cats(tmp_path)
    assert read_all(source) == {"big.mp4": big}
    assert hub.requests[-1] == "GET /datasets/films/cats/resolve/" + source.revision + "/big.mp4 Range"


FETCH = """
import sys
from pathlib import Path
from huggingface_hub import constants
from sana.config.data import DatasetConfig
from sana.data.listing import files_of
from sana.data.source import open_source
constants.DOWNLOAD_CHUNK_SIZE = 2**16
source = open_source(DatasetConfig(id="cats", source="hf://datasets/films/cats"), work_dir=Path(sys.argv[1]),
                     cache_bytes=10**9)
for file in files_of(source.videos):
    with source.open_video(file.path, digest=file.identity):
        pass
"""


def test_a_long_fetch_is_news_before_its_video_is_there(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    hub.publish(DATASET, {"big.mp4": os.urandom(2**20), "big.txt": b"a cat"})
    hub.stalled = {"big.mp4"}  # for two seconds, after the half
    data = json.dumps([{"id": "cats", "source": "hf://datasets/films/cats", "max_refused_fraction": 1}])
    places = [f"download.datasets={data}", f"root={tmp_path}/root", f"work_dir={tmp_path}/work"]
    config = load_config(Path(__file__).parents[2] / "configs/demo.yaml", places)
    context = Context(config, open_store(config.root), tmp_path / "work")
    journal = tmp_path / "journal"
    artifacts = {"download": download.run(context, {})}
    spec = {"pool": "probe/pool/v1", "deaths": {}, "journal": str(journal)}
    job = read_job(write_job("probe", config, artifacts, spec))
    probe(job)
    reports = [json.loads(line) for line in job.progress_path.read_text().splitlines()]
    assert [report["done"] for report in reports[:-1]] == [0] * (len(reports) - 1) and reports[-1]["done"] == 1
    assert reports[0]["detail"].startswith("0 refused, 512.0 KiB fetched, ")
    assert reports[-1]["detail"].startswith("1 refused, 1.0 MiB fetched, ")


def test_a_fetch_that_was_killed_goes_on_from_its_bytes(hub: HubServer, tmp_path: Path) -> None:
    big = os.urandom(2**20)
    hub.publish(DATASET, {"big.mp4": big})
    hub.stalled = {"big.mp4"}
    killed = subprocess.Popen(
        [sys.executable, "-c", FETCH, str(tmp_path / "work")], env={**os.environ, "HF_HUB_OFFLINE": "0"}
    )
    try:
        partial = tmp_path / "work/cache/videos"
        wait_until(lambda: sum(p.stat().st_size for p in partial.glob(".fetch-*/*")) >= 2**19)
    finally:
        killed.kill()
        killed.wait()
    assert used(tmp_path) <= 2**20 + 2**19, "its room in the budget, and its bytes in it"
    assert read_all(cats(tmp_path)) == {"big.mp4": big}
    assert hub.ranges["big.mp4"] == [0, 2**19]
    assert len(cached_files(tmp_path)) == 1, "nothing is left beside the file"


def test_a_fetch_that_failed_counts_in_the_budget_and_gives_way(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**10)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.publish(DATASET, {"big.mp4": os.urandom(8000), "small.mp4": os.urandom(5000)})
    source = cats(tmp_path, cache_bytes=10_000)
    files = {file.path: file for file in listing(source)}
    hub.stalled = {"big.mp4"}
    with monkeypatch.context() as patch:
        patch.setattr(HubServer, "has", lambda *_: "big.mp4" not in hub.ranges)  # gone after the first answer
        with pytest.raises(SanaError), source.open_video("big.mp4", digest=files["big.mp4"].identity):
            pass
    got = 4000 // 1024 * 1024  # whole chunks of the half that came
    assert used(tmp_path) == got + got, "a room of so many bytes, and the bytes"
    with source.open_video("small.mp4", digest=files["small.mp4"].identity) as path:
        assert path.stat().st_size == 5000
    assert used(tmp_path) == 5000 + got + got, "there is room for both"
    with source.open_video("big.mp4", digest=files["big.mp4"].identity) as path:
        assert path.stat().st_size == 8000
    assert hub.ranges["big.mp4"] == [0, got]
    assert used(tmp_path) == 8000, "and now there was none for the other"


def test_a_piece_that_was_damaged_is_fetched_anew(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.publish(DATASET, {"one.mp4": b"video one" * 1000})
    repo = HubRepo("dataset", "films/cats", tmp_path / "memory")
    [file] = repo.list_files(commit)
    (tmp_path / "one.mp4.part").write_bytes(b"rotten" * 100)
    repo.fetch(commit, file, tmp_path / "one.mp4")
    assert (tmp_path / "one.mp4").read_bytes() == b"video one" * 1000
    assert hub.ranges["one.mp4"] == [600, 0]


def test_damaged_bytes_are_noticed_and_not_kept(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    hub.damaged = {"a/one.mp4", "two.MP4"}  # in LFS, and not
    source = cats(tmp_path)
    for file in listing(source):
        if file.path in hub.damaged:
            with pytest.raises(SanaError, match="damaged"), source.open_video(file.path, digest=file.identity):
                pass
    assert cached_files(tmp_path) == []
    hub.damaged = set()
    assert read_all(source)["a/one.mp4"] == FILES["a/one.mp4"]


def test_offline_works_with_what_an_online_run_left(
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


def test_offline_without_memory_says_what_to_do(
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


def test_read_only_leaves_no_trace(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    hub.publish(MODEL, MODEL_FILES)
    cats(tmp_path, read_only=True).listing_digest()
    resolve_model(ModelConfig(path="labs/video"), work_dir=tmp_path / "work", read_only=True)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("path", ["../out.mp4", "/etc/out.mp4", "a/../../out.mp4"])
def test_a_name_that_leaves_its_folder_is_refused(hub: HubServer, tmp_path: Path, path: str) -> None:
    hub.publish(DATASET, FILES)
    hub.extra_paths = [path]
    with pytest.raises(SanaError, match="leave its folder"):
        listing(cats(tmp_path))


def test_a_model_is_a_commit_and_a_digest_per_component(hub: HubServer, tmp_path: Path) -> None:
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


def test_fetch_leaves_nothing_beside_the_file(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.publish(DATASET, FILES)
    repo = HubRepo("dataset", "films/cats", tmp_path / "memory")
    file = next(file for file in repo.list_files(commit) if file.path == "a/one.mp4")
    out = tmp_path / "out"
    out.mkdir()
    repo.fetch(commit, file, out / "video.mp4")
    with pytest.raises(SanaError):
        repo.fetch(commit, HubFile("gone.mp4", 3, "git:00"), out / "gone.mp4")
    assert [path.name for path in out.iterdir()] == ["video.mp4"]


def test_a_fresh_process_obeys_its_environment_and_loads_nothing_heavy(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    script = (
        "import sys; from pathlib import Path\n"
        "import sana.data.source, sana.data.weights\n"
        "heavy = {'huggingface_hub', 'torch', 'transformers', 'diffusers', 's3fs'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from sana.config.data import DatasetConfig\n"
        "dataset = DatasetConfig(id='cats', source='hf://datasets/films/cats')\n"
        "source = sana.data.source.open_source(dataset, work_dir=Path(sys.argv[1]), cache_bytes=10**9)\n"
        "from sana.data.listing import files_of\n"
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


def test_waits_are_short_enough_for_a_user() -> None:
    assert sum(hub_module.RETRY_WAITS_S) < 5
