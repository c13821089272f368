"""What the terminal shows of a conversion: a few lines; the tables are in a file beside the config."""

from collections.abc import Sequence
from pathlib import Path

from flows.cli.output.documents import ConversionDocument
from sana.convert.conversion import Conversion
from sana.convert.simpletuner import faults_of

WIDTH = 80


def summary(conversion: Conversion, tables: Path, command: str) -> list[str]:
    """Return five lines: what was mapped, what was not, what changes results, where it is written, and what is next.

    Each is at most WIDTH wide, but for a path or a command, which are not broken.
    """
    theirs = _mapped(conversion)
    left = len(conversion.not_carried) + len(conversion.unknown)
    unknown = [f"{key.name} ({key.why})" for key in conversion.unknown]
    changed = _changes(conversion)
    return [
        _listed(
            f"mapped: {len(theirs)} of {len(theirs) + left} keys{'; ' if conversion.notes else ''}", conversion.notes
        ),
        _listed(f"not carried over: {left} keys, {len(unknown)} unknown: ", unknown)
        if unknown
        else f"not carried over: {left} keys; the tables say what is used instead",
        _listed("changes results: ", changed),
        f"tables: {tables}",
        f"next: {command}",
    ]


def document(conversion: Conversion, output: Path, tables: Path, command: str) -> ConversionDocument:
    """Return the same, for programs."""
    not_carried = {key.name: key.why for key in conversion.not_carried}
    unknown = {key.name: key.why for key in conversion.unknown}
    num_mapped = len(_mapped(conversion))
    return ConversionDocument(
        config=str(output),
        tables=str(tables),
        num_keys=num_mapped + len(conversion.not_carried) + len(conversion.unknown),
        num_mapped=num_mapped,
        not_carried=not_carried,
        unknown=unknown,
        changes=tuple(_changes(conversion)),
        next=command,
    )


def _mapped(conversion: Conversion) -> set[str]:
    return {name for setting in conversion.settings for name in setting.theirs}


def _changes(conversion: Conversion) -> list[str]:
    """Return what makes other results than in SimpleTuner."""
    return [fault.changes for fault in faults_of(conversion) if fault.changes]


def _listed(start: str, names: Sequence[str]) -> str:
    """Put as many names after the start as fit, and the number of the others."""
    for num in range(len(names), 0, -1):
        more = f" and {len(names) - num} more" if num < len(names) else ""
        line = f"{start}{', '.join(names[:num])}{more}"
        if len(line) <= WIDTH:
            return line
    return f"{start}{len(names)}, see the tables" if names else start
