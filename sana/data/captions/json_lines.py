"""JSON lines as people write them: each cell a list of texts, and what a cell holds that is no text."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from sana.data.captions.caption_text import decode_lines
from sana.errors import ConfigError

LINES_AT_ONCE = 65536
HEAD_ROWS = 1000
ABSENT, TROUBLE = "sana:absent", "sana:trouble"  # columns: what stands for no caption, and what is wrong
TROUBLES = (ABSENT, TROUBLE)

_ONE_OBJECT = "; in JSON lines each line is an object of its own, as pandas writes with orient='records', lines=True"
_TEXTS = pa.large_list(pa.large_string())
_SURROGATE = re.compile(r"[\ud800-\udfff]")


def json_objects(blocks: Iterator[bytes]) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number, object): line by line, because pyarrow's reader takes no column of both texts and lists.

    Raises:
        pa.ArrowInvalid: a line is not JSON, or no object.
        TextError: a byte is not of UTF-8.
    """
    number, ended = 0, True
    for block in blocks:
        lines = decode_lines(block, number + 1).split("\n")
        ended = not lines[-1]
        for line in lines if lines[-1] else lines[:-1]:
            number += 1
            if not line.strip():
                continue
            try:
                found = json.loads(line)
            except (ValueError, RecursionError) as error:
                cut = (
                    "" if ended or line is not lines[-1] else "; it is the last line and has no end: was the file cut?"
                )
                raise pa.ArrowInvalid(f"line {number} is not JSON: {_why_not(line, error)}{cut}") from error
            if not isinstance(found, dict):
                raise pa.ArrowInvalid(f"line {number} is no object in braces, but {line[:80]!r}{_ONE_OBJECT}")
            yield number, found


def _why_not(line: str, error: ValueError | RecursionError) -> str:
    """Say what is wrong with a line, at which character, and what JSON lines are where it is JSON of another form."""
    if not isinstance(error, json.JSONDecodeError):
        return str(error)
    rest = line[error.pos :].strip()
    if rest == "," and error.msg == "Extra data":
        return f"it ends with a comma{_ONE_OBJECT}"
    where = f"at character {error.pos + 1}, {rest[:40]!r}" if rest else "at its end"
    return f"{error.msg} {where}{_ONE_OBJECT if line.strip() in ('{', '[') else ''}"


def json_names(blocks: Iterator[bytes]) -> list[str]:
    """Return the keys of the first thousand objects: an absent key is an empty cell."""
    names: dict[str, None] = {}
    for number, found in json_objects(blocks):
        names |= dict.fromkeys(found)
        if number >= HEAD_ROWS:
            break
    return list(names)


def read_json_lines(
    blocks: Iterator[bytes], name: str, columns: Sequence[str], *, texts: Sequence[str], head: bool
) -> pa.Table:
    """Read the columns: lists of texts, or null; and TROUBLES, of the columns `texts`."""
    schema = pa.schema(
        [*((column, _TEXTS) for column in columns), *((column, pa.large_string()) for column in TROUBLES)]
    )
    cells: dict[str, list[list[str] | str | None]] = {column: [] for column in schema.names}
    chunks = []
    for number, found in islice(json_objects(blocks), HEAD_ROWS if head else None):
        odd: dict[str, str] = {}
        for column in columns:
            cell = _Cell(f"{name} line {number}, {column}", is_text=column in texts)
            cells[column].append(cell.read(found.get(column)))
            odd |= {kind: f"line {number}, {column}: {what}" for kind, what in cell.odd.items()}
        for kind in TROUBLES:
            cells[kind].append(odd.get(kind))
        if len(cells[TROUBLE]) == LINES_AT_ONCE:
            chunks.append(pa.table(cells, schema=schema))
            cells = {column: [] for column in schema.names}
    return pa.concat_tables([*chunks, pa.table(cells, schema=schema)])


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


class _Cell:
    """One cell. `odd`: by the name of a column in TROUBLES, what the cell holds beside texts."""

    def __init__(self, where: str, *, is_text: bool) -> None:
        self._where, self._is_text = where, is_text
        self.odd: dict[str, str] = {}

    def read(self, value: object) -> list[str] | None:
        """Return the texts; of another column numbers too, as JSON writes them.

        Raises:
            ConfigError: an object, in another column than one of captions.
        """
        if value is None:
            return None
        if isinstance(value, list):
            return [text for one in value for text in self.read(one) or []]
        if isinstance(value, dict) and self._is_text:
            self.odd[TROUBLE] = f"{_shown(value)}, an object, which is no text"
            return []
        if isinstance(value, dict):
            raise ConfigError(f"{self._where} holds {_shown(value)}; a text, a number or a list of them is needed")
        if isinstance(value, str):
            if not value.isascii() and (half := _SURROGATE.search(value)):
                self.odd[TROUBLE] = f"half of a surrogate pair (\\u{ord(half[0]):04x}), which is no character"
                return [] if self._is_text else [value.encode("utf-8", "backslashreplace").decode()]
            return [value]
        if value != value:
            self.odd[ABSENT] = "NaN, which is no caption"
            return []
        if self._is_text:
            self.odd[TROUBLE] = f"{json.dumps(value)}, which is no text"
            return []
        return [json.dumps(value)]
