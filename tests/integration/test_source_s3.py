"""Laws of sources in S3: which objects are listed, what changes the listing, and what the cache keeps."""

import os
from pathlib import Path

import pytest

from sana.data.sources.backends import S3Backend
from sana.data.sources.file_cache import FileCache
from sana.data.sources.listing import files_of
from sana.errors import ConfigError, SanaError
from sana.store import open_store
from sana.store_s3 import ObjectInfo, S3Store
from tests.source_files import FILES, digests, listing, opened

pytestmark = pytest.mark.timeout(60)


def upload(root: str, files: dict[str, bytes]) -> None:
    store = open_store(root)
    for key, data in files.items():
        store.delete(key)
        assert store.put_if_absent(key, data)


def put_raw(root: str, key: str, data: bytes) -> None:
    """Put an object under any key, as other tools may."""
    S3Store(root)._call("put_object", Key=f"{root.removeprefix('s3://').partition('/')[2]}/{key}", Body=data)


S3_FILES = {key: data for key, data in FILES.items() if "\n" not in key}


def test_s3_objects_are_listed_and_fetched(s3_root: str, tmp_path: Path) -> None:
    upload(s3_root, {**S3_FILES, ".hidden.mp4": b"h", "other.txt": b"no video", "x.webp": b"w"})
    for key in ("folder/", "clip.mp4/", "hadoop_$folder$"):  # as consoles and mounts show a folder
        put_raw(s3_root, key, b"")
    source = opened(f"{s3_root}/", tmp_path / "work")
    assert [file.path for file in listing(source)] == sorted(S3_FILES)
    assert source.unused_files.column("path").to_pylist() == ["other.txt", "x.webp"]
    assert all(file.identity.startswith("etag:") and source.digest(file) == file.identity for file in listing(source))
    for file in listing(source):
        if file.path.endswith(".txt"):
            assert source.read(file).decode() == S3_FILES[file.path].decode()
        else:
            with source.open_video(file.path, digest=file.identity) as path:
                assert path.read_bytes() == S3_FILES[file.path]
                assert path.suffix == Path(file.path).suffix.lower()


def test_only_other_content_changes_an_s3_listing(s3_root: str, tmp_path: Path) -> None:
    upload(s3_root, S3_FILES)
    before = opened(s3_root, tmp_path / "work")
    contents = digests(before)
    upload(s3_root, S3_FILES)
    again = opened(s3_root, tmp_path / "work")
    assert (again.listing_digest(), digests(again)) == (before.listing_digest(), contents)
    upload(s3_root, {"b.mp4": b"VIDEO B"})
    after = opened(s3_root, tmp_path / "work")
    assert after.listing_digest() != before.listing_digest()
    assert [path for path in contents if digests(after)[path] != contents[path]] == ["b.mp4"]
    with pytest.raises(SanaError, match="not what was listed"), before.open_video("b.mp4", digest=contents["b.mp4"]):
        pass
    open_store(s3_root).delete("b.mp4")
    with pytest.raises(SanaError, match="not what was listed"), before.open_video("b.mp4", digest=contents["b.mp4"]):
        pass


# Characters that mean something to a shell, an address or a glob, and some that nobody sees: fetched as they are.
ODD_KEYS = [
    "a%20b.mp4", "a%2Fb.mp4", "a%.mp4", "a#b.mp4", "a+b.mp4", "a*b.mp4", "a[b].mp4", "a{b}.mp4", " lead.mp4",
    "trail .mp4",
    "d /x.mp4", "a?b.mp4", "a?versionid=2.mp4", "a%3FversionId=3.mp4", "a&b=c;d:e@f!'()~.mp4", 'a"b,<c>|d^e`f$g.mp4',
    "caf\u00e9.mp4", "cafe\u0301.mp4", "\U0001f600.mp4", "a\nb.mp4", "a\tb.mp4", "a\u202eb.mp4", "a\x01b.mp4", "~.mp4",
    "-x.mp4",
]  # fmt: skip


def test_odd_s3_keys_are_read_as_they_are_and_one_that_is_cut_is_named(s3_root: str, tmp_path: Path) -> None:
    contents = {key: f"content {number}".encode() for number, key in enumerate(ODD_KEYS)}
    cut = "x?versionId=1.mp4"
    for key, data in {
        **contents,
        cut: b"content of x",
        "x": b"another, at the cut key",
        "t.csv": b"video,text\n",
    }.items():
        put_raw(s3_root, key, data)
    source = opened(s3_root, tmp_path / "work")
    found = {file.path: file for file in files_of(source.videos)}
    assert sorted(found) == sorted([*ODD_KEYS, cut])
    for key, data in contents.items():
        with source.open_video(key, digest=found[key].identity) as path:
            assert path.read_bytes() == data
    assert "?versionId=, after which S3 clients look for" in found[cut].trouble and found[cut].trouble.endswith(
        "rename it"
    )
    with pytest.raises(ValueError, match="versionId"):
        S3Store(s3_root).read(cut)
    with pytest.raises(ConfigError, match=r"source s3://.*versionId"):
        opened(f"{s3_root}/x?versionId=1", tmp_path / "work")


def test_a_table_that_names_a_version_says_so(s3_root: str, tmp_path: Path) -> None:
    upload(s3_root, {"x.mp4": b"1", "t.csv": b"video,text\nx.mp4?versionId=3,a\nx.mp4,b\n"})
    source = opened(f"{s3_root}/t.csv", tmp_path / "work")
    troubles = {file.path: file.trouble for file in files_of(source.videos)}
    assert troubles["x.mp4"] == "" and "versionId" in troubles["x.mp4?versionId=3"]


@pytest.mark.parametrize("key", ["a//b.mp4", "../b.mp4", "/b.mp4", "a/./b.mp4", "a\\b.mp4", "a\0.mp4"], ids=range(6))
def test_an_s3_key_that_is_no_valid_path_is_listed_with_its_trouble(s3_root: str, tmp_path: Path, key: str) -> None:
    """S3 takes any text as a key (the test server normalises them): such a video is rejected, the others are kept."""
    backend = S3Backend(s3_root, FileCache(tmp_path, max_bytes=1))
    file = backend._file(ObjectInfo(key, 7, "etag"))
    assert "rename" in file.trouble and file.num_bytes == 0 and "\0" not in file.path
    assert list(backend.find([key])) == [file], "and it is never looked up"


def test_s3_without_videos_is_a_config_error(s3_root: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no video"):
        listing(opened(s3_root, tmp_path / "work"))
    with pytest.raises(ConfigError, match="names no bucket"):
        opened("s3://", tmp_path / "work")


def test_s3_videos_stay_within_the_budget(s3_root: str, tmp_path: Path) -> None:
    upload(s3_root, {f"{i}.mp4": os.urandom(1000) for i in range(12)})
    source = opened(s3_root, tmp_path / "work", cache_bytes=3500)
    folder = tmp_path / "work/cache/videos"
    for file in listing(source):
        with source.open_video(file.path, digest=file.identity) as path:
            assert path.stat().st_size == 1000
        assert sum(entry.stat().st_size for entry in folder.rglob("*") if entry.is_file()) <= 3500
