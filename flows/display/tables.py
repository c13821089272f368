"""Tables for the terminal, and numbers as people read them."""

from collections.abc import Sequence
from io import StringIO

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from sana.maintenance.gc import OrphanedObject
from sana.maintenance.verify import VerifyResult
from sana.store import Store
from sana.wording import in_units

NO_TERMINAL = 120  # columns that a text which may wrap gets in a pipe or a log


def render(table: Table) -> str:
    """Render a table for the terminal, or as wide as it needs: never is an id or a number cut or broken in two.

    Only columns that may wrap do so; where the rest of them needs more than the terminal has, the terminal breaks rows.
    """
    console = Console()
    wide = console.options.update(width=10_000)
    # a pipe or a log has no width
    width = max(console.width if console.is_terminal else NO_TERMINAL, Measurement.get(console, wide, table).minimum)
    out = Console(file=StringIO(), width=width, force_terminal=console.is_terminal, no_color=console.no_color)
    out.print(table)
    lines = str(out.file.getvalue()).rstrip().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines)


def fits(table: Table) -> bool:
    """Whether a table fits the terminal as it is; in a pipe or a log everything does."""
    console = Console()
    needed = Measurement.get(console, console.options.update(width=10_000), table).minimum
    return not console.is_terminal or needed <= console.width


def render_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render plain rows, the first column to the left and numbers to the right."""
    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return render(table)


def health_table(health: VerifyResult, store: Store) -> str:
    """Render what a verification found, per stage."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "objects", "size", "ok", "damaged", "missing", "orphans", "of size"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for name, found in sorted(health.stages.items()):
        bad = [Text(str(number), style="bold red" if number else "") for number in (found.damaged, found.missing)]
        size, orphaned = in_units(found.num_bytes), in_units(found.orphaned_bytes)
        table.add_row(name, str(found.num_objects), size, str(found.ok), *bad, str(found.num_orphaned), orphaned)
    return f"{render(table)}\nof {store.root}; orphans are what nothing committed refers to: `sana gc` deletes them"


def orphaned_table(orphaned: Sequence[OrphanedObject], store: Store) -> str:
    """Render what a collection deletes, per stage and reason."""
    table = Table(box=None, pad_edge=False)
    for name in ("stage", "objects", "size", "why"):
        table.add_column(name, justify="right" if name in ("objects", "size") else "left", no_wrap=True)
    for stage, why in sorted({(thing.key.partition("/")[0], thing.why) for thing in orphaned}):
        sizes = [thing.num_bytes for thing in orphaned if (thing.key.partition("/")[0], thing.why) == (stage, why)]
        table.add_row(stage, str(len(sizes)), in_units(sum(sizes)), why)
    return f"{render(table)}\nof {store.root}"
