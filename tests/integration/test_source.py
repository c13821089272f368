"""Laws of sources: what is listed, what changes the listing, and what a file's digest follows."""

import json
import os
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sana.config.data import DatasetConfig
from sana.config.load import load_config
from sana.data.listing import SourceFile, files_of
from sana.data.origins import S3Origin
from sana.data.source import Source, open_source, open_sources
from sana.data.video_cache import VideoCache
from sana.errors import ConfigError, SanaError
from sana.store import StoreError, open_store
from sana.store_s3 import ObjectInfo
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(60)

FILES = {
    "b.mp4": b"video b",
    "b.txt": b"a caption",
    "a/x y.MOV": b"video x",
    "a/x y.txt": "\u732b in the rain".encode(),
    "a/new\nline.webm": b"video n",
    "a/b.c.mkv": b"video c",
    "a/b.c.txt": b"c",
    "\u00e9t\u00e9/clip.mp4": b"video e",
}
NOT_LISTED = {".hidden.mp4": b"h", ".git/x.mp4": b"h", "README.md": b"#", "other.txt": b"no video", "a/b.txt": b"none"}


def make(folder: Path, files: dict[str, bytes], *, seed: int = 0) -> Path:
    names = list(files)
    random.Random(seed).shuffle(names)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[name])
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def opened(source: Path | str, work_dir: Path, *, cache_bytes: int = 10**9, read_only: bool = False) -> Source:
    dataset = DatasetConfig(id="d", source=str(source))
    return open_source(dataset, work_dir=work_dir, cache_bytes=cache_bytes, read_only=read_only)


def listing(source: Source) -> list[SourceFile]:
    return sorted([*files_of(source.videos), *files_of(source.caption_files)], key=lambda file: file.path)


def digests(source: Source) -> dict[str, str]:
    return {file.path: source.digest(file) for file in listing(source)}


# -- a local folder --


def test_a_listing_is_sorted_and_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    sources = [opened(make(tmp_path / f"s{i}", {**FILES, **NOT_LISTED}, seed=i), tmp_path / "work") for i in range(5)]
    assert [file.path for file in listing(sources[0])] == sorted(FILES)
    assert all(listing(source) == listing(sources[0]) for source in sources)
    assert len({source.listing_digest() for source in sources}) == 1
    assert all(digests(source) == digests(sources[0]) for source in sources)
    assert sources[0].revision == ""


def test_every_listed_file_can_be_read(tmp_path: Path) -> None:
    source = opened(make(tmp_path / "s", FILES), tmp_path / "work")
    for file in listing(source):
        assert file.num_bytes == len(FILES[file.path])
        if file.path.endswith(".txt"):
            assert source.read(file).decode() == FILES[file.path].decode()
        else:
            with source.open_video(file.path, digest=source.digest(file)) as path:
                assert path == tmp_path / "s" / file.path, "a local video is used in place"
    assert not (tmp_path / "work/cache/videos").exists()


def test_touch_changes_the_listing_and_no_digest(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", FILES)
    before = opened(folder, tmp_path / "work")
    listing, contents = before.listing_digest(), digests(before)
    os.utime(folder / "b.mp4")
    after = opened(folder, tmp_path / "work")
    assert after.listing_digest() != listing
    assert digests(after) == contents


def test_other_content_changes_both(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", FILES)
    before = opened(folder, tmp_path / "work")
    listing, contents = before.listing_digest(), digests(before)
    (folder / "b.mp4").write_bytes(b"VIDEO B")
    after = opened(folder, tmp_path / "work")
    assert after.listing_digest() != listing
    assert [path for path in contents if digests(after)[path] != contents[path]] == ["b.mp4"]


@pytest.mark.parametrize("change", ["other.txt", "README.md", ".hidden.mp4"])
def test_what_is_no_clip_changes_nothing(tmp_path: Path, change: str) -> None:
    folder = make(tmp_path / "s", FILES)
    before = opened(folder, tmp_path / "work").listing_digest()
    (folder / change).write_bytes(b"new")
    assert opened(folder, tmp_path / "work").listing_digest() == before


def test_adding_removing_and_renaming_are_seen(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", FILES)
    seen = {opened(folder, tmp_path / "work").listing_digest()}
    (folder / "a/b.c.mkv").rename(folder / "a/b.d.mkv")
    seen.add(opened(folder, tmp_path / "work").listing_digest())
    (folder / "b.txt").unlink()
    seen.add(opened(folder, tmp_path / "work").listing_digest())
    make(folder, {"c.mp4": b"c"})
    seen.add(opened(folder, tmp_path / "work").listing_digest())
    assert len(seen) == 4


def test_symlinks_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", {"a/one.mp4": b"1"})
    elsewhere = make(tmp_path / "elsewhere", {"two.mp4": b"22", "deep/three.mp4": b"333"})
    (folder / "linked.mp4").symlink_to(elsewhere / "two.mp4")
    (folder / "more").symlink_to(elsewhere)
    (folder / "a/up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (elsewhere / "deep/back").symlink_to(elsewhere)
    source = opened(folder, tmp_path / "work")
    names = ["a/one.mp4", "linked.mp4", "more/deep/three.mp4", "more/two.mp4"]
    assert [file.path for file in listing(source)] == names
    assert digests(source)["linked.mp4"] == digests(source)["more/two.mp4"]


def test_a_symlink_to_nothing_is_listed_so_that_it_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", FILES)
    (folder / "gone.mp4").symlink_to(tmp_path / "unmounted.mp4")
    source = opened(folder, tmp_path / "work")
    gone = next(file for file in listing(source) if file.path == "gone.mp4")
    assert gone.num_bytes == 0
    with pytest.raises(OSError):
        source.digest(gone)


def test_what_is_no_file_is_listed_with_its_trouble_so_that_it_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", {"a.mp4": b"a", "folder.mp4/in.mp4": b"b"})
    os.mkfifo(folder / "pipe.MKV")
    os.mkfifo(folder / "pipe.txt")
    (folder / "loop.mov").symlink_to("loop.mov")
    make(
        folder, {os.fsdecode(b"caf\xe9.mp4"): b"x", os.fsdecode(b"d\xff/x.mp4"): b"x", os.fsdecode(b"t\xe9.txt"): b"x"}
    )
    troubles = {file.path: file.trouble for file in listing(opened(folder, tmp_path / "work"))}
    assert {path: trouble.split(";")[0] for path, trouble in troubles.items()} == {
        "a.mp4": "",
        "caf\\xe9.mp4": "its name is not UTF-8",
        "d\\xff/x.mp4": "its name is not UTF-8",
        "folder.mp4": "not a file, but a folder",
        "folder.mp4/in.mp4": "",
        "loop.mov": "a symbolic link that leads nowhere",
        "pipe.MKV": "not a file, but a pipe",
    }


def test_what_is_no_source_is_a_config_error(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(ConfigError, match="not there"):
        opened(tmp_path / "nothing", work)
    with pytest.raises(ConfigError, match="a file"):
        opened(make(tmp_path / "f", {"a.mp4": b""}) / "a.mp4", work)
    with pytest.raises(ConfigError, match=r"no video.*\.mp4.*\.webm"):
        listing(opened(make(tmp_path / "empty", {"a.txt": b"", "b.gif": b""}), work))
    hub_names = ("hf://films/cats", "hf://datasets/cats", "hf://datasets/a/b/c", "hf://datasets/a/..")
    for uri in ("http://host/x", "gs://bucket/x", "file:///x", *hub_names):
        with pytest.raises(ConfigError, match=r"local folder.*s3://bucket/prefix.*hf://datasets/owner/name"):
            opened(uri, work)
    assert not work.exists()


@pytest.mark.parametrize("path", ["../x.mp4", "/etc/x.mp4", "a/../../x.mp4", ""])
def test_a_path_cannot_leave_the_source(tmp_path: Path, path: str) -> None:
    source = opened(make(tmp_path / "s", FILES), tmp_path / "work")
    with pytest.raises(ValueError, match="inside"):
        source.open_video(path, digest="x")


@pytest.mark.parametrize("data", [b"VIDEO B", b"longer than before", None])
def test_a_video_that_changed_since_is_not_opened(tmp_path: Path, data: bytes | None) -> None:
    folder = make(tmp_path / "s", FILES)
    source = opened(folder, tmp_path / "work")
    digest = digests(source)["b.mp4"]
    (folder / "b.mp4").unlink()
    if data:
        (folder / "b.mp4").write_bytes(data)
    with pytest.raises(SanaError, match="not what was listed"), source.open_video("b.mp4", digest=digest):
        pass


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    source = opened(make(tmp_path / "s", FILES), tmp_path / "work", read_only=True)
    source.listing_digest()
    digests(source)
    assert not (tmp_path / "work").exists()


def test_threads_see_one_listing(tmp_path: Path) -> None:
    source = opened(make(tmp_path / "s", {f"{i}.mp4": bytes([i]) for i in range(50)}), tmp_path / "work")
    with ThreadPoolExecutor(8) as workers:
        seen = list(workers.map(lambda _: (source.listing_digest(), tuple(digests(source).items())), range(16)))
    assert len(set(seen)) == 1


# -- S3 --


@pytest.fixture
def prefix(s3: WeedServer, request: pytest.FixtureRequest) -> str:
    return f"s3://{s3.bucket}/{request.node.name}-{time.time_ns()}"


def upload(root: str, files: dict[str, bytes]) -> None:
    store = open_store(root)
    for key, data in files.items():
        store.delete(key)
        assert store.put_if_absent(key, data)


S3_FILES = {key: data for key, data in FILES.items() if "\n" not in key}


def test_s3_lists_and_fetches_what_is_there(prefix: str, tmp_path: Path) -> None:
    upload(prefix, {**S3_FILES, ".hidden.mp4": b"h", "other.txt": b"no video"})
    source = opened(f"{prefix}/", tmp_path / "work")
    assert [file.path for file in listing(source)] == sorted(S3_FILES)
    assert all(file.identity.startswith("etag:") and source.digest(file) == file.identity for file in listing(source))
    for file in listing(source):
        if file.path.endswith(".txt"):
            assert source.read(file).decode() == S3_FILES[file.path].decode()
        else:
            with source.open_video(file.path, digest=file.identity) as path:
                assert path.read_bytes() == S3_FILES[file.path]
                assert path.suffix == Path(file.path).suffix.lower()


def test_s3_sees_other_content_and_only_that(prefix: str, tmp_path: Path) -> None:
    upload(prefix, S3_FILES)
    before = opened(prefix, tmp_path / "work")
    contents = digests(before)
    upload(prefix, S3_FILES)
    again = opened(prefix, tmp_path / "work")
    assert (again.listing_digest(), digests(again)) == (before.listing_digest(), contents)
    upload(prefix, {"b.mp4": b"VIDEO B"})
    after = opened(prefix, tmp_path / "work")
    assert after.listing_digest() != before.listing_digest()
    assert [path for path in contents if digests(after)[path] != contents[path]] == ["b.mp4"]
    with pytest.raises(SanaError, match="not what was listed"), before.open_video("b.mp4", digest=contents["b.mp4"]):
        pass
    open_store(prefix).delete("b.mp4")
    with pytest.raises(SanaError, match="not what was listed"), before.open_video("b.mp4", digest=contents["b.mp4"]):
        pass


@pytest.mark.parametrize("key", ["a//b.mp4", "../b.mp4", "/b.mp4", "a/./b.mp4", "a\\b.mp4", "a\0.mp4"], ids=range(6))
def test_an_s3_key_that_is_no_path_is_listed_with_its_trouble(prefix: str, tmp_path: Path, key: str) -> None:
    """S3 takes any text as a key (the server at hand mends them): such a video is refused, the data set goes on."""
    origin = S3Origin(prefix, VideoCache(tmp_path, max_bytes=1))
    file = origin._file(ObjectInfo(key, 7, "etag"))
    assert "rename" in file.trouble and file.num_bytes == 0 and "\0" not in file.path
    assert list(origin.find([key])) == [], "and it is never asked for"


def test_s3_without_videos_is_a_config_error(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no video"):
        listing(opened(prefix, tmp_path / "work"))
    with pytest.raises(ConfigError, match="names no bucket"):
        opened("s3://", tmp_path / "work")


def test_s3_videos_stay_within_the_budget(prefix: str, tmp_path: Path) -> None:
    upload(prefix, {f"{i}.mp4": os.urandom(1000) for i in range(12)})
    source = opened(prefix, tmp_path / "work", cache_bytes=3500)
    folder = tmp_path / "work/cache/videos"
    for file in listing(source):
        with source.open_video(file.path, digest=file.identity) as path:
            assert path.stat().st_size == 1000
        assert sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file()) <= 3500


def test_sources_are_opened_by_their_ids(tmp_path: Path) -> None:
    make(tmp_path / "one", FILES)
    make(tmp_path / "two", {"x.mp4": b"x"})
    datasets = [{"id": name, "source": str(tmp_path / name)} for name in ("one", "two")]
    config = load_config(Path(__file__).parents[2] / "configs/demo.yaml", [f"download.datasets={json.dumps(datasets)}"])
    sources = open_sources(config, work_dir=tmp_path / "work")
    assert {name: len(listing(source)) for name, source in sources.items()} == {"one": len(FILES), "two": 1}


WRONG = {  # what is in the folder, what the config says of it beside its id, what the message goes on with
    "gone": ({}, {"source": "gone"}, "source .*gone is not there"),
    "a file": ({"a.gif": b""}, {"source": "a.gif"}, "is a file"),
    "of no kind": ({}, {"source": "gs://bucket/x"}, "is not one of"),
    "no bucket": ({}, {"source": "s3://"}, "source s3://: "),
    "no video": ({"a.txt": b""}, {}, "holds no video"),
    "no table": ({"a.mp4": b""}, {"captions": {"layout": "metadata"}}, "no metadata.csv"),
    "table gone": ({}, {"source": "t.csv"}, "t.csv is not there"),
    "table without a column": ({"t.csv": b"video,words\n"}, {"source": "t.csv"}, "t.csv has none of"),
    "wrong layout": ({"t.csv": b"video,text\n"}, {"source": "t.csv", "captions": {"layout": "lines"}}, "is a table"),
    "hub offline": ({}, {"source": "hf://datasets/a/b"}, "HF_HUB_OFFLINE is set"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_source_names_its_data_set_once(
    tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, knobs, says = WRONG[case]
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    folder = make(tmp_path / "s", files)
    folder.mkdir(exist_ok=True)
    source = knobs.get("source", "")
    knobs = {**knobs, "source": source if "://" in source else str(folder / source)}
    with pytest.raises(ConfigError, match=rf"^download\.datasets\[films\.1\]: (?!download)(?s:.*){says}"):
        listing(open_source(DatasetConfig(id="films.1", **knobs), work_dir=tmp_path / "work", cache_bytes=1))


def test_what_is_wrong_while_a_source_is_read_names_its_data_set(tmp_path: Path, s3: WeedServer) -> None:
    folder = make(tmp_path / "s", FILES)
    source = opened(folder, tmp_path / "work")
    digest = digests(source)["b.mp4"]
    (folder / "b.mp4").write_bytes(b"other")
    with (
        pytest.raises(SanaError, match=r"^download\.datasets\[d\]: .*not what"),
        source.open_video("b.mp4", digest=digest),
    ):
        pass
    with pytest.raises(StoreError, match=r"^download\.datasets\[d\]: .*bucket does not exist"):
        listing(opened(f"s3://no-such-{s3.bucket}/x", tmp_path / "work"))


def test_what_is_wrong_with_the_use_of_a_file_is_not_blamed_on_its_data_set(tmp_path: Path) -> None:
    source = opened(make(tmp_path / "s", FILES), tmp_path / "work")
    with (
        pytest.raises(SanaError, match="^the store is full"),
        source.open_video("b.mp4", digest=digests(source)["b.mp4"]),
    ):
        raise SanaError("the store is full")
