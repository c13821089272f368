"""CSV as people write it: rows that cannot be read are told by line, and no cell swallows rows.

Blocks of plain rows are read by Arrow. A block with anything else in it (a cell of several lines, a row that is too
long, a stray quote) is read record by record.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from sana.data.captions.caption_lines import Lines
from sana.data.captions.caption_text import TextError, why_nul
from sana.data.captions.json_lines import TROUBLE
from sana.data.sources.listing import VIDEO_SUFFIXES

DELIMITERS = (",", ";", "\t", "|")
MAX_CELL_CHARS = 1 << 24  # Python's own limit is 2^17, which a column of embeddings exceeds
HeaderTest = Callable[[Sequence[str]], bool]  # whether these names of columns have all that is needed
_Reader = Any  # of the csv module, which does not export the class
MAX_SHOWN = 1000  # characters of what is wrong

_AT_END = "unexpected end"  # in the message of the csv module for a quote that is open at the end of the file
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?\Z")  # Excel's


class CsvRows:
    """The rows of a CSV file, given as blocks of UTF-8 (`utf8_blocks`).

    Raises (on construction and when rows are read):
        TextError: a quote is never closed, or closes only after lines that look like rows of their own; or a cell that
            is read is not UTF-8.
    """

    def __init__(self, blocks: Iterator[bytes], *, delimiter: str, is_header: HeaderTest) -> None:
        csv.field_size_limit(MAX_CELL_CHARS)
        self._lines = Lines(blocks)
        self._row = 0  # rows read so far
        self.delimiter = {"tab": "\t"}.get(delimiter, delimiter)
        self.header = self._read_header(is_header)
        self._lines.carry = "".join(reversed(self._lines.pending)).encode("utf-8", "surrogateescape")
        self._lines.pending = []
        # `a, "b, c"`: a space after each delimiter of the first line stands before quotes as well
        self._spaced = len(self.header) > 1 and all(cell.startswith(" ") for cell in self.header[1:])
        self.header = [cell.strip() for cell in self.header]

    def _read_header(self, is_header: HeaderTest) -> list[str]:
        first = self._record(self._reader_of(","))
        marked = _SEPARATOR_LINE.match("".join(self._lines.taken))
        if marked:
            self.delimiter = marked[1] if self.delimiter == "auto" else self.delimiter
            self._record(self._reader_of(","))
        line = "".join(self._lines.taken)
        if "\0" in line:
            raise TextError(why_nul(line))
        if self.delimiter != "auto":
            return next(csv.reader([line], delimiter=self.delimiter), [])
        found = {mark: next(csv.reader([line], delimiter=mark), []) for mark in DELIMITERS} if first else {",": []}
        fitting = [mark for mark, names in found.items() if is_header([name.strip() for name in names])]
        self.delimiter = fitting[0] if fitting else max(found, key=lambda mark: len(found[mark]))
        return found[self.delimiter]

    def _reader_of(self, delimiter: str, *, spaced: bool = False) -> _Reader:
        return csv.reader(self._lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)

    def _record(self, reader: _Reader) -> list[str]:
        """Read one record that is not blank; [] at the end."""
        lines = self._lines
        while True:
            lines.taken, first = [], lines.number + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                if len(lines.taken) > 1 or _AT_END in str(error):
                    raise _unclosed(f"line {first}", lines, error) from error
                return next(csv.reader([lines.taken[0].replace("\r", " ")]), [])
            if cells is None or any(cells):
                return cells or []

    def tables(self, video: int, columns: Sequence[int]) -> Iterator[pa.Table]:
        """Yield tables of the columns of these numbers, the first of them `video`, named "0", "1", ..., and TROUBLE.

        All are large strings.

        A row with a trouble has nothing else than the video that it seems to name, or null.
        """
        lines = self._lines
        while True:
            if not lines.pending:
                block = self._whole_records(lines.next_block())
                if not block:
                    return
                num_lines = block.count(b"\n") + (not block.endswith(b"\n"))
                table = None if self._spaced else self._plain(block, num_lines, video, columns)
                if table is not None:
                    self._row += table.num_rows
                    lines.number += num_lines
                    yield table
                    continue
                lines.load(block)
            yield self._block_of_records(video, columns)

    def _whole_records(self, block: bytes) -> bytes:
        """Cut a block before a cell of several lines that it ends in; the rest goes before the next block."""
        if block.count(b'"') % 2:
            quotes, ends = (np.flatnonzero(np.frombuffer(block, np.uint8) == ord(mark)) for mark in '"\n')
            outside = ends[np.searchsorted(quotes, ends) % 2 == 0]
            if len(outside) and outside[-1] + 1 < len(block):
                self._lines.carry = block[outside[-1] + 1 :]
                return block[: outside[-1] + 1]
        return block

    def _plain(self, block: bytes, num_lines: int, video: int, columns: Sequence[int]) -> pa.Table | None:
        """Read a block in which each row has all its cells, and quotes stand where they should; else None."""
        quotes = None if b"\\" in block and b'\\"' in block else _paired_quotes(block, self.delimiter)
        if quotes is None:
            return None
        names = [str(number) for number in range(len(self.header))]
        wanted = [str(number) for number in columns]
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(block),
                read_options=pa_csv.ReadOptions(column_names=names, use_threads=False),
                parse_options=pa_csv.ParseOptions(delimiter=self.delimiter, newlines_in_values=True),
                convert_options=pa_csv.ConvertOptions(
                    include_columns=wanted,
                    column_types=dict.fromkeys(wanted, pa.large_string()),
                    strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        if pc.any(pc.equal(table.column(0), "")).as_py():
            return None  # perhaps a row without any text
        if table.num_rows != num_lines:
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
            inside = ends[np.searchsorted(quotes, ends) % 2 == 1]  # of a cell of several lines
            if table.num_rows + len(inside) != num_lines or self._may_swallow(block, inside, video, table.column(0)):
                return None
        return table.append_column(TROUBLE, pa.nulls(table.num_rows, pa.large_string()))

    def _may_swallow(self, block: bytes, ends: np.ndarray, video: int, videos: pa.ChunkedArray) -> bool:
        """Whether a line after one of the line ends looks like a row, by the shape of any of the videos."""
        names = set()
        for end in ends.tolist():
            line = block[end + 1 : block.find(b"\n", end + 1) + 1 or None].decode("utf-8", "replace")
            if line.count(self.delimiter) >= len(self.header) - 1:
                cells = next(csv.reader([line], delimiter=self.delimiter), [])
                names |= {cells[video].strip()} if len(cells) == len(self.header) else set()
        if any(name.lower().endswith(VIDEO_SUFFIXES) for name in names):
            return True
        return bool(names) and not {_shape(name) for name in names}.isdisjoint(map(_shape, videos.to_pylist()))

    def _block_of_records(self, video: int, columns: Sequence[int]) -> pa.Table:
        rows: list[list[str | None]] = []
        strict, lines = self._reader_of(self.delimiter, spaced=self._spaced), self._lines
        doubled = (line.replace('\\"', '""') for line in lines)
        escaped = csv.reader(doubled, delimiter=self.delimiter, strict=True, skipinitialspace=self._spaced)
        while lines.pending:
            first = lines.number + 1
            cells, why = self._cells(strict, escaped, video)
            if not why and not any(cells):
                continue
            self._row += 1
            if why:
                named = _shown(cells[video]) if video < len(cells) else None
                nothing = [None] * (len(columns) - 1)
                rows.append([named, *nothing, f"row {self._row} (line {first}) {why}"])
                continue
            picked = [cells[number] for number in columns]
            _check_encoding(picked, first)
            rows.append([*picked, None])
        names = [*(str(number) for number in columns), TROUBLE]
        arrays = [pa.array([row[at] for row in rows], pa.large_string()) for at in range(len(names))]
        return pa.table(arrays, names)

    def _cells(self, strict: _Reader, escaped: _Reader, video: int) -> tuple[list[str], str]:
        """Read a record by the letter and, where that fails, with backslash and quote for a quote.

        Returns its cells, and what is wrong with it or "".

        Raises:
            TextError: it swallowed other rows.
        """
        lines = self._lines
        lines.taken = []
        cells: list[str] = []
        why, failed = "", None
        try:
            cells, why = self._read(strict, video)
        except TextError as error:
            failed = error
        if not (why or failed) or not any('\\"' in line for line in lines.taken):
            if failed:
                raise failed
            return cells, why
        lines.rewind()
        try:
            other, wrong = self._read(escaped, video)
        except TextError:
            other, wrong = [], "is no better"
        if not wrong:
            return other, ""
        if failed:
            raise failed
        lines.rewind()
        return self._read(strict, video)

    def _read(self, reader: _Reader, video: int) -> tuple[list[str], str]:
        lines, first = self._lines, self._lines.number + 1
        try:
            cells: list[str] = next(reader, [])
        except csv.Error as error:
            if len(lines.taken) > 1 or _AT_END in str(error):
                raise _unclosed(f"row {self._row + 1} (line {first})", lines, error) from error
            if "limit" in str(error):
                return [], f"has a cell of more than {MAX_CELL_CHARS:,} characters"
            cells = next(csv.reader([lines.taken[0].replace("\r", " ")], delimiter=self.delimiter), [])
            if "new-line" in str(error):
                return cells, "has a carriage return in a cell without quotes"
            return cells, "has text after the end of a quote; double a quote that belongs to the text"
        if len(lines.taken) > 1:
            self._check_swallowed(first, cells, video)
        num = len(self.header)
        if len(cells) > num and not any(cells[num:]):
            cells = cells[:num]  # trailing delimiters, as spreadsheets write them
        if not any(cells) or len(cells) == num:
            return cells, ""
        mark = "a tab" if self.delimiter == "\t" else repr(self.delimiter)
        more = f"; quote a cell that has {mark} in it, by double quotes" if len(cells) > num else ""
        return cells, f"has {len(cells)} cell{'s' * (len(cells) != 1)}, and the first line names {num} columns{more}"

    def _check_swallowed(self, first: int, record: Sequence[str], video: int) -> None:
        """Raise if a line inside of a cell looks like a row: as many cells, and a video where this one has its own."""
        num = len(self.header)
        own = _shape(record[video]) if len(record) > video else ""
        for at, line in enumerate(self._lines.taken[1:], 1):
            cells = next(csv.reader([line], delimiter=self.delimiter), [])
            if len(cells) != num:
                continue
            name = cells[video].strip()
            if name.lower().endswith(VIDEO_SUFFIXES) or (num > 1 and name and _shape(name) == own):
                raise TextError(
                    f"row {self._row + 1} (line {first}) opens a quote that closes only in line "
                    f"{first + len(self._lines.taken) - 1}, and line {first + at} looks like a row of its own: "
                    f"{_shown(line)[:80]!r}. Close it in line {first}, or double the quotes that belong to the text"
                )


def _unclosed(row: str, lines: Lines, error: csv.Error) -> TextError:
    if _AT_END in str(error) or "limit" in str(error):
        where = "is never closed"
    else:
        where = f"closes only in line {lines.number}, in the middle of a cell"
    return TextError(
        f"{row} opens a quote that {where}: {_shown(lines.taken[0])[:80]!r}. Close it there, or double the quotes that "
        "belong to the text"
    )


def _shown(text: str) -> str:
    """Return text that may hold bytes that are not UTF-8 as valid text."""
    return text.strip()[:MAX_SHOWN].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _shape(name: str) -> str:
    return re.sub(r"\d+", "0", name.strip())


def _paired_quotes(block: bytes, delimiter: str) -> np.ndarray | None:
    """Return where quotes are, if each opens a cell, closes one, or is one of two inside of a cell; else None."""
    data = np.frombuffer(block, np.uint8)
    at: np.ndarray = np.flatnonzero(data == ord('"'))
    if len(at) % 2:
        return None
    is_edge = np.isin(np.arange(256), [ord(delimiter), *b'\r\n"'])  # what may stand beside a quote
    opens, closes = at[::2], at[1::2]
    opens_well = is_edge[data[np.maximum(opens - 1, 0)]] | (opens == 0)
    closes_well = is_edge[data[np.minimum(closes + 1, len(data) - 1)]]
    return at if opens_well.all() and closes_well.all() else None


def _check_encoding(cells: Sequence[str], line: int) -> None:
    for cell in cells:
        if not cell.isascii():
            try:
                cell.encode()
            except UnicodeEncodeError as error:
                bad = ord(cell[error.start]) & 0xFF
                raise TextError(
                    f"is not UTF-8: in line {line}, byte {len(cell[: error.start].encode()) + 1} of the cell "
                    f"{_shown(cell)[:40]!r} is 0x{bad:02x}; save it as UTF-8, or name its encoding in "
                    "captions.encoding, such as cp1252"
                ) from error
