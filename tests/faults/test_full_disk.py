"""A full disk or quota ends the work in one line at once: it is never tried again, and never taken for a bad clip."""

import errno
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from flows.cli.main import main
from sana.data.sources.backends import LocalBackend
from sana.data.sources.file_cache import FileCache
from sana.errors import DiskFullError, SanaError, disk_full
from sana.runtime.launcher import EXIT_DISK_FULL, EXIT_USER_ERROR, WorkerError, _failure
from sana.store import open_store
from sana.store_errors import StoreError, StoreFullError, clear_errors
from tests.downloads import DEMO, FinishedDownload, context
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def raised(action: Callable[[], Any]) -> Exception:
    """What an action raises."""
    try:
        action()
    except Exception as error:  # noqa: BLE001  whatever the library raises
        return error
    raise AssertionError("nothing was raised")


def wrapped(error: Exception) -> Exception:
    """The error as the cause of another one."""
    outer = SanaError("cannot do it")
    outer.__cause__ = error
    return outer


ERRORS: dict[str, tuple[Exception, str]] = {
    "full": (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/w/x"), "/w/x: the disk is full"),
    "quota": (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk quota is used up"),
    "large": (OSError(errno.EFBIG, os.strerror(errno.EFBIG), "/w/x"), "/w/x: a file may not be that large"),
    "safetensors": (RuntimeError("Error: I/O error: No space left on device (os error 28)"), "(os error 28)"),
    "sqlite": (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
    "behind another": (wrapped(OSError(errno.ENOSPC, "x")), "cannot do it"),
    "already said": (DiskFullError("said"), "said"),
}  # fmt: skip
OTHERS = [PermissionError(errno.EACCES, "no"), FileNotFoundError(errno.ENOENT, "no"), ValueError("x"), SanaError("x")]


@pytest.mark.parametrize("name", ERRORS)
def test_a_full_disk_is_known_from_what_libraries_raise(name: str) -> None:
    error, says = ERRORS[name]
    full = disk_full(error)
    assert full is not None and says in str(full) and "\n" not in str(full)


def test_other_errors_are_not_taken_for_it() -> None:
    assert [disk_full(error) for error in (*OTHERS, *map(wrapped, OTHERS), KeyboardInterrupt(), None)] == [None] * 10


@pytest.mark.parametrize("code", ["QuotaExceeded", "XMinioStorageFull", "507"])
def test_a_full_server_is_not_tried_again(code: str) -> None:
    error = OSError("refused")
    error.response = {"Error": {"Code": code}}  # type: ignore[attr-defined]  # as botocore's errors have
    with pytest.raises(StoreFullError, match="is full: make room there"), clear_errors("s3://b/k", OSError):
        raise error


def test_a_full_root_ends_a_stage_at_once_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"a.mp4": os.urandom(100), "a.txt": "x" * 100})
    at = context(tmp_path, {"source": str(folder)})
    fill(small_disk)
    full = context(tmp_path, {"source": str(folder)})
    full = type(full)(full.config, open_store(f"{small_disk}/root"), full.work_dir)
    started = time.monotonic()
    with pytest.raises(DiskFullError, match="the disk is full"):
        FinishedDownload(full)
    assert time.monotonic() - started < 5
    assert not [path for path in (small_disk / "root").rglob("*") if path.is_file()]
    assert FinishedDownload(at).captions, "with room it works"


def test_a_full_work_dir_is_one_line_of_the_command(small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_files(small_disk.parent / "s", {"a.mp4": "1", "a.txt": "x"})
    fill(small_disk)
    sets = json.dumps([{"id": "d", "source": str(folder)}])
    for key in ("root", "work_dir"):
        places = {"root": f"{folder.parent}/root", "work_dir": f"{folder.parent}/w", key: f"{small_disk}/{key}"}
        values = [f"download.datasets={sets}", *(f"{name}={value}" for name, value in places.items())]
        with pytest.raises(SystemExit):
            main(["validate", str(DEMO), *(x for value in values for x in ("-s", value))])
        said = capsys.readouterr().err
        assert f"{small_disk}/{key}" in said and ("disk is full" in said or "No space left" in said)
        assert "Traceback" not in said


def test_a_full_cache_is_no_fault_of_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at = context(tmp_path, {"source": str(make_files(tmp_path / "s", {"a.mp4": "1", "a.txt": "x"}))})

    def full(*args: object) -> bytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "cache/videos/x")

    for method in ("read", "digest"):
        with monkeypatch.context() as patched, pytest.raises(DiskFullError, match=r"datasets\[d0\].*the disk is full"):
            patched.setattr(LocalBackend, method, full)
            FinishedDownload(at)


def test_a_cache_whose_disk_is_smaller_than_its_budget_says_what_helps(small_disk: Path) -> None:
    cache = FileCache(small_disk / "videos", max_bytes=20 * 2**30)

    def fetch(to: Path) -> None:
        with clear_errors("s3://b/k", OSError):
            to.write_bytes(bytes(2**20))

    says = r"disk of the cache .*/videos is full.* 1.0 MiB.* 20.0 GiB.*download.resources.cache_gib"
    with pytest.raises(DiskFullError, match=says), cache.open("etag:x", ".mp4", size=lambda: 2**20, fetch=fetch):
        pass
    with cache.open("etag:y", ".mp4", size=lambda: 9, fetch=lambda to: to.write_bytes(bytes(9)) and None) as path:
        assert path.read_bytes() == bytes(9), "with room it goes on"


WORKER = """
import os, sys
from pathlib import Path
from sana.config.load import load_config
from sana.runtime.job import error_path, run_worker, write_job
from sana.runtime.command_specs import InspectSampleSpec
from sana.runtime.specs import ProbeSpec, CrashHistory, PoolName
from sana.artifact import Artifact
from sana.counts import Counts
import sana.runtime.job as job
config = load_config(sys.argv[1], [f"work_dir={sys.argv[2]}"])
job.read_job = lambda path, kind: None
path = Path(sys.argv[2], "job.json")
path.write_text("{}")
if sys.argv[3] == "no room":
    error_path(path).symlink_to("/dev/full")
def body(job):
    with open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
run_worker(body, ProbeSpec, [str(path)])
"""


@pytest.mark.parametrize(("room", "code"), [("room", EXIT_USER_ERROR), ("no room", EXIT_DISK_FULL)])
def test_a_worker_says_it_and_is_not_started_again(tmp_path: Path, room: str, code: int) -> None:
    child = subprocess.run(
        [sys.executable, "-c", WORKER, str(DEMO), str(tmp_path), room], capture_output=True, text=True, timeout=50
    )
    assert child.returncode == code, child.stderr
    assert "Traceback" not in child.stderr
    log = tmp_path / "logs/x.log"
    failure = _failure("sana.workers.probe", code, tmp_path / "job.error.txt", log, progressed=True)
    assert not isinstance(failure, WorkerError | StoreError), "which would be tried again"
    assert "disk" in str(failure) and "is full" in str(failure)


def test_what_libraries_raise_on_a_full_disk_is_known(small_disk: Path) -> None:
    fill(small_disk)
    numbers = np.random.default_rng(0).random(10**5)
    database = sqlite3.connect(small_disk / "x.sqlite")
    actions: dict[str, Callable[[], Any]] = {
        "a file": lambda: (small_disk / "x").write_bytes(bytes(10**6)),
        "safetensors": lambda: save_file({"a": numbers}, small_disk / "x.safetensors"),
        "Arrow": lambda: pq.write_table(pa.table({"a": numbers}), small_disk / "x.parquet"),
        "sqlite": lambda: database.execute("CREATE TABLE a (b)"),
    }
    for name, action in actions.items():
        error = raised(action)
        assert disk_full(error) is not None, (name, error)
    database.close()
