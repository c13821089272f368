"""Laws of sources in S3: which objects are listed, what changes the listing, and what the cache keeps."""

import os
from pathlib import Path

import pytest

from sana.data.sources.backends import S3Backend
from sana.data.sources.file_cache import FileCache
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


@pytest.mark.parametrize("key", ["a//b.mp4", "../b.mp4", "/b.mp4", "a/./b.mp4", "a\\b.mp4", "a\0.mp4"], ids=range(6))
def test_an_s3_key_that_is_no_valid_path_is_listed_with_its_trouble(s3_root: str, tmp_path: Path, key: str) -> None:
    """S3 takes any text as a key (the test server normalises them): such a video is rejected, the others are kept."""
    backend = S3Backend(s3_root, FileCache(tmp_path, max_bytes=1))
    file = backend._file(ObjectInfo(key, 7, "etag"))
    assert "rename" in file.trouble and file.num_bytes == 0 and "\0" not in file.path
    assert list(backend.find([key])) == [], "and it is never looked up"


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
