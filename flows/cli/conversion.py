"""What the terminal shows of a conversion: what became of each key."""

from rich.table import Column, Table
from rich.text import Text

from flows.cli.tables import render
from sana.convert.conversion import Conversion
from sana.convert.simpletuner import faults_of
from sana.convert.yaml_text import scalar, shown


def conversion_text(conversion: Conversion) -> str:
    """Render what became of each of SimpleTuner's keys, and which of its faults are left behind."""
    mapped = Table(box=None, pad_edge=False)
    for name, width in (("SimpleTuner", 30), ("here", 38), ("value", 20), ("note", 29)):
        mapped.add_column(name, width=width, overflow="fold")
    for setting in conversion.settings:
        if setting.theirs:
            theirs = ", ".join(conversion.short(name) for name in setting.theirs)
            cells = (theirs, setting.key, scalar(setting.value), setting.why)
            mapped.add_row(*(Text(cell) for cell in cells))
    texts = [render(mapped)]
    rest = [(key.name, shown(key), key.why) for key in conversion.not_carried]
    faults = [(fault, ours) for fault, ours in faults_of(conversion)]
    for title, names, rows in (  # long names are folded, never cut
        ("not carried over", ("key", "value", "why, and what is used instead"), rest),
        ("not known", ("key", "value", "nearest"), [(key.name, shown(key), key.why) for key in conversion.unknown]),
        ("known faults that are not carried over", ("SimpleTuner", "here"), faults),
    ):
        if rows:
            table = Table(*(Column(name, overflow="fold") for name in names), box=None, pad_edge=False)
            for row in rows:
                table.add_row(*(Text(cell) for cell in row))
            texts.append(f"{title}:\n{render(table)}")
    return "\n\n".join(texts)
