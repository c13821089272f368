"""The tables of a conversion, in Markdown: what became of each key, and which faults are left behind."""

from collections.abc import Iterable, Sequence

from sana.convert.conversion import Conversion
from sana.convert.simpletuner import faults_of
from sana.convert.yaml_text import one_line, scalar, shown


def markdown_text(conversion: Conversion, *, title: str) -> str:
    """Return the tables; a table without rows is left out."""
    mapped = [
        (", ".join(setting.theirs), setting.key, scalar(setting.value), setting.why)
        for setting in conversion.settings
        if setting.theirs
    ]
    chosen = [
        (setting.key, scalar(setting.value), setting.why) for setting in conversion.settings if not setting.theirs
    ]
    left = [(key.name, shown(key), key.why) for key in conversion.not_carried]
    unknown = [(key.name, shown(key), key.why) for key in conversion.unknown]
    faults = [(fault.theirs, fault.ours, fault.changes) for fault in faults_of(conversion)]
    parts = [f"# {one_line(title)}"]
    if conversion.notes:
        parts.append("\n".join(f"- {one_line(note)}" for note in conversion.notes))
    for heading, names, rows in (
        ("Not known", ("SimpleTuner", "value", "nearest"), unknown),
        ("Mapped", ("SimpleTuner", "here", "value", "note"), mapped),
        ("Chosen here", ("here", "value", "why"), chosen),
        ("Not carried over", ("SimpleTuner", "value", "why, and what is used instead"), left),
        ("Faults of SimpleTuner that are not carried over", ("SimpleTuner", "here", "changes"), faults),
    ):
        if rows:
            parts.append(f"## {heading}\n\n{_table(names, rows)}")
    return "\n\n".join(parts) + "\n"


def mapped_table(conversion: Conversion, names: frozenset[str] | None = None) -> str:
    """Return the table of what was mapped; of the keys `names` only, where they are given."""
    rows = [
        (", ".join(setting.theirs), setting.key, scalar(setting.value), setting.why)
        for setting in conversion.settings
        if setting.theirs and (names is None or not names.isdisjoint(setting.theirs))
    ]
    return _table(("SimpleTuner", "here", "value", "note"), rows)


def left_out_table(conversion: Conversion, names: frozenset[str] | None = None) -> str:
    """Return the table of what was not carried over; empty without a row."""
    rows = [(key.name, shown(key), key.why) for key in conversion.not_carried if names is None or key.name in names]
    return _table(("SimpleTuner", "value", "why, and what is used instead"), rows) if rows else ""


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_row(cells) for cells in (names, ["---"] * len(names), *rows))


def _row(cells: Sequence[str]) -> str:
    # unescaped, <name> would be a tag that is not shown, and | would end the cell
    plain = (one_line(cell).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"
