"""What the store leaves and reports when storage fails: full disks, broken connections, kills, wrong settings."""

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from sana.store import LocalStore, StoreError, open_store
from sana.store_s3 import S3Store
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(20)


@pytest.fixture
def s3_store(s3_root: str) -> S3Store:
    return S3Store(s3_root)


MULTIPART_BYTES = 101 * 2**20  # just over where s3fs begins to cut; sparse, so it costs no disk


def sparse_file(path: Path, num_bytes: int) -> Path:
    with path.open("wb") as file:
        file.write(b"first")
        file.truncate(num_bytes)
    return path


def run_child(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True, timeout=15)


def test_an_error_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(str(tmp_path))

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="k.*disk is full.*ENOSPC"):
        store.put_if_absent("k", b"x" * 100_000)
    assert list(tmp_path.rglob("*")) == []


def test_a_large_file_appears_whole_or_not_at_all(
    s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = sparse_file(tmp_path / "large", MULTIPART_BYTES)
    call = s3_store._fs._call_s3

    async def broken(method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "upload_part" and kwargs["PartNumber"] == 2:
            raise OSError(5, "the line was cut")
        return await call(method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(s3_store._fs, "_call_s3", broken)
        with pytest.raises(StoreError, match="large.*line was cut"):
            s3_store.put_file_if_absent("large", source)
    assert s3_store.list("") == [] and not s3_store.exists("large")
    assert "Uploads" not in s3_store._call("list_multipart_uploads", Prefix=s3_store._prefix)

    assert s3_store.put_file_if_absent("large", source) is True
    assert s3_store.size("large") == MULTIPART_BYTES
    assert s3_store.read_range("large", 0, 6) == b"first\0"
    assert s3_store.put_file_if_absent("large", source) is False


def test_a_conflict_is_tried_again(s3_store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    class Conflict(Exception):
        response = {"Error": {"Code": "ConditionalRequestConflict"}, "ResponseMetadata": {"HTTPStatusCode": 409}}

    pipe_file, conflicts = s3_store._fs.pipe_file, iter([Conflict(), Conflict()])

    def busy(*args: Any, **kwargs: Any) -> None:
        for conflict in conflicts:
            raise OSError(5, "busy") from conflict
        pipe_file(*args, **kwargs)

    monkeypatch.setattr(s3_store._fs, "pipe_file", busy)
    assert s3_store.put_if_absent("k", b"x") is True
    assert s3_store.read("k") == b"x"


WRITER = """
import hashlib, random, sys
from sana.store import open_store
store, rng = open_store(sys.argv[1]), random.Random(sys.argv[2])
print("ready", flush=True)
for i in range(100_000):
    data = rng.randbytes(rng.choice([10, 5_000, 3_000_000]))
    store.put_if_absent(f"{i % 10}/{sys.argv[2]}-{hashlib.sha256(data).hexdigest()}", data)
"""


def test_kill_minus_nine_leaves_no_torn_object(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for attempt in range(5):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, store.root, str(attempt)], stdout=subprocess.PIPE, text=True
        )
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
        time.sleep(random.uniform(0.05, 0.4))
        child.kill()
        child.wait()
        child.stdout.close()
    objects = store.list("")
    assert objects
    for key, _ in objects:
        assert hashlib.sha256(store.read(key)).hexdigest() == key.rpartition("-")[2]


FAILING = """
import json, os, resource, sys
from sana.store import StoreError, open_store
store = open_store(sys.argv[1])
if sys.argv[2] == "uid":
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
methods = {"put": lambda: store.put_if_absent("a/k", b"x" * 10**6), "file": lambda: store.put_file_if_absent(
    "a/k", __import__("pathlib").Path(sys.argv[3])), "check": store.check_writable}
errors = {}
for name, method in methods.items():
    try:
        method()
    except StoreError as error:
        errors[name] = str(error)
print(json.dumps(errors))
"""


def test_a_folder_of_another_user_is_one_clear_line() -> None:
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")
    with TemporaryDirectory() as folder:  # pytest's own are closed to others, at every level
        Path(folder).chmod(0o755)
        child = run_child(FAILING, folder, "uid", str(sparse_file(Path(folder, "source"), 10)))
        errors = json.loads(child.stdout or "{}")
        assert set(errors) == {"put", "file", "check"}, child.stderr
        assert all(line.startswith(folder) and "no permission" in line and "\n" not in line for line in errors.values())
        assert os.listdir(folder) == ["source"]


def test_a_file_size_limit_is_one_clear_line_and_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "root"
    child = run_child(FAILING, str(root), "limit", str(sparse_file(tmp_path / "source", 10**6)))
    errors = json.loads(child.stdout or "{}")
    assert set(errors) == {"put", "file"}, child.stderr
    assert all("a/k" in line and "ulimit -f" in line and "\n" not in line for line in errors.values())
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("name", "value", "bucket", "says"),
    [
        ("AWS_ENDPOINT_URL", "http://127.0.0.1:1", "lab", "no connection.*AWS_ENDPOINT_URL"),
        ("AWS_SECRET_ACCESS_KEY", "wrong-secret", "lab", "secret key is wrong"),
        ("AWS_ACCESS_KEY_ID", "nobody", "lab", "does not know this access key"),
        ("AWS_ACCESS_KEY_ID", None, "lab", "no S3 credentials found"),
        ("AWS_REGION", "us-east-1", "no-such-bucket", "bucket does not exist"),
    ],
)
def test_a_wrong_s3_setting_is_one_clear_line_at_once(
    s3: WeedServer, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, bucket: str, says: str
) -> None:
    monkeypatch.setattr("sana.store_s3.FIRST_ANSWER_S", 3)  # 10 in life; the law is that the bound holds
    if value is None:
        monkeypatch.delenv(name)
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv(name, value)
    start = time.monotonic()
    with pytest.raises(StoreError, match=says) as raised:
        open_store(f"s3://{bucket}/x")
    message = str(raised.value)
    assert time.monotonic() - start < 10  # on a busy machine; not the minutes that retries would take
    assert f"s3://{bucket}/x" in message and "\n" not in message
    assert "wrong-secret" not in message and s3.secret_key not in message


def test_a_server_that_dies_meanwhile_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sana.store_s3.S3_TRIES", 2)  # 5 in life: up to 15 s
    with WeedServer() as server:
        for name, value in server.env().items():
            monkeypatch.setenv(name, value)
        store = open_store("s3://lab/x")
        store.put_if_absent("k", b"x")
    with pytest.raises(StoreError, match="s3://lab/x/k.*no connection"):
        store.read("k")
