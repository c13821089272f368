"""The list of trainings for the terminal: as many columns as fit."""

import shutil
from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from flows.display.tables import render
from sana.report.formatting import name as shown
from sana.runs.trainings import Attempt, TrainingList, TrainingRow
from sana.wording import age, first_of, in_units

_NARROW = 104  # columns of a terminal from which all of the table's fit
_NARROW_NAME, _NAME_CHARS, _DATA_CHARS = 14, 20, 14
_RIGHT = ("eval loss", "drop", "step", "age", "size")


def trainings_table(found: TrainingList, *, now: float) -> str:
    """Render trainings, a line each; a narrow terminal leaves out method, data and size."""
    narrow = shutil.get_terminal_size((_NARROW, 24)).columns < _NARROW
    titles = ["training", "name", "state", "eval loss", "drop", "step"]
    titles += ["age"] if narrow else ["method", "data", "age", "size"]
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in _RIGHT else "left", no_wrap=True)
    for row in found.trainings:
        cells = _cells(row, now, _NARROW_NAME if narrow else _NAME_CHARS)
        table.add_row(*(Text(cells[title]) for title in titles))
    return render(table)


def attempt_lines(found: TrainingList, *, now: float) -> Iterator[str]:
    """Yield the runs of each training."""
    for row in found.trainings:
        if row.attempts:
            yield f"runs of {row.train or row.trajectory}:"
        yield from (_attempt_line(attempt, now) for attempt in row.attempts)
    if found.untrained:
        yield "runs that came to no training:"
        yield from (f"{_attempt_line(attempt, now)}; {shown(attempt.name, 40)}" for attempt in found.untrained)


def _attempt_line(attempt: Attempt, now: float) -> str:
    took = age(attempt.heard_at - attempt.started_at)
    said, error = str(attempt.state), f": {shown(attempt.error, 60)}" if attempt.error else ""
    if attempt.error.startswith(f"{attempt.state} "):  # stopped by, at: no error
        said, error = shown(attempt.error.partition(";")[0]), ""
    return f"  {attempt.run_id}  {said}, after {took}, {age(now - attempt.heard_at)} ago{error}"


def _cells(row: TrainingRow, now: float, name_chars: int) -> dict[str, str]:
    loss = "-" if row.eval_loss is None else f"{row.eval_loss:.4f}"
    loss += "" if row.eval_stderr is None else f" \u00b1 {row.eval_stderr:.4f}"
    data = first_of([_cut(one, _DATA_CHARS) for one in row.datasets[:1]], len(row.datasets)) or "-"
    return {
        "training": (row.train or row.trajectory)[:8],
        "name": _cut(row.name, name_chars) or "-",
        "state": row.state,
        "eval loss": loss,
        "drop": "-" if row.drop is None else f"{100 * row.drop:.1f}%",
        "step": "-" if row.step is None else str(row.step),
        "method": row.method or "-",
        "data": data,
        "age": "-" if row.at is None else age(now - row.at),
        "size": "-" if row.num_bytes is None else in_units(row.num_bytes),
    }


def _cut(text: str, most: int) -> str:
    """Escape a name from outside, and cut it to so many characters."""
    text = shown(text)
    return text if len(text) <= most else f"{text[: most - 1]}\u2026"
