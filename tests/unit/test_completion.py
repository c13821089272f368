"""What a shell completes: by click's own door, as the scripts of `sana completion` call it."""

import shutil
import subprocess
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete, get_completion_class

from flows.cli.begin.completion import HOW
from flows.cli.main import cli, main
from sana.pipeline.graph import STAGES


def completed(*words: str) -> list[str]:
    """What the last word may become."""
    shell = get_completion_class("bash")
    assert shell is not None
    return [item.value for item in shell(cli, {}, "sana", "_SANA_COMPLETE").get_completions([*words[:-1]], words[-1])]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("my.yaml", "mine.yml", "notes.txt", ".hidden.yaml", "two words.yaml", "sub/other.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for number in (1, 2):
        (tmp_path / f".sana/store/runs/2026112{number}-154012-3fa9c1").mkdir(parents=True)
    (tmp_path / ".sana/store/train/f1f1f1f1f1f1f1f1").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ru"], ["run", "runs"]),
        (["run", "m"], ["mine.yml", "my.yaml"]),
        (["run", "sub/"], ["sub/other.yaml"]),
        (["verify", "my"], ["my.yaml"]),
        (["run", "my.yaml", "--until", "enc"], [name for name in STAGES if name.startswith("enc")]),
        (["export", "my.yaml", "--stage", "tr"], ["train"]),
        (["plan", "my.yaml", "-s", "train.max_st"], ["train.max_steps="]),
        (["plan", "my.yaml", "-s", "root=x"], []),
        (["lora", "ex"], ["extract"]),
        (["watch", "2026"], ["20261122-154012-3fa9c1", "20261121-154012-3fa9c1"]),
        (["watch", "m"], ["mine.yml", "my.yaml"]),
        (["compare", "my.yaml", "f1"], ["f1f1f1f1f1f1f1f1"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
    ],
)
def test_a_word_becomes(folder: Path, words: list[str], expected: list[str]) -> None:
    assert completed(*words) == expected


def test_where_there_is_no_config_the_shell_shows_its_files(folder: Path) -> None:
    shell: ShellComplete = get_completion_class("bash")(cli, {}, "sana", "_SANA_COMPLETE")  # type: ignore[misc]
    for words in (["run", "note"], ["check", "x"]):
        assert [(item.value, item.type) for item in shell.get_completions(words[:-1], words[-1])] == [
            (words[-1], "file")
        ]


@pytest.mark.parametrize("shell", [*HOW])
def test_the_script_of_a_shell_calls_sana(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(["completion", shell])
    out, err = capsys.readouterr()
    assert f"_SANA_COMPLETE={shell}_complete" in out and "sana" in out and not err
    if (program := shutil.which(shell)) is not None:
        assert subprocess.run([program, "-n"], input=out, text=True, capture_output=True, check=False).stderr == ""


def test_an_unknown_shell_is_a_usage_error() -> None:
    with pytest.raises(SystemExit) as ended:
        main(["completion", "tcsh"])
    assert ended.value.code == 2
    assert isinstance(cli.commands["completion"], click.Command)
