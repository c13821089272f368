"""What `sana doctor` shows: a line per check, wrapped to the terminal, with what to do below those that need it."""

import shutil
import textwrap
from collections.abc import Iterator

import click

from flows.doctor.finding import Diagnosis, Line, Verdict
from sana.wording import counted, without_controls

_COLOURS: dict[Verdict, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
_LEAST, _MOST = 50, 120  # columns
_INDENT = 16  # of what follows verdict and name


def lines_of(diagnosis: Diagnosis, width: int | None = None) -> Iterator[str]:
    """Yield the lines of a screen; `width` is the terminal's."""
    columns = min(max(width or shutil.get_terminal_size((80, 24)).columns, _LEAST), _MOST)
    for line in diagnosis.checks:
        yield from _line(line, columns)
    yield ""
    num = {verdict: sum(line.verdict == verdict for line in diagnosis.checks) for verdict in _COLOURS}
    if diagnosis.verdict == "ok":
        yield f"all {counted(num['ok'], 'check')} are ok"
    else:
        parts = [f"{num[verdict]} {verdict}" for verdict in ("fail", "warn", "ok") if num[verdict]]
        means = "mend what fails first" if num["fail"] else "nothing fails"
        yield f"{', '.join(parts)}: {means}"


def _line(line: Line, columns: int) -> Iterator[str]:
    head = f"{click.style(f'{line.verdict:4}', fg=_COLOURS[line.verdict], bold=line.verdict != 'ok')}  {line.name:9} "
    texts = [_on_one_line(line.found), *([f"-> {_on_one_line(line.remedy)}"] if line.remedy else [])]
    pad = " " * _INDENT
    for number, text in enumerate(texts):
        rows = textwrap.wrap(text, columns - _INDENT, break_on_hyphens=False, subsequent_indent="   " * number)
        for row in rows or [""]:
            yield head + row if number == 0 and row == rows[0] else pad + row


def _on_one_line(text: str) -> str:
    return without_controls(" ".join(text.split()))
