"""`sana --help` and what its commands have in common."""

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
    listed = [line.split()[0] for line in text[text.index("Begin:") :].splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(name for name, command in cli.commands.items() if not command.hidden)
    assert all(len(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize("rest", ["verify", "gc", "export --to x", "import --from x", "run", "plan", "report"])
def test_every_command_of_a_config_takes_overrides(rest: str) -> None:
    name, *more = shlex.split(rest)
    parsed = check_command([name, "my.yaml", *more, "-s", "root=/elsewhere", "--set", "work_dir=/w"])
    assert parsed.params["overrides"] == ("root=/elsewhere", "work_dir=/w")


def test_overrides_choose_the_root_of_maintenance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["verify", "configs/demo.yaml", "-s", f"root={tmp_path}/other"])
    assert f"there is nothing under {tmp_path}/other" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["verify", "--root", str(tmp_path), "-s", "work_dir=/w"])
    assert "-s changes a config, so name one" in capsys.readouterr().err


def test_an_old_name_says_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tiny", "out", "--seed", "3"])
    assert stop.value.code == 1
    assert "is called `sana make-tiny-model` now: sana make-tiny-model out --seed 3" in capsys.readouterr().err
    assert isinstance(cli.commands["tiny"], click.Command) and cli.commands["tiny"].hidden
