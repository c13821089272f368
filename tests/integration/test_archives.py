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
from tests.packed_files import demo_files, embedded, embedded_folder, packings, tar_of, zip_of
from tests.pipeline_runs import run_alone
from tests.source_files import make_files, opened

pytestmark = pytest.mark.timeout(60)

PACKINGS = ("tar", "tars", "tar.gz", "zip", "zips", "parquet")


def downloaded(tmp_path: Path, source: Path | str, **settings: Any) -> FinishedDownload:
    """Run the download of a data set `d`, in a root of its own."""
    return FinishedDownload(context(tmp_path, {"id": "d", "source": str(source), **settings}))


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


WEBDATASET = {"0.mp4": b"v0", "0.json": b'{"caption": "a cat\\nasleep", "score": 1.5}', "1.mp4": b"v1", "1.json": b"[]"}


@pytest.mark.parametrize(
    ("files", "captions", "expected"),
    [
        (WEBDATASET, {}, {"0.mp4": ["a cat\nasleep"]}),
        (WEBDATASET | {"0.txt": b"a text"}, {}, {"0.mp4": ["a text"]}),
        (WEBDATASET | {"0.txt": b"a text"}, {"text_columns": ["caption"]}, {"0.mp4": ["a cat\nasleep"]}),
        (WEBDATASET | {"0.txt": b"a text"}, {"layout": "metadata"}, {"0.mp4": ["a cat\nasleep"]}),
        ({"0.mp4": b"v", "0.json": b'{"prompt": ["a", "b"]}'}, {}, {"0.mp4": ["a", "b"]}),
        ({"d/0.mp4": b"v", "d/0.json": b'{"text": "x", "file_name": "y"}'}, {}, {"d/0.mp4": ["x"]}),
        (
            {"j/0.mp4": b"0", "j/0.json": b'{"text": "x"}', "t/1.mp4": b"1", "t/1.json": b"{}", "t/1.txt": b"y"},
            {},
            {"j/0.mp4": ["x"], "t/1.mp4": ["y"]},
        ),
        ({"0.mp4": b"v", "metadata.csv": b"file_name,text\n0.mp4,a row\n"}, {}, {"0.mp4": ["a row"]}),
        ({"0.mp4": b"v", "prompts.txt": b"a line\n", "videos.txt": b"0.mp4\n"}, {}, {"0.mp4": ["a line"]}),
    ],
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_captions_in_an_archive_are_read_in_every_layout(
    tmp_path: Path, pack: Any, files: dict[str, bytes], captions: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    folder = make_files(tmp_path / "s", {"00000.tar" if pack is tar_of else "0.zip": pack(files)})
    assert downloaded(tmp_path, folder, captions=captions).captions == expected


ROWS = [{"video": {"bytes": f"video {i}".encode(), "path": f"{i}.mp4"}, "caption": f"text {i}"} for i in range(4)]
VIDEO = {"bytes": b"\x1a\x45\xdf\xa3 and so on", "path": None}


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (ROWS, {}, {f"{i}.mp4": [f"text {i}"] for i in range(4)}),
        ([{"video": VIDEO, "text": "x"}], {}, {"train-0/000000.mkv": ["x"]}),
        ([{"file_name": "k.mp4", "video": VIDEO, "text": "x"}], {}, {"k.mp4": ["x"]}),
        ([{"__key__": "k", "mp4": b"1", "text": "x"}], {}, {"k.mp4": ["x"]}),
        ([{"video": {"bytes": b"1", "path": "/home/me/k.mp4"}, "text": "x"}], {}, {"k.mp4": ["x"]}),
        ([ROWS[0], {**ROWS[0], "caption": "other"}], {}, {"0.mp4": ["text 0", "other"]}),
        (
            [ROWS[0], {**ROWS[1], "video": {"bytes": b"other", "path": "0.mp4"}}],
            {},
            {"0.mp4": ["text 0"], "train-0/000001.mp4": ["text 1"]},
        ),
        (
            [{"clip": b"1", "video": None, "text": "x"}],
            {"captions": {"video_column": "clip"}},
            {"train-0/000000.mp4": ["x"]},
        ),
        (
            [{**ROWS[0], "words": ["a", "b"]}],
            {"captions": {"text_columns": ["words", "caption"]}},
            {"0.mp4": ["a", "b", "text 0"]},
        ),
        (
            [ROWS[0], {"video": {"bytes": None, "path": "plain.mp4"}, "caption": "y"}],
            {"archives": "read"},
            {"0.mp4": ["text 0"], "plain.mp4": ["y"]},
        ),
    ],
)
def test_rows_with_videos_are_clips(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    files: dict[str, bytes | str] = {"train-0.parquet": embedded(rows, rows_per_group=2)}
    if "plain.mp4" in expected:
        files["plain.mp4"] = "beside it"
    found = downloaded(tmp_path, make_files(tmp_path / "s", files), **settings)
    assert found.captions == expected and not found.rejected


def test_a_table_beside_an_archive_names_its_members(tmp_path: Path) -> None:
    packed = {"videos.zip": zip_of({"videos/a.mp4": b"1", "videos/b.mp4": b"2"}), "more.tar": tar_of({"c.mp4": b"3"})}
    table = b"file_name,text\nvideos/a.mp4,a cat\nc.mp4,a dog\nvideos/b.mp4,\nd.mp4,nobody\n"
    found = downloaded(tmp_path, make_files(tmp_path / "s", packed | {"metadata.csv": table}))
    assert found.captions == {"videos/a.mp4": ["a cat"], "c.mp4": ["a dog"]}
    assert {path: reason for path, (reason, _) in found.rejected.items()} == {
        "videos/b.mp4": "no_caption",
        "d.mp4": "missing",
    }


def test_archives_with_one_path_twice_are_unpacked_apart(tmp_path: Path) -> None:
    shards = {
        "s/0.tar": tar_of({"a.mp4": b"0a", "a.txt": b"zero"}),
        "s/1.tar": tar_of({"a.mp4": b"1a", "a.txt": b"one", "b.mp4": b"1b", "b.txt": b"one b"}),
        "s/2.zip": zip_of({"c.mp4": b"2c", "metadata.txt": b"no table"}),
        "s/texts.zip": zip_of({"c.txt": b"two c", "metadata.txt": b"again"}),
    }
    found = downloaded(tmp_path, make_files(tmp_path / "s", shards))
    expected = {"s/a.mp4": ["zero"], "s/1/a.mp4": ["one"], "s/1/b.mp4": ["one b"], "s/c.mp4": ["two c"]}
    assert found.captions == expected and not found.rejected


def test_beside_plain_videos_archives_are_read_when_asked_for(tmp_path: Path) -> None:
    files = {"a.mp4": b"plain", "a.txt": b"p", "x.tar": tar_of({"a.mp4": b"1", "a.txt": b"q", "b.mp4": b"2"})}
    folder = make_files(tmp_path / "s", files)
    assert downloaded(tmp_path / "1", folder).captions == {"a.mp4": ["p"]}
    both = downloaded(tmp_path / "2", folder, archives="read")
    assert both.captions == {"a.mp4": ["p"], "x/a.mp4": ["q"]} and list(both.rejected) == ["x/b.mp4"]
    ignored = downloaded(tmp_path / "3", folder, archives="ignore")
    assert ignored.artifact.content == downloaded(tmp_path / "4", folder).artifact.content
    at = context(tmp_path / "5", {"source": str(folder)})
    notes = check_sources(at.config, work_dir=at.work_dir)[1]
    assert any("the archive x.tar lies beside 1 video: " in note and "archives: read" in note for note in notes)


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


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("train-0.parquet", embedded([{"video": VIDEO, "label": 1}]), "the rows of train-0.parquet has none of"),
        (
            "0.tar",
            tar_of({"a.mp4": b"1", "a.json": b'{"label": "x"}'}),
            "the videos, such as a.json has none of",
        ),
    ],
)
def test_a_missing_column_is_one_of_the_archive(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    at = context(tmp_path, {"source": str(make_files(tmp_path / "s", {name: data}))})
    [problem], _ = check_sources(at.config, work_dir=at.work_dir)
    assert says in str(problem) and "name one in captions.text_columns" in str(problem)
    assert "label" in str(problem) and "metadata." not in str(problem)


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
