"""Laws of the file cache: whole files only, within the budget, and no file is evicted while it is read."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from sana.data.sources.file_cache import FileCache

pytestmark = pytest.mark.timeout(60)


class Remote:
    """Serves `size` bytes for any digest, and records the fetches."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fetched: list[str] = []

    def open(self, cache: FileCache, digest: str):
        return cache.open(digest, ".MP4", size=lambda: self.size, fetch=self._writes(digest))

    def _writes(self, digest: str) -> Callable[[Path], None]:
        def fetch(path: Path) -> None:
            self.fetched.append(digest)
            path.write_bytes(digest.encode().ljust(self.size, b"."))

        return fetch


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def names(folder: Path) -> int:
    return sum(not path.name.startswith(".") for path in folder.iterdir())


def test_a_hit_is_not_fetched_and_any_digest_is_a_name(tmp_path: Path) -> None:
    cache, remote = FileCache(tmp_path / "c", max_bytes=10**6), Remote(100)
    for digest in ("sha256:00", 'etag:a/b"\u00e9-12', "sha256:00", "git:00"):
        with remote.open(cache, digest) as path:
            assert path.read_bytes().startswith(digest.encode())
            assert path.suffix == ".mp4"
    assert len(remote.fetched) == 3


def test_the_budget_holds_and_the_least_recently_opened_is_evicted(tmp_path: Path) -> None:
    cache, remote = FileCache(tmp_path / "c", max_bytes=350), Remote(100)
    for step, digest in enumerate("abcad"):  # d is fetched when a, b, c are cached, and b was used longest ago
        with remote.open(cache, digest) as path:
            os.utime(path, ns=(step * 10**9, step * 10**9))
        assert used(tmp_path / "c") <= 350
    fetched = len(remote.fetched)
    for digest in "acd":
        with remote.open(cache, digest):
            pass
    assert len(remote.fetched) == fetched
    with remote.open(cache, "b"):
        assert remote.fetched[-1] == "b"


def test_open_files_are_never_evicted(tmp_path: Path) -> None:
    cache, remote = FileCache(tmp_path / "c", max_bytes=250), Remote(100)
    with ExitStack() as stack:
        paths = [stack.enter_context(remote.open(cache, digest)) for digest in "abcde"]
        assert all(path.exists() for path in paths)
        with remote.open(cache, "f"):
            assert all(path.exists() for path in paths)
    with remote.open(cache, "g"):
        assert used(tmp_path / "c") <= 250


def test_a_file_larger_than_the_budget_is_still_served(tmp_path: Path) -> None:
    cache, remote = FileCache(tmp_path / "c", max_bytes=10), Remote(100)
    for digest in "ab":
        with remote.open(cache, digest) as path:
            assert path.stat().st_size == 100
            assert used(tmp_path / "c") == 100


def test_a_failed_fetch_leaves_nothing(tmp_path: Path) -> None:
    cache = FileCache(tmp_path / "c", max_bytes=1000)

    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ConnectionError("cut")

    with pytest.raises(ConnectionError), cache.open("a", ".mp4", size=lambda: 100, fetch=fail):
        pass
    assert used(tmp_path / "c") == 0
    remote = Remote(100)
    with remote.open(cache, "a"):
        assert remote.fetched == ["a"]


@pytest.mark.parametrize("at_once", [False, True])
def test_fetch_stats_count_bytes_as_they_come_and_each_once(tmp_path: Path, at_once: bool) -> None:
    cache, step = FileCache(tmp_path / "c", max_bytes=10**9), 2**20
    seen = []

    def fetch(path: Path) -> None:
        with path.open("wb") as file:
            for block in (3, 0, 2, 1) if at_once else range(4):  # of S3 several blocks come at a time, in any order
                os.pwrite(file.fileno(), os.urandom(step), block * step)
                os.fsync(file.fileno())
                seen.append(cache.fetch_stats.fetched_bytes)

    for start, digest in ((0, "a"), (4 * step, "b")):
        seen.clear()
        with cache.open(digest, ".mp4", size=lambda: 4 * step, fetch=fetch):
            assert seen == [start + number * step for number in (1, 2, 3, 4)]
        assert cache.fetch_stats.fetched_bytes == start + 4 * step

    def fails(path: Path) -> None:
        fetch(path)
        raise OSError("the connection broke")

    with pytest.raises(OSError), cache.open("c", ".mp4", size=lambda: 4 * step, fetch=fails):
        pass
    assert cache.fetch_stats.fetched_bytes == 8 * step, "a failed fetch is not counted"


def test_threads_fetch_a_file_once_and_read_it_whole(tmp_path: Path) -> None:
    cache, remote = FileCache(tmp_path / "c", max_bytes=450), Remote(100)

    def read(turn: int) -> None:
        digest = "abcdefgh"[turn * 7 % 8]
        with remote.open(cache, digest) as path:
            assert path.read_bytes() == digest.encode().ljust(100, b".")
            time.sleep(0.001)
            assert path.exists()

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(read, range(200)))
        list(workers.map(lambda _: remote.open(cache, "same").__enter__() and None, range(4)))
    assert remote.fetched.count("same") == 1


HOLD = """
import sys, time
from pathlib import Path
from sana.data.sources.file_cache import FileCache
def fetch(path):
    path.write_bytes(b"x" * 100)
    if sys.argv[2] == "fetching":
        print("ready", flush=True); time.sleep(60)
with FileCache(Path(sys.argv[1]), max_bytes=150).open("held", ".mp4", size=lambda: 100, fetch=fetch) as path:
    print(path, flush=True); time.sleep(60)
"""


@pytest.mark.parametrize("state", ["open", "fetching"])
def test_files_of_another_process_are_kept_until_it_dies(tmp_path: Path, state: str) -> None:
    folder = tmp_path / "c"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), state], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        held = holder.stdout.readline().strip()
        cache, remote = FileCache(folder, max_bytes=150), Remote(100)
        with remote.open(cache, "a"):
            assert used(folder) >= 200
            assert state == "fetching" or Path(held).exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with remote.open(cache, "b"):
            assert used(folder) == 100, "the files of the dead process are evicted"
            assert names(folder) == 1
    finally:
        holder.kill()
        holder.wait()
