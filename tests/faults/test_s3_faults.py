"""What networks and busy stores do to S3: a verb finishes or ends in one line; nothing damaged is committed."""

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import pyarrow as pa
import pytest
import torch

from sana.data.schemas import LATENTS
from sana.data.shards.shard import Location, read_tensor, write_shard
from sana.maintenance.verify import verify
from sana.runtime.pool import Pool
from sana.store import Store, StoreError
from sana.store_s3 import S3Store
from tests.s3_proxy import STALL_S, Fault, FaultyProxy, Request
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(120)
DATA = random.Random(0).randbytes(700_000)
PASSING = [f for f in Fault if f not in (Fault.EXPIRED, Fault.FORBIDDEN, Fault.STALL, Fault.STALL_BODY)]


@pytest.fixture(scope="module")
def proxy(s3: WeedServer) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def store(s3: WeedServer, proxy: FaultyProxy) -> Iterator[S3Store]:
    proxy.policy = lambda request: None
    store = S3Store(f"s3://{s3.bucket}/faults-{uuid4().hex}")
    store.put_if_absent("base", DATA)
    yield store
    proxy.policy = lambda request: None


@pytest.mark.parametrize("fault", PASSING)
def test_every_verb_outlives_what_passes(store: S3Store, proxy: FaultyProxy, fault: Fault, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(DATA[::-1])
    proxy.inject(fault, method="PUT")
    assert store.put_if_absent("new", DATA[1:]) is True  # the first try may have made it, with its answer lost
    proxy.inject(fault, method="PUT")
    assert store.put_if_absent("new", DATA[1:]) is False
    proxy.inject(fault, method="PUT")
    assert store.put_file_if_absent("file", tmp_path / "source") is True
    proxy.inject(fault, method="GET", times=2)
    assert store.read("new") == DATA[1:]
    assert proxy.faults() == [fault] * 2
    proxy.inject(fault, method="GET")
    assert store.read_range("base", 1000, 500_000) == DATA[1000:501_000]
    proxy.inject(fault, method="GET")
    store.fetch("file", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA[::-1]
    proxy.inject(fault, method="GET")
    assert store.list("") == [("base", len(DATA)), ("file", len(DATA)), ("new", len(DATA) - 1)]
    proxy.inject(fault, method="HEAD")
    assert store.size("base") == len(DATA)
    proxy.inject(fault, method="DELETE")
    store.delete("file")
    assert not store.exists("file")


def test_a_stall_is_waited_out(store: S3Store, proxy: FaultyProxy) -> None:
    def stalled(request: Request) -> Fault | None:
        if request.method == "PUT":
            return Fault.STALL
        return Fault.STALL_BODY if request.method == "GET" else None

    proxy.policy = stalled
    start = time.monotonic()
    with ThreadPoolExecutor(3) as workers:
        put = workers.submit(store.put_if_absent, "new", DATA)
        read, part = workers.submit(store.read, "base"), workers.submit(store.read_range, "base", 5, 100_000)
        assert put.result() is True and read.result() == DATA and part.result() == DATA[5:100_005]
    assert STALL_S <= time.monotonic() - start < 2 * STALL_S


def verbs(store: S3Store, folder: Path) -> list:
    return [
        lambda: store.put_if_absent("new", DATA),
        lambda: store.read("base"),
        lambda: store.read_range("base", 0, 10),
        lambda: store.fetch("base", folder / "copy"),
        lambda: store.size("base"),
        lambda: store.exists("base"),
        lambda: store.list(""),
        lambda: store.delete("base"),
    ]


@pytest.mark.parametrize(("fault", "says"), [(Fault.EXPIRED, "credentials have expired"), (Fault.FORBIDDEN, "permi")])
def test_what_does_not_pass_is_one_clear_line_at_once(
    store: S3Store, proxy: FaultyProxy, fault: Fault, says: str, tmp_path: Path
) -> None:
    proxy.policy = lambda request: fault
    start = time.monotonic()
    for verb in verbs(store, tmp_path):
        with pytest.raises(StoreError, match=says) as raised:
            verb()
        assert store.root in str(raised.value) and "\n" not in str(raised.value)
    assert time.monotonic() - start < 10
    proxy.policy = lambda request: None
    assert store.list("") == [("base", len(DATA))] and not (tmp_path / "copy").exists()


@pytest.mark.parametrize("fault", [Fault.SLOW_DOWN, Fault.RESET, Fault.TRUNCATED])
def test_a_store_that_stays_bad_is_one_clear_line(
    store: S3Store, proxy: FaultyProxy, fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sana.store_s3.S3_TRIES", 2)  # 7 in life
    monkeypatch.setattr("sana.store_s3.BODY_TRIES", 2)  # 5 in life
    hasty = S3Store(store.root)
    proxy.policy = lambda request: fault if request.method == "GET" and "list-type" not in request.path else None
    for read in (lambda: hasty.read("base"), lambda: hasty.fetch("base", tmp_path / "copy")):
        with pytest.raises(StoreError, match=r"base.*(overloaded|no connection|broke off)") as raised:
            read()
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "copy").exists()


def part_rows(store: Store, pool: Pool, number: int) -> pa.Table:
    """Store two tensors as a shard, and return their rows."""
    generator = torch.Generator().manual_seed(number)
    tensors = {f"{number:02d}-{i}": torch.randn(16, 2, 12, 20, generator=generator) for i in range(2)}
    where = write_shard(store, f"{pool.folder}/shards", f"{number:02d}", tensors)
    rows = [{"sample_key": key, "reason": "", "detail": "", "provenance": "", **vars(where[key])} for key in tensors]
    return pa.Table.from_pylist(rows, schema=LATENTS)


def test_a_storm_commits_nothing_damaged(store: S3Store, proxy: FaultyProxy) -> None:
    """Shards and parts are written, and read, while a third of all requests fail in one of eight ways."""
    pool = Pool(store, "encode_latents", "storm", schema=LATENTS, id_column="sample_key")
    draw = random.Random(0)
    faults = [*PASSING, Fault.EXPIRED]

    def storm(request: Request) -> Fault | None:
        return draw.choice(faults) if draw.random() < 0.3 else None

    errors: list[str] = []

    def commit(number: int) -> None:
        for _ in range(20):  # as a task's retry would
            try:
                pool.commit_part(part_rows(store, pool, number))
                return
            except StoreError as error:
                errors.append(str(error))
        raise AssertionError(f"part {number} was never committed")

    proxy.policy, proxy.seen = storm, []
    with ThreadPoolExecutor(4) as workers:
        list(workers.map(commit, range(12)))
    assert len(set(proxy.faults())) >= 4
    assert all("\n" not in error and store.root in error for error in errors)
    faults.remove(Fault.EXPIRED)  # the reads may not fail at all
    assert sorted(pool.rows().column("sample_key").to_pylist()) == sorted(
        f"{n:02d}-{i}" for n in range(12) for i in (0, 1)
    )
    for row in pool.rows().to_pylist():  # every tensor is the one that was put, bit by bit
        number, i = map(int, row["sample_key"].split("-"))
        generator = torch.Generator().manual_seed(number)
        expected = [torch.randn(16, 2, 12, 20, generator=generator) for _ in range(2)][i]
        assert torch.equal(read_tensor(store, Location.of(row)), expected)
    proxy.policy = lambda request: None
    assert verify(store, deep=True).problems == []


@pytest.mark.slow(group="stores")
def test_a_large_upload_whose_last_answer_is_lost_is_ours(store: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    source = tmp_path / "large"
    with source.open("wb") as file:
        file.write(DATA)
        file.truncate(101 * 2**20)  # just over where s3fs begins to cut
    for fault, path in ((Fault.LOST_REPLY, "uploadId="), (Fault.RESET_UPLOAD, "partNumber=")):
        key = f"large-{fault.name}"
        proxy.inject(fault, method="POST" if fault is Fault.LOST_REPLY else "PUT", path=path)
        assert store.put_file_if_absent(key, source) is True
        assert proxy.faults() == [fault]
        assert store.put_file_if_absent(key, source) is False
        proxy.inject(Fault.RESET_BODY, method="GET", times=3)
        store.fetch(key, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
