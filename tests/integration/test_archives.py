"""Archives as sources: a data set that is packed is the data set that was packed, to the digest."""

import errno
import gzip
import hashlib
import os
import resource
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sana.config.data import DownloadResources
from sana.data.archives.index import ArchiveIndex, IndexFolder
from sana.data.sources.listing import files_of
from sana.data.sources.source_check import check_sources
from sana.progress import Progress
from sana.stages import download, probe
from sana.store import open_store
from tests.downloads import FinishedDownload, context
from tests.hub_server import HubServer
from tests.hub_sources import DATASET
from tests.packed_files import ROWS, demo_files, downloaded, embedded, embedded_folder, packings, tar_of, zip_of
from tests.pipeline_runs import run_alone
from tests.source_files import make_files, opened

pytestmark = pytest.mark.timeout(60)

PACKINGS = ("tar", "tars", "tar.gz", "zip", "zips", "parquet")


@pytest.fixture(scope="module")
def plain_digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The content digests of the demo's folder."""
    folder = tmp_path_factory.mktemp("plain")
    make_files(folder / "s", demo_files())
    return dict(downloaded(folder, folder / "s").artifact.content)


@pytest.mark.parametrize("packing", PACKINGS)
def test_packed_clips_have_the_content_digests_of_the_folder(
    tmp_path: Path, packing: str, plain_digests: dict[str, str]
) -> None:
    packed = packings(demo_files())[packing]
    found = downloaded(tmp_path, make_files(tmp_path / "s", packed))
    assert found.artifact.content == plain_digests
    assert len(found.clips) == 15 and list(found.rejected) == ["nocaption-00.mp4"]
    clip = found.clips[0]
    source = opened(tmp_path / "s", tmp_path / "work")
    with source.open_video(clip["path"], digest=clip["digest"]) as path:  # as a worker does: nothing was listed
        assert path.read_bytes() == demo_files()[clip["path"]]


@pytest.mark.parametrize("packing", ["tars", "zips", "parquet"])
def test_on_the_hub_packed_clips_have_the_content_digests_of_plain_ones(
    hub: HubServer, tmp_path: Path, packing: str
) -> None:
    files = demo_files()
    hub.publish(DATASET, files)
    plain = downloaded(tmp_path / "plain", "hf://datasets/films/cats")
    hub.publish(DATASET, packings(files)[packing] | {"README.md": b"# cats"})
    packed = downloaded(tmp_path / "packed", "hf://datasets/films/cats")
    assert packed.artifact.content == plain.artifact.content
    assert [clip["digest"] for clip in packed.clips] == [clip["digest"] for clip in plain.clips]


def test_an_unchanged_archive_is_read_once(tmp_path: Path, hub: HubServer) -> None:
    hub.publish(DATASET, packings(demo_files())["tars"])
    at = context(tmp_path, {"id": "d", "source": "hf://datasets/films/cats"})
    recipe = download.recipe(at, {})
    assert download.remaining(at, {}) == (0, 2, "archives")
    assert hub.count("GET /datasets") == 0, "planning fetches no archive"
    reports: list[Progress] = []
    first = FinishedDownload(replace(at, report=reports.append))
    fetched = hub.count("GET /datasets")
    assert fetched == 2
    assert [(p.done, p.total, p.unit) for p in reports[:2]] == [(1, 2, "archives"), (2, 2, "archives")]
    assert "fetched" in reports[1].detail
    shutil.rmtree(tmp_path / "work/cache/videos")
    later = context(tmp_path, {"id": "d", "source": "hf://datasets/films/cats"})
    assert download.recipe(later, {}) == recipe and download.remaining(later, {}) == (0, 16, "videos")
    assert FinishedDownload(later).artifact.content == first.artifact.content
    assert hub.count("GET /datasets") == fetched, "captions and digests come from the index"


@pytest.mark.parametrize("packing", ["tars", "zip", "zips", "parquet", "tar.gz"])
def test_a_member_of_an_archive_that_is_not_kept_is_fetched_alone(tmp_path: Path, hub: HubServer, packing: str) -> None:
    files = demo_files()
    packed = packings(files)[packing]
    hub.publish(DATASET, packed)
    small = 40_000  # the cache holds no archive
    source = opened("hf://datasets/films/cats", tmp_path / "work", cache_bytes=small)
    videos = {file.path: file.identity for file in files_of(source.videos)}
    assert videos == {name: f"sha256:{hashlib.sha256(files[name]).hexdigest()}" for name in videos}
    hub.requests.clear()
    with source.open_video("short-00.mp4", digest=videos["short-00.mp4"]) as path:
        assert path.read_bytes() == files["short-00.mp4"]
    if packing != "tar.gz":
        assert hub.requests and all(request.endswith(" Range") for request in hub.requests)


def test_beside_plain_videos_archives_are_read_when_asked_for(tmp_path: Path) -> None:
    packed = tar_of({"a.mp4": b"1", "a.txt": b"q", "b.mp4": b"2"})
    files = {"a.mp4": bytes(len(packed) // 10 + 1), "a.txt": b"p", "x.tar": packed}
    folder = make_files(tmp_path / "s", files)
    assert downloaded(tmp_path / "1", folder).captions == {"a.mp4": ["p"]}
    both = downloaded(tmp_path / "2", folder, archives="read")
    assert both.captions == {"a.mp4": ["p"], "x/a.mp4": ["q"]} and list(both.rejected) == ["x/b.mp4"]
    ignored = downloaded(tmp_path / "3", folder, archives="ignore")
    assert ignored.artifact.content == downloaded(tmp_path / "4", folder).artifact.content
    at = context(tmp_path / "5", {"source": str(folder)})
    notes = check_sources(at.config, work_dir=at.work_dir)[1]
    assert any("the archive x.tar lies beside 1 video: " in note and "archives: read" in note for note in notes)


@pytest.mark.parametrize("num_bytes", [1, 900, 1100])
def test_shards_beside_a_small_preview_are_read_and_it_too(tmp_path: Path, num_bytes: int) -> None:
    """A tar of 10,240 bytes is the data set, and videos of less than a tenth of it are not all that it holds."""
    packed = tar_of({"a.mp4": b"1", "a.txt": b"q"})
    folder = make_files(tmp_path / "s", {"preview.gif": bytes(num_bytes), "data/x.tar": packed, "README.md": b"#"})
    at = context(tmp_path / "1", {"source": str(folder)})
    notes = check_sources(at.config, work_dir=at.work_dir)[1]
    if 10 * num_bytes <= len(packed):
        found = downloaded(tmp_path / "2", folder)
        assert found.captions == {"data/a.mp4": ["q"]} and list(found.rejected) == ["preview.gif"]
        assert any("the archive data/x.tar (10.0 KiB) and the video preview.gif" in note for note in notes), notes
        captions = {"layout": "none", "fallback": "f"}
        ignored = downloaded(tmp_path / "3", folder, archives="ignore", captions=captions)
        assert ignored.captions == {"preview.gif": ["f"]}
    else:
        assert any("are not read" in note for note in notes), notes


def test_splits_are_named_and_chosen(tmp_path: Path) -> None:
    shards = {
        f"data/{s}-0000{i}-of-00002.parquet": embedded(ROWS[i : i + 1]) for s in ("train", "test") for i in (0, 1)
    }
    folder = make_files(tmp_path / "s", shards)
    at = context(tmp_path / "1", {"source": str(folder)})
    notes = check_sources(at.config, work_dir=at.work_dir)[1]
    assert any("several splits are read: test (2), train (2)" in note for note in notes)
    only = downloaded(tmp_path / "2", folder, archive_files=["data/train-*"])
    assert only.captions == {"data/0.mp4": ["text 0"], "data/1.mp4": ["text 1"]}
    none = context(tmp_path / "3", {"source": str(folder), "archive_files": ["valid*"]})
    [problem], _ = check_sources(none.config, work_dir=none.work_dir)
    assert "archive_files valid* matches none of 4 archives, such as data/test-00000" in str(problem)


def test_a_remote_archive_is_not_fetched_by_a_check(tmp_path: Path, hub: HubServer) -> None:
    hub.publish(DATASET, packings(demo_files())["tars"])
    at = context(tmp_path, {"source": "hf://datasets/films/cats"})
    config = at.config.model_copy(
        update={"download": at.config.download.model_copy(update={"resources": DownloadResources(cache_gib=1e-4)})}
    )
    problems, notes = check_sources(config, work_dir=at.work_dir)
    assert not problems and hub.count("GET /datasets") == 0
    assert "2 archives, such as shard-0.tar, are not read before a run: the download stage fetches" in notes[0]
    assert "larger than the cache" in notes[1] and "download.resources.cache_gib" in notes[1]


def test_probe_decodes_members(tmp_path: Path) -> None:
    files = {name: data for name, data in demo_files().items() if name.startswith(("short", "corrupt"))}
    rows = [{"video": {"bytes": files[name], "path": name}, "text": "x"} for name in files if name.endswith(".mp4")]
    packed = {"0.tar": tar_of(files), "1.zip": zip_of({f"zip/{name}": data for name, data in files.items()})}
    sources = [make_files(tmp_path / "0", packed), make_files(tmp_path / "1", {"train.parquet": embedded(rows)})]
    at = context(tmp_path, *({"source": str(source)} for source in sources))
    probed = run_alone(probe, at, {"clips": FinishedDownload(at).artifact})
    assert probed.counts.num_in == 6 and probed.counts.reasons == {"duplicate": 1, "truncated": 3}


@pytest.mark.parametrize("name", ["one.tar", "one.tgz", "one.zip", "one.parquet"])
def test_one_archive_may_be_the_source(tmp_path: Path, name: str, plain_digests: dict[str, str]) -> None:
    data = {path: data for some in packings(demo_files()).values() for path, data in some.items() if len(some) == 1}
    data |= {"one.tgz": gzip.compress(data["0.tar"], 1), "one.parquet": embedded_folder(demo_files())}
    files = {name: data.get(name) or data["0.tar" if name.endswith("tar") else "all.zip"], "other.mp4": b"beside it"}
    make_files(tmp_path / "s", files)
    assert downloaded(tmp_path, tmp_path / "s" / name).artifact.content == plain_digests


def test_a_parquet_file_without_videos_is_named_with_its_columns(tmp_path: Path) -> None:
    make_files(tmp_path / "s", {"train.parquet": embedded([{"text": "x", "picture": b"1"}])})
    at = context(tmp_path, {"source": f"{tmp_path}/s"})
    [problem], _ = check_sources(at.config, work_dir=at.work_dir)
    assert "train.parquet: no column of it holds videos: text, picture; captions.video_column names" in str(problem)
    make_files(tmp_path / "s", {"a.tar": tar_of({"a.mp4": b"1", "a.txt": b"x"})})
    found = FinishedDownload(context(tmp_path, {"source": f"{tmp_path}/s"}))
    assert list(found.captions) == ["a.mp4"] and found.artifact.counts.extra["unused_files"] == 1


def test_more_archives_than_open_files(tmp_path: Path) -> None:
    shards = {f"{i:03}.tar": tar_of({f"{i}.mp4": b"%d" % i, f"{i}.txt": b"x" * 2**16}) for i in range(150)}
    folder = make_files(tmp_path / "s", shards)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, limits[1]))
    try:
        found = downloaded(tmp_path, folder)
        later = opened(folder, tmp_path / "work")
        assert len(found.clips) == later.videos.num_rows == 150
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_s3_archives_have_the_content_digests_of_a_local_folder(
    s3_root: str, tmp_path: Path, plain_digests: dict[str, str]
) -> None:
    store = open_store(s3_root)
    store.put_if_absent("one.parquet", embedded_folder(demo_files()))
    for path, data in packings(demo_files())["tars"].items():
        store.put_if_absent(path, data)
    found = downloaded(tmp_path, s3_root, archive_files=["*.tar"])
    assert found.artifact.content == plain_digests
    shutil.rmtree(tmp_path / "work/cache/videos")
    clip = found.clips[3]
    later = opened(s3_root, tmp_path / "work", archive_files=("*.tar",))
    with later.open_video(clip["path"], digest=clip["digest"]) as path:
        assert path.read_bytes() == demo_files()[clip["path"]]
    assert later.cache.fetch_stats.fetched_bytes == 0, "its bytes alone were requested"
    one = downloaded(tmp_path / "one", f"{s3_root}/shard-0.tar")
    assert 0 < len(one.clips) < len(found.clips)
    rows = downloaded(tmp_path / "rows", f"{s3_root}/one.parquet")
    assert rows.artifact.content == plain_digests


def test_the_check_names_damaged_local_archives(tmp_path: Path) -> None:
    whole = tar_of({"a.mp4": b"1", "a.txt": b"x", "b.mp4": b"2" * 999})
    folder = make_files(tmp_path / "s", {"good.tar": tar_of({"c.mp4": b"3", "c.txt": b"z"}), "cut.tar": whole[:3000]})
    at = context(tmp_path, {"source": str(folder)})
    problems, notes = check_sources(at.config, work_dir=at.work_dir)
    assert not problems and any("[d0]: cut.tar: " in note and "cut off" in note for note in notes)


@pytest.mark.parametrize("damage", ["empty", "cut", "noise"])
def test_a_damaged_index_is_made_again(tmp_path: Path, damage: str) -> None:
    folder = make_files(tmp_path / "s", {"train.parquet": embedded(ROWS), "0.tar": tar_of({"x.mp4": b"x"})})
    before = opened(folder, tmp_path / "work").videos.column("path").to_pylist()
    for path in (tmp_path / "work/cache/archives").rglob("*.*"):
        data = path.read_bytes()
        path.write_bytes({"empty": b"", "cut": data[: len(data) // 2], "noise": bytes(len(data))}[damage])
    later = opened(folder, tmp_path / "work")
    assert len(later.unread_archives()) == 2 and later.videos.column("path").to_pylist() == before
    assert not opened(folder, tmp_path / "work").unread_archives()


def test_an_archive_that_is_still_written_is_a_reject_of_this_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_files(tmp_path / "s", {"0.tar": tar_of({"a.mp4": b"1", "a.txt": b"x"}), "1.tar": tar_of({})})
    build = IndexFolder.build

    def grows(self: IndexFolder, key: str, name: str, file: Any, **options: Any) -> ArchiveIndex:
        found = build(self, key, name, file, **options)
        with (folder / name).open("ab") as out:
            out.write(bytes(512) if name == "0.tar" else b"")
        return found

    monkeypatch.setattr(IndexFolder, "build", grows)
    found = downloaded(tmp_path, folder)
    assert list(found.rejected) == ["0.tar"] and "still being written" in found.rejected["0.tar"][1]
    monkeypatch.undo()
    assert list(downloaded(tmp_path, folder).captions) == ["a.mp4"]


def test_a_full_disk_is_no_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = make_files(tmp_path / "s", {"0.tar": tar_of({"a.mp4": b"1", "a.txt": b"x"})})
    monkeypatch.setattr("sana.data.archives.index.atomic_write", full)
    with pytest.raises(OSError, match="No space left"):
        downloaded(tmp_path, folder)
