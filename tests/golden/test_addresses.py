"""Addresses are frozen: what was encoded and trained is found again, whatever settings came since."""

import json
import shutil
from pathlib import Path

import pytest

from sana.pipeline.plan import plan
from tests.golden_addresses import PATH, REWRITE, STORE, differences, measure, place_at, stand_in_model
from tests.pipeline_runs import Place, as_shipped


def test_no_address_of_the_shipped_configs_moves() -> None:
    moved = differences(json.loads(PATH.read_text(encoding="utf-8")), measure())
    assert not moved, "\n".join([*moved, f"give what is new a neutral value; only if it was meant: {REWRITE}"])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = place_at(tmp_path / "place")
    shutil.copytree(STORE, made.root)
    return made


def test_a_store_that_was_committed_before_is_still_cached(place: Place) -> None:
    with stand_in_model():
        found = {stage.name: (stage.state, stage.detail) for stage in plan(place.context(*as_shipped()))}
    assert {state for state, _ in found.values()} == {"cached"}, found


def test_a_changed_setting_is_not_found_in_it(place: Place) -> None:
    with stand_in_model():
        found = {stage.name: stage.state for stage in plan(place.context(*as_shipped(), "train.seed=1"))}
    assert [name for name, state in found.items() if state != "cached"] == ["train", "evaluate", "sample"]
