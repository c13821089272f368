"""The page "add a stage" is right: its own code is a stage that runs, and is seen everywhere."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import sana.stages
from sana.config import filters, pipeline
from sana.data.tables import read_table
from sana.pipeline import graph
from sana.pipeline.plan import plan
from sana.report.page import data_report
from sana.report.states import StageState
from tests.pipeline_runs import ROOT, Outcome, Place, inline_workers, new_place, run_stages
from tests.report_pages import Page

NAME = "filter_duration"
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/add-a-stage.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def before(tmp_path: Path) -> tuple[Place, Outcome]:
    """The demo up to bucket, as it was."""
    place = new_place(tmp_path / "place", Path("none"))
    with inline_workers():
        return place, run_stages(place.context(), last="bucket")


@pytest.fixture
def added(before: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what the page says, for the time of one test; a worker's process would not know of it."""
    section, setting, module, line = BLOCKS
    scope: dict[str, Any] = {**vars(filters), **vars(pipeline)}
    exec(section, scope)  # noqa: S102 - the project's own page
    exec("class Config(Config):\n    " + setting.replace("\n", "\n    "), scope)  # noqa: S102
    monkeypatch.setattr("sana.config.load.Config", scope["Config"])
    (tmp_path / f"{NAME}.py").write_text(module)
    monkeypatch.setattr(sana.stages, "__path__", [*sana.stages.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"sana.stages.{NAME}", raising=False)
    name, above = re.findall(r'"(\w+)"', line)
    at = graph.STAGES.index(above) + 1
    monkeypatch.setattr(graph, "STAGES", (*graph.STAGES[:at], name, *graph.STAGES[at:]))


@pytest.mark.timeout(120)
def test_the_stage_of_the_page_runs_and_is_seen(before: tuple[Place, Outcome], added: None) -> None:
    place, unfiltered = before
    assert run_stages(place.context(), last="bucket").ran == [], "adding it moved nothing"
    assert NAME not in graph.stages_of(place.config()), "it is part of the runs that use it, and of no other"
    context = place.context(f"{NAME}.min_duration_s=1")
    outcome = run_stages(context, last="bucket")
    assert outcome.ran == [NAME, "bucket"]
    made = outcome[NAME]
    assert unfiltered["probe"].counts.num_out == made.counts.num_in == made.counts.num_out + made.counts.num_rejected
    assert 0 < made.counts.num_rejected == made.counts.reasons["too_short_a_time"] < made.counts.num_in
    assert all(row["duration_s"] >= 1 for row in read_table(context.store, made, "clips.parquet").to_pylist())
    assert [(one.name, one.state) for one in plan(context, last="bucket")][2] == (NAME, "cached")
    assert graph.about(NAME) == "Filter duration: reject clips that last too short a time."
    states = [StageState(name, "committed", artifact) for name, artifact in outcome.artifacts.items()]
    words = Page(data_report(context, "demo", states, now=0.0)).words
    assert NAME in words and f"{made.counts.num_in} = {made.counts.num_out} + {made.counts.num_rejected}" in words
