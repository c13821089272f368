"""The store's contract, the same on a disk and on S3."""

import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from sana.store import LocalStore, Store, StoreError, open_store
from sana.store_s3 import S3Store

pytestmark = pytest.mark.timeout(20)
BAD_KEYS = ["", "/a", "a/", "a//b", "..", "a/../b", "../a", "./a", "a/.", "a\\b", "a\0b", "/etc/passwd", "a/.tmp-x"]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "root") if request.param == "local" else request.getfixturevalue("s3_root"))


def test_bytes_read_back(store: Store, tmp_path: Path) -> None:
    data = random.Random(0).randbytes(300_000)
    assert store.put_if_absent("a/b c+%&=\u00e4.bin", data)
    key = "a/b c+%&=\u00e4.bin"
    assert store.exists(key) and store.size(key) == len(data) and store.read(key) == data
    assert store.list("") == [(key, len(data))]
    store.fetch(key, tmp_path / "new" / "copy")
    assert (tmp_path / "new" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["copy"]


def test_an_empty_object_is_an_object(store: Store) -> None:
    assert store.put_if_absent("empty", b"")
    assert (store.read("empty"), store.size("empty"), store.read_range("empty", 0, 0)) == (b"", 0, b"")


def test_second_put_changes_nothing(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    assert store.put_if_absent("k", b"first") is True
    assert store.put_if_absent("k", b"second") is False
    assert store.put_file_if_absent("k", tmp_path / "other") is False
    assert store.read("k") == b"first"


def test_a_stored_file_does_not_follow_its_source(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"as it was")
    assert store.put_file_if_absent("k", source) is True
    source.write_bytes(b"changed!!")
    assert store.read("k") == b"as it was"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        store.put_file_if_absent("l", tmp_path / "nowhere")


def test_sixteen_writers_have_one_winner(store: Store) -> None:
    barrier = Barrier(16)

    def put(key: str, writer: int) -> bool:
        barrier.wait()
        return store.put_if_absent(key, f"{writer}".encode() * 1000)

    keys = [f"race/{i}" for i in range(50 if store.is_local else 1)]  # weed keeps losers waiting for seconds
    for key in keys:
        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(put, [key] * 16, range(16)))
        assert won.count(True) == 1
        assert store.read(key) == f"{won.index(True)}".encode() * 1000
    assert [key for key, _ in store.list("race")] == sorted(keys)


def test_ranges_are_exact(store: Store) -> None:
    data = random.Random(1).randbytes(10_000)
    store.put_if_absent("k", data)
    for start, length in [(0, 1), (0, 10_000), (9_999, 1), (4_096, 4_096), (10_000, 0)]:
        assert store.read_range("k", start, length) == data[start : start + length]
        buffer = bytearray(length + 2)
        store.read_into("k", start, memoryview(buffer)[1:-1])
        assert buffer == b"\0" + data[start : start + length] + b"\0"


def test_a_buffer_of_floats_is_filled_by_the_byte(store: Store) -> None:
    numbers, got = array("f", range(100)), array("f", [0.0] * 40)
    store.put_if_absent("k", numbers.tobytes())
    store.read_into("k", 4 * 50, memoryview(got))
    assert got == numbers[50:90]
    with pytest.raises(ValueError, match="-4"):
        store.read_into("k", -4, memoryview(got))
    with pytest.raises(ValueError, match="-4"):
        store.read_range("k", -4, 4)


@pytest.mark.parametrize(("start", "length"), [(0, 101), (99, 2), (100, 1), (5_000, 1)])
def test_reading_past_the_end_is_an_error(store: Store, start: int, length: int) -> None:
    store.put_if_absent("k", b"x" * 100)
    with pytest.raises(StoreError, match="k.*ends before"):
        store.read_range("k", start, length)
    with pytest.raises(StoreError, match="k.*ends before"):
        store.read_into("k", start, memoryview(bytearray(length)))


def test_no_object_is_file_not_found_with_its_uri(store: Store, tmp_path: Path) -> None:
    store.put_if_absent("folder/k", b"x")
    reads: list[Callable[[str], object]] = [
        store.read,
        store.size,
        lambda key: store.read_range(key, 0, 1),
        lambda key: store.fetch(key, tmp_path / "copy"),
    ]
    for key in ("none", "folder", "folder/none"):
        assert not store.exists(key)
        for read in reads:
            with pytest.raises(FileNotFoundError) as raised:
                read(key)
            assert raised.value.filename == store.uri(key)
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("key", BAD_KEYS)
def test_names_never_escape_the_root(store: Store, key: str, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x")
    methods: list[Callable[[], object]] = [
        lambda: store.uri(key),
        lambda: store.local_path(key),
        lambda: store.exists(key),
        lambda: store.read(key),
        lambda: store.read_range(key, 0, 1),
        lambda: store.put_if_absent(key, b"x"),
        lambda: store.put_file_if_absent(key, tmp_path / "source"),
        lambda: store.delete(key),
        lambda: store.fetch(key, tmp_path / "copy"),
    ]
    for method in methods:
        with pytest.raises(ValueError, match="key"):
            method()
    if key not in ("", "a/"):  # the root, and a folder written with its slash
        with pytest.raises(ValueError, match="key"):
            store.list(key)
        with pytest.raises(ValueError, match="key"):
            store.list_dirs(key)


def test_listing_is_complete_sorted_and_fresh(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(store, S3Store):  # pages of 7 stand for pages of 1000
        call = store._call
        monkeypatch.setattr(store, "_call", lambda name, **kw: call(name, **{**kw, "MaxKeys": 7}))
    assert store.list("") == store.list("a") == [] and store.list_dirs("") == store.list_dirs("a") == []
    keys = ["b", "a", "a.x/k", "a-x/k", "aa/k", *(f"p/{i % 9}/{i}" for i in range(29))]
    keys.remove("a")  # on a disk `a` cannot be an object and a folder at once
    keys += ["a/1", "a/b/c/2"]
    writer = open_store(store.root)
    for i, key in enumerate(keys):
        writer.put_if_absent(key, b"x" * i)
        assert (key, i) in store.list("")
    everything = sorted((key, i) for i, key in enumerate(keys))
    assert store.list("") == everything
    for folder in ("a", "a/", "p", "p/3", "a/b/c"):
        assert store.list(folder) == [row for row in everything if row[0].startswith(folder.rstrip("/") + "/")]
    assert store.list_dirs("") == ["a", "a-x", "a.x", "aa", "p"]
    assert store.list_dirs("p") == [str(i) for i in range(9)] and store.list_dirs("a/b") == ["c"]
    assert store.list("b") == [] and store.list_dirs("b") == [] and store.list("a/b/c/2") == []


def test_delete_twice_is_fine(store: Store) -> None:
    store.put_if_absent("a/k", b"x")
    store.delete("a/k")
    store.delete("a/k")
    store.delete("never/was")
    assert not store.exists("a/k") and store.list("") == []
    assert store.put_if_absent("a/k", b"again") and store.read("a/k") == b"again"


def test_a_check_of_a_writable_root_leaves_nothing_behind(store: Store) -> None:
    store.check_writable()
    assert store.list("") == []
    free = store.free_bytes()
    assert (free is not None and free > 0) == store.is_local


def test_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    roots = {"x/../y/": f"{tmp_path}/y", "~/y": "/home/me/y", "file:///a%20b": "/a b", "/a b": "/a b"}
    assert {root: open_store(root).root for root in roots} == roots
    assert open_store("y").uri("a/b") == f"{tmp_path}/y/a/b" == str(open_store("y").local_path("a/b"))
    for root in ("gs://bucket/x", "http://host/x", "file://host/x", ""):
        with pytest.raises(ValueError, match="local path.*s3://bucket/prefix"):
            open_store(root)
    with pytest.raises(ValueError, match="bucket"):
        open_store("s3://")


def test_local_roots_load_no_s3(tmp_path: Path) -> None:
    script = "import sys; from sana.store import open_store as o; o(sys.argv[1]).check_writable(); print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert not {"fsspec", "s3fs", "botocore", "aiohttp", "torch"} & set(child.stdout.split())


def test_a_folder_linked_to_another_disk_is_listed_as_it_is_read(tmp_path: Path) -> None:
    LocalStore(str(tmp_path / "disk")).put_if_absent("k", b"x")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "latents").symlink_to(tmp_path / "disk")
    (tmp_path / "root" / "broken").symlink_to(tmp_path / "nowhere")
    store = LocalStore(str(tmp_path / "root"))
    assert store.list("") == [("latents/k", 1)] and store.list_dirs("") == ["latents"]
    assert store.read("latents/k") == b"x"
