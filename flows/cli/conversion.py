"""What the terminal shows of a conversion: what became of each key."""

from rich.table import Column, Table
from rich.text import Text

from flows.cli.tables import render
from sana.convert.draft import Draft
from sana.convert.simpletuner import faults_of
from sana.convert.yaml_text import scalar, shown


def conversion_text(draft: Draft) -> str:
    """Render what became of each of SimpleTuner's keys, and which of its faults are left behind."""
    mapped = Table(box=None, pad_edge=False)
    for name, width in (("SimpleTuner", 30), ("here", 38), ("value", 20), ("note", 29)):
        mapped.add_column(name, width=width, overflow="fold")
    for line in draft.lines:
        if line.theirs:
            theirs = ", ".join(draft.short(name) for name in line.theirs)
            mapped.add_row(*(Text(cell) for cell in (theirs, line.key, scalar(line.value), line.why)))
    texts = [render(mapped)]
    rest = [(left.key, shown(left), left.why) for left in draft.left]
    faults = [(fault, ours) for fault, ours in faults_of(draft)]
    for title, names, rows in (  # long names are folded, never cut
        ("not carried over", ("key", "value", "why, and what is used instead"), rest),
        ("not known", ("key", "value", "nearest"), [(left.key, shown(left), left.why) for left in draft.unknown]),
        ("known faults that are not carried over", ("SimpleTuner", "here"), faults),
    ):
        if rows:
            table = Table(*(Column(name, overflow="fold") for name in names), box=None, pad_edge=False)
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            texts.append(f"{title}:\n{render(table)}")
    return "\n\n".join(texts)
