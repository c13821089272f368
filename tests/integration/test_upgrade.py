"""A store that an earlier version wrote is read by this one: nothing is done again, and nothing of it is wrong.

`tests/golden/store_<version>.tar.gz` is the whole root of a small run of the demo's clips, packed when that version was
released (CONTRIBUTING.md, "Releases"). Objects of a root are never rewritten, so each of them must be read for ever.
"""

import os
import tarfile
from pathlib import Path

import pytest

from sana.facts import EvaluateFacts, TrainFacts
from sana.maintenance.object_graph import kind_of
from sana.maintenance.verify import verify
from sana.metrics import STEP, TRAIN_LOSS
from sana.runs.metric_table import metrics_of
from sana.store import open_store
from tests.pipeline_runs import Place, inline_workers, new_place, run_stages

STORES = sorted((Path(__file__).parents[1] / "golden").glob("store_*.tar.gz"))
MODIFIED_S = 1_700_000_000  # of the clips when the stores were made: a listing holds it
pytestmark = pytest.mark.timeout(200)


@pytest.fixture(params=STORES, ids=lambda path: path.name.removesuffix(".tar.gz"))
def place(request: pytest.FixtureRequest, tmp_path: Path, tiny_model: Path) -> Place:
    made = new_place(tmp_path / "place", tiny_model)
    for path in made.clips.iterdir():
        os.utime(path, (MODIFIED_S, MODIFIED_S))
    with tarfile.open(request.param) as packed:
        packed.extractall(made.root, filter="data")
    return made


def test_a_store_of_an_earlier_version_is_whole_and_found(place: Place) -> None:
    store = open_store(place.root)
    assert verify(store, deep=True).problems == []
    assert "unknown" not in {kind_of(key) for key, _ in store.list("")}
    found = run_stages(place.context("train.max_steps=2"))
    assert found.ran == []
    assert EvaluateFacts.of(found["evaluate"]).weights["ema"].mean > 0
    assert metrics_of(store, found["train"])[TRAIN_LOSS].to_pylist()[-1] is not None


def test_training_goes_on_from_its_checkpoint(place: Place) -> None:
    with inline_workers():
        found = run_stages(place.context("train.max_steps=3"), last="train")
    assert found.ran == ["train"] and TrainFacts.of(found["train"]).step == 3
    table = metrics_of(open_store(place.root), found["train"]).select([STEP, TRAIN_LOSS]).drop_null()
    assert table[STEP].to_pylist() == [1, 2, 3]  # the first two are those of the earlier version
