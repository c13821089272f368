"""Lines for people break between words where a terminal is narrower, and nowhere else."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from flows.cli.main import main
from flows.display import wrapping
from flows.display.wrapping import rows_of, say

PATH = "/a/path/that/is/longer/than/any/terminal/is/wide/and/that/somebody/wants/to/copy/whole.yaml"
PROSE = (
    "the shortest bucket needs 33 frames: lower it, -s bucket.num_frames=13 takes 3 of 4; and so on, word by word",
    "  note: a line that is set in, and goes on and on, so that it needs several rows in a narrow terminal",
    "\u65e5\u672c\u8a9e\u306e \u8aac\u660e\u304c\u3042\u308b " * 12,
)
COMMANDS = (
    f"sana run {PATH} -s work_dir=/tmp/w -s 'prompt=two words' --root s3://bucket/prefix --until bucket",
    "sana check 'my clips' --write my.yaml && sana run my.yaml -s sample.num_inference_steps=20 --root /some/where",
    """sana run it.yaml -s 'a=it'"'"'s one word' -s download.datasets.0.source=/videos --root /a/root/of/mine""",
)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("text", PROSE)
def test_prose_breaks_between_words(text: str, width: int) -> None:
    rows = rows_of(text, width)
    assert all(cell_len(row) <= width for row in rows) and " ".join(rows).split() == text.split()
    pad = len(text) - len(text.lstrip())
    assert all(row.startswith(" " * (pad + 2)) for row in rows[1:]) and not rows[0][pad].isspace()


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_several_rows_is_one_to_the_shell(command: str, width: int) -> None:
    said, *rows = rows_of(f"to do what is left of it: {command}", width, command=command)
    assert said == "to do what is left of it:" and all(row.endswith(" \\") for row in rows[:-1])
    pasted = "\n".join(rows).replace("\\\n", " ")
    assert shlex.split(pasted) == shlex.split(command)
    assert all(cell_len(row) <= width for row in rows if PATH not in row)


@pytest.mark.parametrize(
    "line",
    [
        "  pipe = SanaVideoPipeline.from_pretrained('/a/folder/of mine')  # and more",
        PATH,
        "  from diffusers import X",
        "",
    ],
)
def test_what_is_pasted_stays_as_it_is(line: str) -> None:
    assert rows_of(line, 20) == [line]


def test_colours_take_no_columns() -> None:
    styled = "\x1b[1mstage   \x1b[0m\x1b[1mstate    \x1b[0m"
    assert rows_of(styled, 20) == [styled]


def test_a_pipe_or_log_gets_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say(PROSE[0] * 5, command="")
    say(f"x: {COMMANDS[0]}", command=COMMANDS[0], err=True)
    said = capsys.readouterr()
    assert said.out == f"{PROSE[0] * 5}\n" and said.err == f"x: {COMMANDS[0]}\n"


def test_an_option_keeps_its_value() -> None:
    said = "fastest that fits: -s train.resources.activation_memory=1 -s train.resources.micro_batch_size=4; a -b"
    assert rows_of(said, 60) == [
        "fastest that fits: -s train.resources.activation_memory=1",
        "  -s train.resources.micro_batch_size=4; a -b",
    ]


@pytest.mark.parametrize("width", [60, 80])
def test_a_wrong_option_is_told_by_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(wrapping, "terminal_width", lambda *, err=False: width if err else 0)
    with pytest.raises(SystemExit) as ended:
        main(["runs", "--sort", "nonsense"])
    said = capsys.readouterr().err
    assert ended.value.code == 2 and all(len(row) <= width for row in said.splitlines())
    assert said.startswith("Usage: sana runs ") and "'nonsense' is not one of 'newest'," in " ".join(said.split())


@pytest.mark.parametrize("width", [60, 80])
def test_an_error_breaks_between_words_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    """Each command says its errors through one door; the terminal's width is asked of the stream that it is."""
    monkeypatch.setattr(wrapping, "terminal_width", lambda *, err=False: width if err else 0)
    (tmp_path / "bad.yaml").write_text("train: {max_stepss: 1, global_batch_size: none at all of them}\nroot: s\n")
    with pytest.raises(SystemExit):
        main(["plan", str(tmp_path / "bad.yaml")])
    rows = capsys.readouterr().err.splitlines()
    assert len(rows) > 3
    assert all(cell_len(row) <= width or " " not in row.strip() for row in rows), rows


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    opened, terminal = os.openpty()
    with open(terminal, "w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        monkeypatch.setenv("COLUMNS", "70")
        assert wrapping.terminal_width() == 70
        monkeypatch.setenv("COLUMNS", "3")  # what cannot be
        assert wrapping.terminal_width() == 20
        monkeypatch.delenv("COLUMNS")
        assert wrapping.terminal_width() == 80  # a terminal that says 0
    os.close(opened)
