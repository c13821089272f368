"""Lines for people: broken between words where a terminal is narrower, as they are in a pipe or a log."""

import os
import re
import shutil
import sys
from collections.abc import Iterator

import click
from rich.cells import cell_len

_INDENT = "  "  # of the rows that follow the first of a line
_LEAST = 20  # columns: a terminal that says less of itself is not believed
_PART = re.compile(r"""(?:[^\s'"\\]|'[^']*'|"(?:[^"\\]|\\.)*"|\\.|['"\\])+""")  # of a command: quoted spaces are in it
_WORD = re.compile(r"( *)((?:-[a-z] (?=[^ -]))?[^ ]+)")  # of prose: -s is nothing without its value
_PYTHON = re.compile(r" *(from \w+ import|pipe\b.*\()")  # pasted too, and a row would be no statement
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_MORE = " \\"  # a shell takes the next row for the same command


def say(text: str, *, command: str = "", err: bool = False) -> None:
    """Print a text. A `command` that it ends with can be pasted whole, however many rows it has."""
    for row in rows_of(text, terminal_width(err=err), command=command):
        click.echo(row, err=err)


def terminal_width(*, err: bool = False) -> int:
    """Return the columns of the terminal that stdout or stderr is; 0: it is none."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        return 0
    columns = os.environ.get("COLUMNS", "")
    try:
        width = int(columns) if columns.isdigit() else os.get_terminal_size(stream.fileno()).columns
    except OSError:
        width = shutil.get_terminal_size().columns
    return max(width or 80, _LEAST)


def rows_of(text: str, width: int, *, command: str = "") -> list[str]:
    """Return a text in rows of at most `width` columns; as it is for 0. What has no space in it is never broken."""
    if not width:
        return [text]
    if not command or not text.endswith(command) or _fits(text, width):
        return [row for line in text.split("\n") for row in _prose(line, width)]
    said = text.removesuffix(command).rstrip()
    pad = text[: len(text) - len(text.lstrip(" "))]
    before = rows_of(said, width) if said else []
    return [*before, *_command(command, width, first=f"{pad}{_INDENT}" if said else pad)]


def _fits(text: str, width: int) -> bool:
    return "\n" not in text and _columns(text) <= width


def _columns(text: str) -> int:
    return cell_len(_STYLE.sub("", text))


def _prose(line: str, width: int) -> Iterator[str]:
    """Yield a line's rows: those after the first begin where it does, set in."""
    if _fits(line, width) or _PYTHON.match(line):
        yield line
        return
    pad = line[: len(line) - len(line.lstrip(" "))]
    row = ""
    for gap, word in _WORD.findall(line):
        if row.strip() and _columns(row + gap + word) > width:
            yield row
            row = f"{pad}{_INDENT}{word}"
        else:
            row += gap + word
    yield row


def _command(command: str, width: int, *, first: str) -> Iterator[str]:
    """Yield a command's rows, broken between its parts; an option keeps its value."""
    row = first
    parts = _PART.findall(command)
    for at, part in enumerate(parts):
        is_value = at > 0 and parts[at - 1].startswith("-") and "=" not in parts[at - 1] and not part.startswith("-")
        after = parts[at + 1] if not is_value and part.startswith("-") and at + 1 < len(parts) else ""
        together = f"{part} {after}" if after and not after.startswith("-") else part
        if row.strip() and not is_value and _columns(f"{row} {together}{_MORE}") > width:
            yield row + _MORE
            row = f"{first}{_INDENT}{part}"
        else:
            row += f" {part}" if row.strip() else part
    yield row
