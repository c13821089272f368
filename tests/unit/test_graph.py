"""The graph by tables: every table that is read is given above, a filter comes between, unused stages are absent."""

from pathlib import Path

import pytest

from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.errors import ConfigError
from sana.pipeline import graph

ROOT = Path(__file__).parents[2]


def config_of(*overrides: str) -> Config:
    return load_config(ROOT / "configs/demo.yaml", overrides)


MASKED = ("download.datasets.0.masks={suffix: .mask}", "train.masked_loss={}")
EVERY = config_of("filter_captions.min_words=2", "train.base_check=warn", *MASKED, "train.crepa={}", "publish.to=out")


def test_every_module_of_the_folder_is_a_stage_of_its_name() -> None:
    files = {path.stem for path in (ROOT / "sana/stages").glob("*.py")} - {"__init__"}
    assert files == set(graph.STAGES) and len(files) == len(graph.STAGES)
    for name in graph.STAGES:
        module = graph.stage(name)
        assert name == module.NAME and module.GIVES and module.VERSION >= 1
        assert graph.about(name).endswith(".") and len(graph.about(name)) < 120


def test_every_table_that_is_read_is_given_above_and_described() -> None:
    assert graph.stages_of(EVERY) == graph.STAGES
    for name in graph.STAGES:
        found = graph.providers(EVERY, name)
        assert tuple(found) == graph.reads(name)
        for table, above in found.items():
            assert graph.STAGES.index(above) < graph.STAGES.index(name) and table in graph.stage(above).GIVES
    given = {table for name in graph.STAGES for table in graph.stage(name).GIVES}
    assert all(f"\n    {table} " in str(graph.__doc__) for table in given)


def test_a_filter_is_between_for_all_below_and_for_nobody_else() -> None:
    assert graph.providers(config_of(), "bucket") == {"probed_clips": "probe"}
    assert graph.providers(EVERY, "bucket") == {"probed_clips": "filter_captions"}
    assert graph.providers(EVERY, "filter_captions") == {"probed_clips": "probe", "captions": "download"}


def test_a_table_that_nobody_gives_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "STAGES", ("download", "bucket", "probe"))
    with pytest.raises(ValueError, match="stage bucket reads probed_clips, which no stage above it gives"):
        graph.providers(EVERY, "bucket")


def test_an_optional_table_is_read_where_a_stage_above_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = graph.providers(config_of(), "sample")
    monkeypatch.setattr(graph.stage("sample"), "READS_IF_GIVEN", ("losses", "masks"), raising=False)
    assert graph.providers(config_of(), "sample") == {**needed, "losses": "evaluate"}
    assert graph.reads("sample") == (*graph.stage("sample").READS, "losses", "masks")


def test_until_stops_at_a_stage_of_the_config() -> None:
    assert graph.until(EVERY, "bucket") == ("download", "probe", "filter_captions", "bucket")
    assert graph.until(config_of(), "bucket") == ("download", "probe", "bucket")
    with pytest.raises(ConfigError, match="there is no stage 'bukcet'; stages are download, probe"):
        graph.until(EVERY, "bukcet")
    with pytest.raises(ConfigError, match="does not use stage filter_captions: set its section, or name one of"):
        graph.until(config_of(), "filter_captions")
