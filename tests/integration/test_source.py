"""Laws of local sources: which files are listed, and what changes the listing and a file's digest."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sana.config.load import load_config
from sana.data.sources.source import open_sources
from sana.errors import ConfigError, SanaError
from tests.source_files import FILES, digests, listing, make_files, opened

pytestmark = pytest.mark.timeout(60)


NOT_LISTED = {".hidden.mp4": b"h", ".git/x.mp4": b"h", "README.md": b"#", "other.txt": b"no video", "a/b.txt": b"none"}


def test_a_listing_is_sorted_and_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    sources = [
        opened(make_files(tmp_path / f"s{i}", {**FILES, **NOT_LISTED}, seed=i), tmp_path / "work") for i in range(5)
    ]
    assert [file.path for file in listing(sources[0])] == sorted(FILES)
    assert all(listing(source) == listing(sources[0]) for source in sources)
    assert len({source.listing_digest() for source in sources}) == 1
    assert all(digests(source) == digests(sources[0]) for source in sources)
    assert sources[0].revision == ""


def test_every_listed_file_can_be_read(tmp_path: Path) -> None:
    source = opened(make_files(tmp_path / "s", FILES), tmp_path / "work")
    for file in listing(source):
        assert file.num_bytes == len(FILES[file.path])
        if file.path.endswith(".txt"):
            assert source.read(file).decode() == FILES[file.path].decode()
        else:
            with source.open_video(file.path, digest=source.digest(file)) as path:
                assert path == tmp_path / "s" / file.path, "a local video is used in place"
    assert not (tmp_path / "work/cache/videos").exists()


def test_touch_changes_the_listing_and_no_digest(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", FILES)
    before = opened(folder, tmp_path / "work")
    listing, contents = before.listing_digest(), digests(before)
    os.utime(folder / "b.mp4")
    after = opened(folder, tmp_path / "work")
    assert after.listing_digest() != listing
    assert digests(after) == contents


def test_other_content_changes_listing_and_digest(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", FILES)
    before = opened(folder, tmp_path / "work")
    listing, contents = before.listing_digest(), digests(before)
    (folder / "b.mp4").write_bytes(b"VIDEO B")
    after = opened(folder, tmp_path / "work")
    assert after.listing_digest() != listing
    assert [path for path in contents if digests(after)[path] != contents[path]] == ["b.mp4"]


@pytest.mark.parametrize(
    ("path", "is_seen"),
    [("other.txt", True), ("README.md", True), (".hidden.mp4", False), (".git/x.mp4", False), ("a/.DS_Store", False)],
)
def test_files_that_nothing_reads_enter_the_listing_by_name_and_size(tmp_path: Path, path: str, is_seen: bool) -> None:
    folder = make_files(tmp_path / "s", FILES)
    before = opened(folder, tmp_path / "work").listing_digest()
    make_files(folder, {path: "new"})
    after = opened(folder, tmp_path / "work").listing_digest()
    assert (after != before) == is_seen
    os.utime(folder / path)
    assert opened(folder, tmp_path / "work").listing_digest() == after, "a touch of what is not read lists nothing anew"


def test_adding_removing_and_renaming_are_seen(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", FILES)
    seen = {opened(folder, tmp_path / "work").listing_digest()}
    (folder / "a/b.c.mkv").rename(folder / "a/b.d.mkv")
    seen.add(opened(folder, tmp_path / "work").listing_digest())
    (folder / "b.txt").unlink()
    seen.add(opened(folder, tmp_path / "work").listing_digest())
    make_files(folder, {"c.mp4": b"c"})
    seen.add(opened(folder, tmp_path / "work").listing_digest())
    assert len(seen) == 4


def test_symlinks_are_followed_and_a_loop_ends(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"a/one.mp4": b"1"})
    elsewhere = make_files(tmp_path / "elsewhere", {"two.mp4": b"22", "deep/three.mp4": b"333"})
    (folder / "linked.mp4").symlink_to(elsewhere / "two.mp4")
    (folder / "more").symlink_to(elsewhere)
    (folder / "a/up").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (elsewhere / "deep/back").symlink_to(elsewhere)
    source = opened(folder, tmp_path / "work")
    names = ["a/one.mp4", "linked.mp4", "more/deep/three.mp4", "more/two.mp4"]
    assert [file.path for file in listing(source)] == names
    assert digests(source)["linked.mp4"] == digests(source)["more/two.mp4"]


def test_a_symlink_to_nothing_is_listed_so_that_it_is_rejected(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", FILES)
    (folder / "gone.mp4").symlink_to(tmp_path / "unmounted.mp4")
    source = opened(folder, tmp_path / "work")
    gone = next(file for file in listing(source) if file.path == "gone.mp4")
    assert gone.num_bytes == 0
    with pytest.raises(OSError):
        source.digest(gone)


def test_unreadable_videos_are_listed_with_their_trouble_so_that_they_are_rejected(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"a.mp4": b"a", "folder.mp4/in.mp4": b"b"})
    os.mkfifo(folder / "pipe.MKV")
    os.mkfifo(folder / "pipe.txt")
    (folder / "loop.mov").symlink_to("loop.mov")
    make_files(
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


def test_an_invalid_source_is_a_config_error(tmp_path: Path) -> None:
    work = tmp_path / "work"
    with pytest.raises(ConfigError, match="not there"):
        opened(tmp_path / "nothing", work)
    with pytest.raises(ConfigError, match="a file"):
        opened(make_files(tmp_path / "f", {"a.mp4": b""}) / "a.mp4", work)
    with pytest.raises(ConfigError, match=r"no video.*\.mp4.*\.webm.*: 1 \.txt, 1 \.webp"):
        listing(opened(make_files(tmp_path / "empty", {"a.txt": b"", "b.webp": b""}), work))
    hub_names = ("hf://films/cats", "hf://datasets/cats", "hf://datasets/a/b/c", "hf://datasets/a/..")
    for uri in ("http://host/x", "gs://bucket/x", "file:///x", *hub_names):
        with pytest.raises(ConfigError, match=r"local folder.*s3://bucket/prefix.*hf://datasets/owner/name"):
            opened(uri, work)
    assert not work.exists()


@pytest.mark.parametrize("path", ["../x.mp4", "/etc/x.mp4", "a/../../x.mp4", ""])
def test_a_path_cannot_leave_the_source(tmp_path: Path, path: str) -> None:
    source = opened(make_files(tmp_path / "s", FILES), tmp_path / "work")
    with pytest.raises(ValueError, match="inside"):
        source.open_video(path, digest="x")


@pytest.mark.parametrize("data", [b"VIDEO B", b"longer than before", None])
def test_a_video_that_changed_since_is_not_opened(tmp_path: Path, data: bytes | None) -> None:
    folder = make_files(tmp_path / "s", FILES)
    source = opened(folder, tmp_path / "work")
    digest = digests(source)["b.mp4"]
    (folder / "b.mp4").unlink()
    if data:
        (folder / "b.mp4").write_bytes(data)
    with pytest.raises(SanaError, match="not what was listed"), source.open_video("b.mp4", digest=digest):
        pass


def test_read_only_writes_nothing(tmp_path: Path) -> None:
    source = opened(make_files(tmp_path / "s", FILES), tmp_path / "work", read_only=True)
    source.listing_digest()
    digests(source)
    assert not (tmp_path / "work").exists()


def test_threads_see_one_listing(tmp_path: Path) -> None:
    source = opened(make_files(tmp_path / "s", {f"{i}.mp4": bytes([i]) for i in range(50)}), tmp_path / "work")
    with ThreadPoolExecutor(8) as workers:
        seen = list(workers.map(lambda _: (source.listing_digest(), tuple(digests(source).items())), range(16)))
    assert len(set(seen)) == 1


def test_sources_are_opened_by_their_ids(tmp_path: Path) -> None:
    make_files(tmp_path / "one", FILES)
    make_files(tmp_path / "two", {"x.mp4": b"x"})
    datasets = [{"id": name, "source": str(tmp_path / name)} for name in ("one", "two")]
    config = load_config(Path(__file__).parents[2] / "configs/demo.yaml", [f"download.datasets={json.dumps(datasets)}"])
    sources = open_sources(config, work_dir=tmp_path / "work")
    assert {name: len(listing(source)) for name, source in sources.items()} == {"one": len(FILES), "two": 1}
