"""Files of a hub arrive whole or not at all: cut, killed, stalled and damaged fetches."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from sana.config.load import load_config
from sana.context import Context
from sana.data.sources.hub import HubRepo
from sana.data.sources.hub_cache import HubFile
from sana.errors import SanaError
from sana.runtime.job import read_job, write_job
from sana.runtime.specs import CrashHistory, PoolName, ProbeSpec
from sana.stages import download
from sana.store import open_store
from sana.workers.probe import probe
from tests.hub_server import HubServer
from tests.hub_sources import DATASET, FILES, cached_files, cats, read_all, used
from tests.pipeline_runs import run_alone
from tests.source_files import listing

pytestmark = pytest.mark.timeout(60)


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 40
    while not done():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def test_files_are_what_was_published_and_are_fetched_once(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    source = cats(tmp_path)
    assert read_all(source) == {file.path: FILES[file.path] for file in listing(source)}
    asked = len(hub.requests)
    read_all(source)
    assert len(hub.requests) == asked


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
from sana.data.sources.listing import files_of
from sana.data.sources.source import open_source
from sana.data.sources.file_cache import FileCache
constants.DOWNLOAD_CHUNK_SIZE = 2**16
work_dir = Path(sys.argv[1])
source = open_source(DatasetConfig(id="cats", source="hf://datasets/films/cats"), work_dir=work_dir,
                     cache=FileCache(work_dir / "cache/videos", max_bytes=10**9))
for file in files_of(source.videos):
    with source.open_video(file.path, digest=file.identity):
        pass
"""


def test_a_fetch_that_was_killed_resumes_from_its_bytes(hub: HubServer, tmp_path: Path) -> None:
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
    assert used(tmp_path) <= 2**20 + 2**19, "its reservation in the budget, and the bytes it fetched"
    assert read_all(cats(tmp_path)) == {"big.mp4": big}
    assert hub.ranges["big.mp4"] == [0, 2**19]
    assert len(cached_files(tmp_path)) == 1, "nothing is left beside the file"


def test_the_bytes_of_a_failed_fetch_count_in_the_budget_and_are_evicted(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**10)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    hub.publish(DATASET, {"big.mp4": os.urandom(8000), "small.mp4": os.urandom(5000)})
    source = cats(tmp_path, cache_bytes=10_000)
    files = {file.path: file for file in listing(source)}
    hub.stalled = {"big.mp4"}
    with monkeypatch.context() as patch:
        patch.setattr(HubServer, "has", lambda *_: "big.mp4" not in hub.ranges)  # missing after the first answer
        with pytest.raises(SanaError), source.open_video("big.mp4", digest=files["big.mp4"].identity):
            pass
    got = 4000 // 1024 * 1024  # whole chunks of the half that came
    assert used(tmp_path) == got + got, "a reservation of so many bytes, and the bytes"
    with source.open_video("small.mp4", digest=files["small.mp4"].identity) as path:
        assert path.stat().st_size == 5000
    assert used(tmp_path) == 5000 + got + got, "there is room for both"
    with source.open_video("big.mp4", digest=files["big.mp4"].identity) as path:
        assert path.stat().st_size == 8000
    assert hub.ranges["big.mp4"] == [0, got]
    assert used(tmp_path) == 8000, "and now there is no room for the other"


def test_a_damaged_part_is_fetched_again(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.publish(DATASET, {"one.mp4": b"video one" * 1000})
    repo = HubRepo("dataset", "films/cats", tmp_path / "hub_cache")
    [file] = repo.list_files(commit)
    (tmp_path / "one.mp4.part").write_bytes(b"rotten" * 100)
    repo.fetch(commit, file, tmp_path / "one.mp4")
    assert (tmp_path / "one.mp4").read_bytes() == b"video one" * 1000
    assert hub.ranges["one.mp4"] == [600, 0]


def test_damaged_bytes_are_detected_and_not_kept(hub: HubServer, tmp_path: Path) -> None:
    hub.publish(DATASET, FILES)
    hub.damaged = {"a/one.mp4", "two.MP4"}  # one in LFS, one not
    source = cats(tmp_path)
    for file in listing(source):
        if file.path in hub.damaged:
            with pytest.raises(SanaError, match="damaged"), source.open_video(file.path, digest=file.identity):
                pass
    assert cached_files(tmp_path) == []
    hub.damaged = set()
    assert read_all(source)["a/one.mp4"] == FILES["a/one.mp4"]


def test_fetch_leaves_nothing_beside_the_file(hub: HubServer, tmp_path: Path) -> None:
    commit = hub.publish(DATASET, FILES)
    repo = HubRepo("dataset", "films/cats", tmp_path / "hub_cache")
    file = next(file for file in repo.list_files(commit) if file.path == "a/one.mp4")
    out = tmp_path / "out"
    out.mkdir()
    repo.fetch(commit, file, out / "video.mp4")
    with pytest.raises(SanaError):
        repo.fetch(commit, HubFile("gone.mp4", 3, "git:00"), out / "gone.mp4")
    assert [path.name for path in out.iterdir()] == ["video.mp4"]


def test_a_long_fetch_reports_progress_before_its_video_is_complete(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 2**16)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
    hub.publish(DATASET, {"big.mp4": os.urandom(2**20), "big.txt": b"a cat"})
    hub.stalled = {"big.mp4"}  # for two seconds, after the half
    data = json.dumps([{"id": "cats", "source": "hf://datasets/films/cats", "max_rejected_fraction": 1}])
    places = [f"download.datasets={data}", f"root={tmp_path}/root", f"work_dir={tmp_path}/work"]
    config = load_config(Path(__file__).parents[2] / "configs/demo.yaml", places)
    context = Context(config, open_store(config.root), tmp_path / "work")
    journal = tmp_path / "journal"
    spec = ProbeSpec(PoolName("probe", "v1"), run_alone(download, context, {}), CrashHistory({}, str(journal)))
    job = read_job(write_job(config, spec), ProbeSpec)
    probe(job)
    lines = [json.loads(line) for line in job.progress_path.read_text().splitlines()]
    reports = [line for line in lines if not line["phase"]]  # the first says that it opens videos
    assert [report["done"] for report in reports[:-1]] == [0] * (len(reports) - 1) and reports[-1]["done"] == 1
    assert reports[0]["detail"].startswith("0 rejected, 512.0 KiB fetched, ")
    assert reports[-1]["detail"].startswith("1 rejected, 1.0 MiB fetched, ")
