"""What `--json` prints, for docs/cli-output.md: `python -m flows.display.output_reference > docs/cli-output.md`."""

import importlib
import inspect
import re
import sys
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from io import StringIO
from typing import get_args, get_type_hints

import click

from flows.cli.main import SECTIONS
from flows.cli.output.json_output import Failure, JsonOption
from sana.record import Record

_HEAD = """# What programs read

Made by `python -m flows.display.output_reference > docs/cli-output.md` from the code, which a test compares.

With `--json` a command prints one JSON document on stdout and nothing else; what it tells people, progress and
warnings too, goes to stderr. A document is closed: it has the keys below and no others, and `format`, the version of
its layout. A key that is added is no new `format`; one that changes its meaning is.

| exit code | meaning | the same command again |
|---|---|---|
| 0 | done | |
| 1 | something is wrong, a root that is not there too: the message says what to do | the same until that is done |
| 2 | no such command, option or value | gives the same |
| 75 | storage, the network, another rank or another run was in the way, or SIGUSR1 came | may go on by itself |
| 130 | Ctrl-C, also of `watch` and `ui`: the message says what is kept and how to go on | continues |
| 143 | SIGTERM | continues |

A shell shows 143 for a process that SIGTERM ended; where a program starts `sana` itself that is signal 15.

An error under `--json` is one line of JSON, the last of stderr ([Failure](#failure)). Where there is something to tell,
stdout has its document also when the command fails: `run`, `plan`, `check`, `verify`, `calibrate` and `notify`.

Without a terminal there are no bars and no colours: a line for each stage at its start and end, and every 30 s between.
`NO_COLOR=1` is for terminals. `sana completion bash`, `zsh` or `fish` makes a shell complete commands, options, stages,
configs and their keys, and runs of a local root.
"""
_NOT = "These have no `--json`: "
# commands without --json: why
WITHOUT = {
    "ui": "it serves until Ctrl-C",
    "deploy": "it writes a file, which programs can read",
    "schema": "what it prints is JSON already",
    "completion": "it prints a script for the shell",
}


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield all that can be called, with its whole name: of a group what it has."""
    for _, section in SECTIONS:
        for command in section:
            if isinstance(command, click.Group):
                for name, inner in command.commands.items():
                    yield f"{command.name} {name}", inner
            else:
                yield command.name or "", command


def document_of(command: click.Command) -> type[Record] | None:
    """Return the class of what a command prints with --json; None where it has no such option."""
    option = next((one for one in command.params if isinstance(one, JsonOption)), None)
    if option is None:
        return None
    module, _, name = option.document.partition(":")
    found: type[Record] = getattr(importlib.import_module(module), name)
    return found


def lines() -> list[str]:
    """Return the page."""
    by_class: dict[type[Record], list[str]] = {}
    for name, command in commands():
        if (document := document_of(command)) is not None:
            by_class.setdefault(document, []).append(name)
    found = [*_HEAD.splitlines(), _NOT + "; ".join(f"`{name}`: {why}" for name, why in WITHOUT.items()) + ".", ""]
    found += ["## Failure", "", _first_paragraph(Failure), "", *_table(Failure), ""]
    for document, names in by_class.items():
        found += [f"## {', '.join(f'`{name}`' for name in names)}", "", _first_paragraph(document), ""]
        found += [*_table(document), ""]
    return found[:-1]


def _first_paragraph(document: type[Record]) -> str:
    return " ".join((inspect.getdoc(document) or "").split())


def _table(document: type[Record]) -> Iterator[str]:
    yield "| key | type | meaning |"
    yield "|---|---|---|"
    yield from _rows(document, "", ())


def _rows(document: type[Record], prefix: str, above: tuple[type[Record], ...]) -> Iterator[str]:
    hints, meanings = get_type_hints(document), _comments(document)
    for one in fields(document):  # type: ignore[arg-type]  # every record is a dataclass
        kind = hints[one.name]
        below = [part for part in _parts(kind) if inspect.isclass(part) and issubclass(part, Record)]
        listed = getattr(kind, "__origin__", None)
        key = f"{prefix}{one.name}"
        meaning = meanings.get(one.name, "").replace("None", "null")
        yield f"| `{key}` | {_type_text(kind)} | {meaning.replace('|', chr(92) + '|')} |"
        for part in below:
            if part not in above:
                inner = f"{key}.*." if listed in (tuple, Mapping) or str(listed).endswith("Mapping'>") else f"{key}."
                yield from _rows(part, inner, (*above, document))


def _parts(kind: object) -> Iterator[object]:
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _type_text(kind: object) -> str:
    text = kind.__name__ if inspect.isclass(kind) and not get_args(kind) else str(kind)
    for pattern, short in (
        (r"collections\.abc\.|typing\.", ""),
        (r"JsonObject|Mapping\[str, JsonValue\]|Mapping\[str, .*JsonValue.*\]", "object"),
        (r"(?:\w+\.)+(\w+)", r"\1"),
        (r"NoneType|None", "null"),
        (r"\bstr\b", "string"),
        (r"\bint\b", "integer"),
        (r"\bfloat\b", "number"),
        (r"\bbool\b", "boolean"),
        (r"tuple\[(.*), \.\.\.\]", r"list of \1"),
        (r"Mapping\[string, (.*)\]", r"object of \1"),
        (r"Literal\[(.*)\]", r"\1"),
        (r" \| ", " or "),
        (r"\|", "or"),
    ):
        text = re.sub(pattern, short, text)
    return text


def _comments(document: type[Record]) -> dict[str, str]:
    """Return the comment beside each field, by its name."""
    found, names = {}, {one.name for one in fields(document)}  # type: ignore[arg-type]
    for kind in reversed(document.__mro__):
        if not is_dataclass(kind):
            continue
        source = inspect.getsource(kind)
        for token in tokenize.generate_tokens(StringIO(source).readline):
            name = token.line.strip().partition(":")[0]
            if token.type == tokenize.COMMENT and name in names and token.line.strip() != token.string:
                found[name] = token.string.removeprefix("#").strip()
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
