"""`sana deploy`: a file that Prefect takes, for any folder, and that is never written over; the examples beside it."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.events.schemas.automations import AutomationCore
from prefect.flows import load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.schema_tools.validation import validate

from flows.cli.begin import deploy
from flows.cli.main import main

ROOT = Path(__file__).parents[2]
SHIPPED = [ROOT / "prefect.yaml", ROOT / "examples/prefect/prefect.yaml"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no clone, with a config."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "configs/demo.yaml").read_text().replace("configs/demo/clips", str(ROOT / "configs/demo/clips"))
    (tmp_path / "my.yaml").write_text(text)
    return tmp_path


def written(path: Path) -> dict[str, dict[str, Any]]:
    """The deployments of a file by name, after Prefect's own checks."""
    content = yaml.safe_load(path.read_text())
    assert len(PrefectYamlModel.model_validate(content).deployments) == len(content["deployments"])
    return {one["name"]: one for one in content["deployments"]}


def check(deployment: dict[str, Any], folder: Path) -> None:
    """Check the flow and the parameters of a deployment as Prefect does when it is deployed and run."""
    entrypoint = deployment["entrypoint"]
    flow = load_flow_from_entrypoint(str(folder / entrypoint) if ":" in entrypoint else entrypoint)
    assert set(deployment["parameters"]) <= set(inspect.signature(flow.fn).parameters)
    schema = parameter_schema(flow).model_dump()
    assert validate(deployment["parameters"], schema, raise_on_error=False, preprocess=True) == []
    assert all(isinstance(value, str) for value in deployment["work_pool"]["job_variables"]["env"].values())


def test_the_file_deploys_the_installed_flows_from_its_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["deploy", "my.yaml", "-s", "train.max_steps=7", "--root", "store"])
    content = yaml.safe_load((folder / "prefect.yaml").read_text())
    assert content["pull"] == [{"prefect.deployments.steps.set_working_directory": {"directory": str(folder)}}]
    found = written(folder / "prefect.yaml")
    for deployment in found.values():
        assert ":" not in deployment["entrypoint"], "a path needs a clone"
        check(deployment, folder)
        assert deployment["parameters"] == {"config": "my.yaml", "overrides": ["train.max_steps=7"], "root": "store"}
    (nightly,) = found["pipeline"]["schedules"]
    assert not nightly["active"], "nothing runs by itself unless it is asked for"
    assert {"concurrency_limit", "schedules"}.isdisjoint(found["encode-worker"]), "as many at once as there is room"
    said = capsys.readouterr().out
    for line in said.splitlines()[1:]:
        assert f"#   {line.strip()}" in (folder / "prefect.yaml").read_text()


def test_the_repository_deploys_the_same() -> None:
    ours = written(ROOT / "prefect.yaml")
    paths = {**deploy.FLOWS, deploy.ENCODE_WORKER[0]: deploy.ENCODE_WORKER[1]}
    assert {name: one["entrypoint"].replace("/", ".").replace(".py:", ".") for name, one in ours.items()} == paths
    assert ours["pipeline"]["work_pool"]["job_variables"]["env"] == deploy.ENVIRONMENT


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_files_are_valid(path: Path) -> None:
    for deployment in written(path).values():
        check(deployment, ROOT)
        assert "sana" in deployment["tags"], "the automations are for this tag"


def test_names_pool_and_schedule_are_those_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "deep").mkdir()
    zone = "Europe/Berlin"
    options = ["--name", "bunny", "--pool", "my gpu's", "--schedule", "0 4 * * MON", "--timezone", zone]
    main(["deploy", str(folder / "my.yaml"), *options, "-o", "deep/other file.yaml"])
    found = written(folder / "deep/other file.yaml")
    named = {f"bunny-{name}" for name in deploy.FLOWS}
    assert set(found) == {*named, "encode-worker"}
    assert {one["work_pool"]["name"] for one in found.values()} == {"my gpu's"}
    assert found["bunny-pipeline"]["schedules"] == [
        {"cron": "0 4 * * MON", "timezone": "Europe/Berlin", "active": True}
    ]
    assert "schedules" not in found["bunny-train"]
    assert found["bunny-pipeline"]["parameters"]["config"] == "my.yaml"  # below the folder that runs start in
    said = capsys.readouterr().out
    assert """--pool 'my gpu'"'"'s'""" in said and "--prefect-file 'deep/other file.yaml'" in said
    assert "sana-video/bunny-pipeline" in said


def test_a_config_elsewhere_is_named_by_its_whole_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "other").mkdir()
    monkeypatch.chdir(folder / "other")
    main(["deploy", "../my.yaml"])
    config = written(folder / "other/prefect.yaml")["train"]["parameters"]["config"]
    assert Path(config).is_absolute() and Path(config).resolve() == (folder / "my.yaml").resolve()


def test_without_a_config_the_forms_ask_for_one(folder: Path) -> None:
    main(["deploy"])
    assert {str(one["parameters"]) for one in written(folder / "prefect.yaml").values()} == {"{}"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my.yaml"], "prefect.yaml is there already and is left as it is; write another one, sana deploy"),
        (["nothing.yaml", "-o", "b.yaml"], "there is no config nothing.yaml"),
        (["my.yaml", "-o", "b.yaml", "-s", "train.max_stps=7"], "max_stps"),
        (["my.yaml", "-o", "b.yaml", "--schedule", "every day"], "--schedule 'every day' in --timezone 'UTC' is no"),
        (
            ["my.yaml", "-o", "b.yaml", "--schedule", "0 3 * * *", "--timezone", "Mars/Base"],
            "'Mars/Base' is no schedule",
        ),
        (["my.yaml", "-o", "b.yaml", "--name", "a/b"], "--name 'a/b': letters, digits"),
        (["my.yaml", "-o", "b.yaml", "--pool", "{{ x }}"], "Prefect fills in what is between {{ and }}"),
        (["-o", "b.yaml", "--root", "store"], "-s and --root change a config: name the config"),
        (["my.yaml", "-o", "no/b.yaml"], "cannot write no/b.yaml: No such file or directory"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_written(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (folder / "prefect.yaml").write_text("mine: true\n")
    with pytest.raises(SystemExit) as ended:
        main(["deploy", *arguments])
    assert ended.value.code == 1 and said in capsys.readouterr().err
    assert (folder / "prefect.yaml").read_text() == "mine: true\n"
    assert sorted(path.name for path in folder.iterdir()) == ["my.yaml", "prefect.yaml"]


def test_automations_are_valid_and_wait_for_three_signs() -> None:
    listed = yaml.safe_load((ROOT / "examples/prefect/automations.yaml").read_text())["automations"]
    crashed, late, paused = (AutomationCore.model_validate(one) for one in listed)
    sign_every_s = float(deploy.ENVIRONMENT["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert crashed.trigger.within.total_seconds() >= 3 * sign_every_s  # type: ignore[union-attr]
    assert [one.actions[0].type for one in (crashed, late, paused)] == [
        "change-flow-run-state",
        "cancel-flow-run",
        "pause-deployment",
    ]
