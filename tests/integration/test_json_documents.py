"""Documents of `--json` as commands print them: of the declared class, closed, and with what the text says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import cli, main
from flows.display.output_reference import document_of
from sana.errors import SanaError
from tests.command_lines import resolve_command
from tests.pipeline_runs import ROOT, Place, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(120)
QUICKSTART = ROOT / "tests/quickstart"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The demo up to its buckets."""
    folder = tmp_path_factory.mktemp("documents")
    model = folder / "model"
    for name in ("transformer", "vae", "text_encoder", "tokenizer", "scheduler"):
        (model / name).mkdir(parents=True)
        (model / name / "config.json").write_text("{}")
    (model / "model_index.json").write_text("{}")
    made = new_place(folder, model)
    with inline_workers():
        run_stages(made.context(), last="bucket")
    return made


@pytest.fixture(autouse=True)
def _inline() -> Iterator[None]:
    with inline_workers():
        yield


def document(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> dict[str, Any]:
    """Run a command with --json, and read what it printed as the class that it declares reads it."""
    if code:
        with pytest.raises(SystemExit) as ended:
            main([*words, "--json"])
        assert ended.value.code == code
    else:
        main([*words, "--json"])
    out = capsys.readouterr().out
    kind = document_of(resolve_command([*words])[1])
    assert kind is not None
    read = kind.from_json(out, where="stdout")
    assert read.to_value() == json.loads(out)
    return read.to_value()


def config_of(place: Place) -> list[str]:
    values = (f"work_dir={place.folder}/work", f"model.path={place.model}", f"download.datasets.0.source={place.clips}")
    return [str(ROOT / "configs/demo.yaml"), "--root", place.root, *(word for one in values for word in ("-s", one))]


def test_check_says_what_would_stop(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    stop = ("-s", "download.datasets.0.max_rejected_fraction=0.01")
    found = document(capsys, "check", *config_of(place), *stop, code=1)
    assert len(found["stops"]) == 1 and "max_rejected_fraction" in found["stops"][0]


def test_check_of_a_config(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "check", *config_of(place))
    [dataset] = found["datasets"]
    assert (dataset["id"], dataset["num_clips"], dataset["num_used"]) == ("demo", 16, 13)
    assert sorted(reason["num"] for reason in dataset["rejected"]) == [1, 1, 1]
    assert all(reason["names"] for reason in dataset["rejected"])
    assert sum(one["train"] + one["eval"] for one in found["buckets"].values()) == 13
    assert found["stops"] == [] and found["made"] is None and found["next"].startswith("sana run ")


def test_check_of_a_source_makes_a_config(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    places = ("-s", f"work_dir={place.folder}/work", "-s", f"root={tmp_path}/root")
    found = document(capsys, "check", str(place.clips), "--write", str(path), *places)
    assert found["written"] == str(path) and path.read_text().endswith(found["made"]) and found["stops"] == []
    assert found["datasets"][0]["source"] == str(place.clips)


def test_plan(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "plan", *config_of(place))
    stages = {stage["name"]: stage["state"] for stage in found["stages"]}
    assert stages["download"] == stages["probe"] == "cached" and stages["sample"] == "pending"


def test_verify_and_gc_of_an_undamaged_root(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "verify", "--root", place.root, "--deep")
    assert found["problems"] == [] and found["deep"] and found["repair"] == "" and "probe" in found["stages"]
    collected = document(capsys, "gc", "--root", place.root)
    assert (collected["deleted"], collected["objects"], collected["num_bytes"]) == (False, [], 0)


def test_verify_of_a_damaged_copy_names_it_and_the_repair(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = str(tmp_path / "copy")
    copied = document(capsys, "export", "--root", place.root, "--to", copy)
    assert copied["num_copied"] > 5 and copied["num_present"] == 0 and copied["target"] == copy
    again = document(capsys, "import", "--root", copy, "--from", place.root)
    assert (again["num_copied"], again["num_present"]) == (0, copied["num_copied"])
    table = next(Path(copy, "bucket").rglob("clips.parquet"))
    table.unlink()
    found = document(capsys, "verify", "--root", copy, code=1)
    [problem] = found["problems"]
    assert problem["key"] == str(table.relative_to(copy)) and problem["state"] == "missing" and problem["needed_by"]
    assert "--invalidate, then: sana run" in found["repair"] and found["invalidated"] == []
    taken = document(capsys, "verify", "--root", copy, "--invalidate", code=1)
    assert taken["invalidated"]


def test_report(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = str(tmp_path / "report.html")
    assert document(capsys, "report", *config_of(place), "-o", page)["page"] == page and Path(page).exists()


def test_a_conversion(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = (str(QUICKSTART / "config.json"), str(QUICKSTART / "multidatabackend.json"))
    found = document(capsys, "convert-simpletuner", *paths, "-o", str(tmp_path / "my.yaml"))
    assert found["num_keys"] == found["num_mapped"] + len(found["not_carried"]) + len(found["unknown"])
    assert (
        Path(found["config"]).exists() and Path(found["tables"]).exists() and found["next"].startswith("sana validate")
    )


def test_a_document_has_no_other_keys(place: Place) -> None:
    kind = document_of(cli.commands["gc"])
    assert kind is not None
    with pytest.raises(SanaError, match="extra"):
        kind.from_value(
            {"format": 1, "root": "x", "deleted": False, "objects": [], "num_bytes": 0, "extra": 1}, where="x"
        )
