"""The demo's data have the content that is recorded: other content needs another VERSION."""

import copy
import json
from pathlib import Path

import pytest

from tests.golden_content import PATH, REWRITE, differences, measure
from tests.pipeline_runs import new_place

RECORDED = json.loads(PATH.read_text())


@pytest.mark.timeout(300)
def test_the_demo_has_the_recorded_content(tmp_path: Path, tiny_model: Path) -> None:
    told = differences(RECORDED, measure(new_place(tmp_path / "place", tiny_model)))
    assert not told, "\n".join(told)


def test_other_content_under_the_same_version_says_what_to_do() -> None:
    other = copy.deepcopy(RECORDED)
    other["bucket"]["content"] = dict.fromkeys(other["bucket"]["content"], "0" * 32)
    (told,) = differences(RECORDED, other)
    for said in ("bucket: the same config", "raise VERSION in sana/stages/bucket.py", REWRITE):
        assert said in told


def test_a_raised_version_asks_for_a_new_record() -> None:
    other = copy.deepcopy(RECORDED)
    other["probe"]["version"] += 1
    del other["encode_latents"]
    assert [text.partition(":")[0] for text in differences(RECORDED, other)] == ["encode_latents", "probe"]
    assert all(REWRITE in text for text in differences(RECORDED, other))
    assert differences(RECORDED, RECORDED) == []
