"""One folder as two data sets, the usual way to train at several resolutions: nothing is lost, nothing is leaked."""

import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from sana.artifact import Artifact
from sana.context import Context
from sana.data.tables import read_table
from tests.pipeline_runs import CLIPS, Place, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Some of the demo's clips, one of them twice."""
    made = new_place(tmp_path, Path("no-model"))
    for path in CLIPS.glob("bunny-01.*"):
        shutil.copy(path, made.clips / f"again{path.suffix}")
    return made


def rows(context: Context, artifact: Artifact, name: str = "clips.parquet") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(context.store, artifact, name).to_pylist()
    return found


@pytest.mark.parametrize("duplicates", ["reject", "keep"])
def test_both_data_sets_keep_their_clips_and_share_one_split(place: Place, duplicates: str) -> None:
    datasets = f"[{{id: lo, source: {place.clips}}}, {{id: hi, source: {place.clips}, bucket: {{buckets: [9x64x64]}}}}]"
    context = place.context(
        f"download.datasets={datasets}",
        f"probe.duplicates={duplicates}",
        "bucket.holdout=[]",
        "bucket.eval_fraction=0.3",
    )
    with inline_workers():
        done = run_stages(context, last="bucket")
    probed, rejected = rows(context, done["probe"]), rows(context, done["probe"], "rejects.parquet")
    per_dataset = {name: {one["path"] for one in probed if one["dataset"] == name} for name in ("lo", "hi")}
    copies = [(one["dataset"], one["detail"]) for one in rejected if one["reason"] == "duplicate"]
    assert sorted(name for name, _ in copies) == (["hi", "lo"] if duplicates == "reject" else [])
    assert all(detail.startswith(f"the same content as {name}: ") for name, detail in copies)
    assert len(per_dataset["lo"]) == len(per_dataset["hi"]) >= 12
    assert done["probe"].counts.extra["opened"] == len({one["digest"] for one in rows(context, done["download"])})

    sides = defaultdict(set)
    for window in rows(context, done["bucket"]):
        sides[window["digest"]].add((window["split"], window["dataset"]))
    assert all(len({split for split, _ in found}) == 1 for found in sides.values())
    assert {split for found in sides.values() for split, _ in found} == {"train", "eval"}
    assert any({name for _, name in found} == {"lo", "hi"} for found in sides.values())
