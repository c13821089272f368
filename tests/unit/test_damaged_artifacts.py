"""An artifact whose record cannot be read hides no other: in the list of trainings, and on the live page."""

from pathlib import Path

import pytest

from sana.report.live.committed import Committed
from sana.runs.trainings import trainings_of
from sana.store import Store, open_store

FINGERPRINT = "0123456789abcdef"


@pytest.mark.parametrize("stage", ["train", "evaluate", "encode_latents", "sample"])
@pytest.mark.parametrize("data", [b"", b'{"format": 1', b'{"format": 99}', b"[" * 100_000, b"\xff"])
def test_what_is_damaged_is_left_out_and_told_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, stage: str, data: bytes
) -> None:
    store = open_store(str(tmp_path))
    commit(store, stage, data)
    page = Committed(store)
    page.refresh()
    page.refresh()
    assert page.trainings == []
    assert [FINGERPRINT in record.message for record in caplog.records] == [True]
    found = trainings_of(store, now=0.0)
    assert [FINGERPRINT in line for line in found.trouble] == ([True] if stage == "train" else [])


def commit(store: Store, stage: str, data: bytes) -> None:
    store.put_if_absent(f"{stage}/{FINGERPRINT}/artifact.json", data)
    store.put_if_absent(f"{stage}/history/00000000000000000001-{FINGERPRINT}", b"")
