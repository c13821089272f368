"""S3 away while a checkpoint is uploaded: training goes on, waits and commits; or says so and resumes."""

import math
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sana import store_s3
from sana.progress import Progress
from sana.store_errors import StoreAwayError
from sana.training.checkpoints import retries
from sana.training.checkpoints.checkpoint import checkpoint_steps
from sana.workers.train import train
from tests.s3_proxy import FaultyProxy, Outage, no_fault
from tests.s3_server import WeedServer
from tests.training_lab import Lab
from tests.training_store import build_encoded, reports_to

pytestmark = [pytest.mark.slow(group="s3_away"), pytest.mark.timeout(300)]

AWAY_S = 60.0


@pytest.fixture
def proxy(s3: WeedServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    with FaultyProxy(s3.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy


@pytest.fixture
def labs(s3: WeedServer, proxy: FaultyProxy, tmp_path: Path, tiny_model: Path) -> tuple[Lab, Lab]:
    """One on a disk, one in a bucket behind the proxy."""
    roots = (str(tmp_path / "root"), f"s3://{s3.bucket}/away-{uuid4().hex}")
    there, remote = (Lab(build_encoded(root), tmp_path, tiny_model) for root in roots)
    return there, remote


@pytest.mark.parametrize("cached", [True, False])
def test_s3_is_away_for_a_minute_in_an_upload(
    labs: tuple[Lab, Lab],
    proxy: FaultyProxy,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    cached: bool,
) -> None:
    """With shards on the disk all steps up to the next checkpoint are taken meanwhile; without, reading waits too."""
    there, remote = labs
    settings = {"max_steps": 8, "checkpoint_every": 3, "log_every": 1, "shard_cache_gib": float(cached)}
    if not cached:  # a step is read while storage is away, and the client's own patience does not outlast that
        settings["prefetch_batches"] = 1
        monkeypatch.setattr(store_s3, "S3_TRIES", 1)
    straight = there.train("straight", **settings)
    outage = proxy.policy = Outage("step_00000003", AWAY_S)
    meanwhile: list[Progress] = []

    def listen(progress: Progress) -> None:
        if outage.is_on():
            meanwhile.append(progress)

    train(reports_to(remote.job("away", **settings), listen))
    assert len(proxy.faults()) > 3 and outage.began is not None and not outage.is_on()
    assert "the checkpoint of step 3 cannot be stored now; it is tried again in" in caplog.text
    assert "storage is back after" in caplog.text
    assert ("samples cannot be read now; it is tried again in" in caplog.text) != cached
    if cached:
        assert max(progress.done for progress in meanwhile) == 6
        assert {progress.phase for progress in meanwhile} >= {"saving the checkpoint before"}
    assert checkpoint_steps(remote.store, remote.key("away")) == [3, 6, 8]
    for step in (3, 6, 8):
        saved, expected = remote.at("away", step).files, there.at("straight", step).files
        assert {name: file.digest for name, file in saved.items()} == {name: f.digest for name, f in expected.items()}
    assert remote.rows(remote.at("away", 8)) == there.rows(straight)


def test_s3_stays_away(labs: tuple[Lab, Lab], proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    there, remote = labs
    settings = {"max_steps": 6, "checkpoint_every": 2, "shard_cache_gib": 1.0}
    straight = there.train("straight", **settings)
    proxy.policy = Outage("step_00000004", math.inf)
    with monkeypatch.context() as patch:
        patch.setattr(store_s3, "S3_TRIES", 1)
        patch.setattr(retries, "FIRST_WAIT_S", 0.2)
        patch.setattr(retries, "RETRY_FOR_S", 2.0)
        told = r"step_00000004.*tried again for \d s; what was saved before is whole: run again"
        with pytest.raises(StoreAwayError, match=told):
            remote.train("away", **settings)
    proxy.policy = no_fault
    assert checkpoint_steps(remote.store, remote.key("away")) == [2]
    for key, _ in remote.store.list(f"train/{remote.key('away')}/lease"):  # left behind; its process would be gone
        remote.store.delete(key)
    resumed = remote.train("away", **settings)
    assert {name: file.digest for name, file in resumed.files.items()} == {
        name: file.digest for name, file in straight.files.items()
    }
    assert remote.rows(resumed) == there.rows(straight)
