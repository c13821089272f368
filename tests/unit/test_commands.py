"""`sana --help` and what its commands have in common."""

import re
import shlex
from pathlib import Path

import click
import pytest

from flows.cli.main import cli, main
from tests.command_lines import check_command


def test_help_lists_every_command_once_by_section(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    text = capsys.readouterr().out
    titles = ["Begin:", "Run:", "Look:", "Use the model:", "Keep the store:"]
    assert [line for line in text.splitlines() if line in titles] == titles
    listed = re.findall(r"^  (\S+)", text[text.index("Begin:") :], re.MULTILINE)
    assert sorted(listed) == sorted(name for name, command in cli.commands.items() if not command.hidden)
    assert all(len(line) <= 80 for line in text.splitlines()) and "..." not in text[text.index("Begin:") :]


@pytest.mark.parametrize(
    "rest", ["verify", "gc", "export --to x", "import --from x", "run", "plan", "calibrate", "report"]
)
def test_every_command_of_a_config_takes_overrides(rest: str) -> None:
    name, *more = shlex.split(rest)
    parsed = check_command([name, "my.yaml", *more, "-s", "root=/elsewhere", "--set", "work_dir=/w"])
    assert parsed.params["overrides"] == ("root=/elsewhere", "work_dir=/w")


def test_overrides_choose_the_root_of_maintenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "configs/demo.yaml", "-s", f"root={tmp_path}/other"])
    assert f"root of configs/demo.yaml: there is no folder {tmp_path}/other" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", "--root", str(tmp_path), "-s", "work_dir=/w"])
    assert "-s changes a config, so name one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "named_by"),
    [
        ("runs --root GONE", "--root"),
        ("runs configs/demo.yaml --root GONE", "root of configs/demo.yaml"),
        ("watch --root GONE", "--root"),
        ("watch 20261128-154012-3fa9c1 --root GONE", "--root"),
        ("compare a b --root GONE", "--root"),
        ("ui --root GONE", "--root"),
        ("verify --root GONE", "--root"),
        ("verify configs/demo.yaml --root GONE", "--root"),
        ("gc --root GONE", "--root"),
        ("gc --root file://GONE", "--root"),
        ("gc configs/demo.yaml -s root=GONE", "root of configs/demo.yaml"),
        ("export --root GONE --to OUT", "--root"),
        ("export configs/demo.yaml -s root=GONE --to OUT", "root of configs/demo.yaml"),
        ("import --root OUT --from GONE", "--from"),
    ],
)
def test_a_root_that_is_not_there_is_no_empty_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, named_by: str
) -> None:
    gone = tmp_path / "no such"
    words = [word.replace("GONE", str(gone)).replace("OUT", str(tmp_path / "out")) for word in shlex.split(command)]
    with pytest.raises(SystemExit) as stop:
        main(words)
    said = capsys.readouterr()
    assert stop.value.code == 1 and f"error: {named_by}: there is no folder {gone}; name one that has" in said.err
    assert not said.out and not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["runs", "watch", "compare a b"])
def test_without_a_name_the_root_is_that_of_the_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(command.split())
    assert stop.value.code == 1 and "there is no .sana/store here; name a config" in capsys.readouterr().err


def test_an_empty_root_is_no_error_and_says_what_fills_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["runs", "--root", str(tmp_path)])
    assert capsys.readouterr().out == f"{tmp_path} has no training; make one: sana run CONFIG\n"
    main(["runs", "configs/demo.yaml", "-s", f"root={tmp_path}/later"])  # before its first run a config has none
    assert f"make one: sana run configs/demo.yaml -s root={tmp_path}/later" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", ["run", "plan", "calibrate", "validate", "check", "report", "verify", "gc", "export-model --to x"]
)
def test_a_root_that_cannot_be_one_is_said_by_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """`--root "$ROOT"` of a variable that is not set is no wish for the config's root; a file is no folder."""
    (tmp_path / "file").touch()
    name, *more = shlex.split(command)
    for root, said in (
        ("", "root"),
        (str(tmp_path / "file"), "is a file; a folder, or a name for a new one, is needed"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([name, "configs/demo.yaml", *more, "--root", root, "-s", f"work_dir={tmp_path}/work"])
        out = capsys.readouterr()
        assert stop.value.code == 1 and said in out.err + out.out, command
    assert not (tmp_path / "work").exists() or name == "check"


@pytest.mark.parametrize(
    "command", ["run", "validate", "check", "ui", "inspect x", "encode-worker", "generate x", "export --to x"]
)
def test_a_work_dir_that_cannot_be_written_is_said_by_every_command_that_writes_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").touch()
    name, *more = shlex.split(command)
    with pytest.raises(SystemExit) as stop:
        main([name, "configs/demo.yaml", *more, "-s", f"work_dir={tmp_path}/file/w", "-s", f"root={tmp_path}/r"])
    said = capsys.readouterr().err
    assert stop.value.code == 1
    assert f"error: cannot write to work_dir {tmp_path}/file/w: Not a directory; choose another work_dir" in said


def test_a_source_that_is_not_there_is_all_that_check_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["check", "nowhere"])
    lines = capsys.readouterr().out.strip().splitlines()
    assert stop.value.code == 1 and lines[0] == "1 thing would stop a run:"
    assert len(lines) == 2 and "is not there; a folder with videos is needed, or a table or archive: .csv" in lines[1]


def test_the_commands_of_a_message_run_when_pasted() -> None:
    from flows.cli.options import resolve, to_be_pasted

    said = "make it again: sana verify CONFIG --invalidate, then: sana run CONFIG"
    resolve("configs/demo.yaml", ["work_dir=a b"], "s3://b/p")
    same = "configs/demo.yaml -s 'work_dir=a b' --root s3://b/p"
    assert to_be_pasted(said) == f"make it again: sana verify {same} --invalidate, then: sana run {same}"
    assert to_be_pasted("sana check SOURCE | CONFIG") == "sana check SOURCE | CONFIG"


def test_an_old_name_says_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tiny", "out", "--seed", "3"])
    assert stop.value.code == 1
    assert "is called `sana make-tiny-model` now: sana make-tiny-model out --seed 3" in capsys.readouterr().err
    assert isinstance(cli.commands["tiny"], click.Command) and cli.commands["tiny"].hidden
