"""Laws of the digest cache: the digest is that of the content, whatever is cached and whoever cached it."""

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import xxhash

from sana.data.sources import digest_cache
from sana.data.sources.digest_cache import DigestCache
from sana.errors import SanaError

pytestmark = pytest.mark.timeout(60)


def digest_of(data: bytes) -> str:
    return f"xxh3:{xxhash.xxh3_128(data).hexdigest()}"


def write(path: Path, data: bytes, *, age_s: float = 100.0) -> Path:
    path.write_bytes(data)
    then = time.time_ns() - int(age_s * 1e9)
    os.utime(path, ns=(then, then))
    return path


def rows(database: Path) -> int:
    if not database.exists():
        return 0
    connection = sqlite3.connect(database)
    count = connection.execute("SELECT COUNT(*) FROM digests").fetchone()[0]
    connection.close()
    return count


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests.sqlite"


def test_a_digest_depends_on_content_alone(tmp_path: Path, database: Path) -> None:
    cache = DigestCache(database)
    data = os.urandom(3 * 2**20 + 7)
    one, other = write(tmp_path / "a", data), write(tmp_path / "b c\n\u00e9", data, age_s=50)
    assert cache.digest(one) == cache.digest(other) == digest_of(data)
    assert cache.digest(write(tmp_path / "empty", b"")) == digest_of(b"")


def test_a_known_file_is_not_read_again(tmp_path: Path, database: Path) -> None:
    path = write(tmp_path / "a", b"content")
    first = DigestCache(database).digest(path)
    stat = path.stat()
    path.write_bytes(b"CONTENT")  # same size and, below, the same time: only reading would show it
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert DigestCache(database).digest(path) == first
    assert DigestCache(None).digest(path) == digest_of(b"CONTENT")


def test_touch_keeps_the_digest_and_new_content_changes_it(tmp_path: Path, database: Path) -> None:
    cache = DigestCache(database)
    path = write(tmp_path / "a", b"content")
    first = cache.digest(path)
    write(path, b"content", age_s=10)
    assert cache.digest(path) == first
    write(path, b"another", age_s=5)
    assert cache.digest(path) == digest_of(b"another")
    assert rows(database) == 1


@pytest.mark.parametrize("age_s", [0.0, -3600.0])
def test_a_file_that_may_still_change_is_not_cached(tmp_path: Path, database: Path, age_s: float) -> None:
    cache = DigestCache(database)
    path = write(tmp_path / "a", b"content", age_s=age_s)
    stat = path.stat()
    assert cache.digest(path) == digest_of(b"content")
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    assert cache.digest(path) == digest_of(b"CONTENT")
    assert rows(database) == 0


def test_a_file_that_changes_while_it_is_read_has_no_digest(
    tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a", b"x" * 100)

    class HasherBesideAWriter:
        def __init__(self) -> None:
            with path.open("ab") as file:
                file.write(b"y")

        def update(self, data: bytes) -> None: ...

        def hexdigest(self) -> str:
            return "0" * 32

    monkeypatch.setattr(digest_cache.xxhash, "xxh3_128", HasherBesideAWriter)
    with pytest.raises(OSError, match="changed while it was read"):
        DigestCache(database).digest(path)
    assert rows(database) == 0


def test_read_only_writes_nothing_and_still_looks_up(tmp_path: Path, database: Path) -> None:
    path = write(tmp_path / "a", b"content")
    reader = DigestCache(database, read_only=True)
    assert reader.digest(path) == digest_of(b"content")
    assert not database.parent.exists()
    DigestCache(database).digest(path)
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in database.parent.iterdir()}
    stat = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    fresh = DigestCache(database, read_only=True)
    assert fresh.digest(path) == digest_of(b"content")  # it comes from the cache
    assert fresh.digest(write(tmp_path / "b", b"new")) == digest_of(b"new")
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in database.parent.iterdir()} == before


def test_a_damaged_database_is_one_clear_error(tmp_path: Path, database: Path) -> None:
    path = write(tmp_path / "a", b"content")
    database.parent.mkdir()
    database.write_bytes(b"this is no database" * 1000)
    with pytest.raises(SanaError, match="delete the file"):
        DigestCache(database).digest(path)
    assert DigestCache(database, read_only=True).digest(path) == digest_of(b"content")


def test_missing_and_unreadable_files_raise_oserror(tmp_path: Path, database: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DigestCache(database).digest(tmp_path / "nothing")
    with pytest.raises(OSError):
        DigestCache(database).digest(tmp_path)


def test_threads_and_processes_share_it(tmp_path: Path, database: Path) -> None:
    files = [write(tmp_path / f"f{i}", bytes([i]) * 1000) for i in range(60)]
    script = (
        "import sys; from pathlib import Path; from sana.data.sources.digest_cache import DigestCache\n"
        "cache = DigestCache(Path(sys.argv[1]))\n"
        "for _ in range(3):\n"
        "    for name in sys.argv[2:]: print(cache.digest(Path(name)))\n"
    )
    names = [str(file) for file in files]
    processes = [
        subprocess.Popen([sys.executable, "-c", script, str(database), *names], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    cache, seen = DigestCache(database), []
    threads = [threading.Thread(target=lambda: seen.append([cache.digest(f) for f in files])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = [digest_of(bytes([i]) * 1000) for i in range(60)]
    assert seen == [expected] * 4
    for process in processes:
        output, _ = process.communicate(timeout=50)
        assert process.returncode == 0
        assert output.split() == expected * 3
    assert rows(database) == 60
