"""Readers of published tables of videos and captions: CSV, JSON lines, Parquet, and two text files line by line."""

import csv
import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from sana.config.captions import CaptionsConfig
from sana.errors import ConfigError

VIDEO_COLUMNS = ("file_name", "video", "path", "uri", "url")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt")
SOURCE_COLUMN = "source_id"
LINES_AT_ONCE = 65536
HEAD_ROWS = 1000

_TEXTS = pa.large_list(pa.large_string())


def rows_schema(num_texts: int) -> pa.Schema:
    """Return the schema that every table is read into; `video` is as written, `text_<i>` are lists of captions."""
    return pa.schema(
        [("video", pa.large_string()), ("source_id", pa.large_string()), ("motion_score", pa.float64())]
        + [(f"text_{i}", _TEXTS) for i in range(num_texts)]
    )


def read_rows(path: Path, name: str, config: CaptionsConfig, *, head: bool = False) -> pa.Table:
    """Read the rows of a table file: schema `rows_schema(max(1, len(config.text_columns)))`; nulls where a cell is.

    `head`: only the first ones, thousands at most: enough to see what is wrong with the table as a whole.

    Raises:
        ConfigError: it is damaged, or a column is missing or of a type that cannot be used; begins with `name`.
        OSError: it is not readable.
    """
    suffix = PurePosixPath(name).suffix.lower()
    try:
        if suffix == ".parquet":
            names = pq.read_schema(path).names
            wanted = _columns(names, name, config)
            table = _read_parquet(path, sorted(set(filter(None, wanted))), head)
        elif suffix == ".csv":
            wanted = _columns(_csv_header(path), name, config)
            table = _read_csv(path, sorted(set(filter(None, wanted))), head)
        else:
            wanted = _columns(_json_names(path), name, config)
            table = _read_json_lines(path, name, sorted(set(filter(None, wanted))), head)
        video, source, motion, *texts = wanted
        columns = [_strings(table, video, name), _strings(table, source, name), _scores(table, motion, name)]
        columns += [_lists(table, text, name) for text in texts]
    except (pa.ArrowInvalid, UnicodeError, csv.Error) as error:
        raise ConfigError(f"{name} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return pa.table(columns, schema=rows_schema(len(texts)))


def read_lines(videos: str, prompts: str, *, names: Sequence[str]) -> pa.Table:
    """Pair the lines of two texts, given with their names: schema `rows_schema(1)`.

    Raises:
        ConfigError: they do not have as many lines.
    """
    paths, texts = lines_of(videos), lines_of(prompts)
    if len(paths) != len(texts):
        raise ConfigError(
            f"{names[0]} has {len(paths)} lines and {names[1]} has {len(texts)}: line N of one belongs to line N of "
            "the other, so they must agree"
        )
    nothing = pa.nulls(len(paths), pa.large_string())
    columns = [[path.strip() for path in paths], nothing, nothing.cast(pa.float64()), [[text] for text in texts]]
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, rows_schema(1), strict=True)], schema=rows_schema(1))


def lines_of(text: str) -> list[str]:
    """Split at line feeds, with or without a carriage return: str.splitlines also splits inside of sentences."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def _columns(names: Sequence[str], table: str, config: CaptionsConfig) -> list[str | None]:
    """Return the names of the columns for video, source_id, motion score and captions; None for what is missing."""
    if len(set(names)) != len(names):
        raise ConfigError(f"{table} has two columns of one name: {', '.join(names)}; rename one")

    def one(column: str) -> str:
        if column in names:
            return column
        near = get_close_matches(column.lower(), [name.lower() for name in names], n=1, cutoff=0.5)
        like = next((name for name in names if [name.lower()] == near), None)
        hint = "." if like is None else f"; did you mean {like!r}?"
        raise ConfigError(f"{table} has no column {column!r}{hint} It has: {', '.join(names) or 'none'}")

    def first(columns: Sequence[str], setting: str) -> str:
        found = next((column for column in columns if column in names), None)
        if found is None:
            raise ConfigError(
                f"{table} has none of the columns {', '.join(columns)}; name one in captions.{setting}. "
                f"It has: {', '.join(names) or 'none'}"
            )
        return found

    video = one(config.video_column) if config.video_column else first(VIDEO_COLUMNS, "video_column")
    texts: list[str | None] = [one(column) for column in config.text_columns]
    if not texts:
        texts = [None if config.layout == "none" else first(TEXT_COLUMNS, "text_columns")]
    source = one(config.source_column) if config.source_column else SOURCE_COLUMN if SOURCE_COLUMN in names else None
    return [video, source, one(config.motion_score_column) if config.motion_score_column else None, *texts]


def _csv_header(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(csv.reader(file), [])


def _read_parquet(path: Path, columns: list[str], head: bool) -> pa.Table:
    file = pq.ParquetFile(path)
    if not head:
        return file.read(columns=columns)
    first = next(file.iter_batches(HEAD_ROWS, columns=columns), None)
    return file.schema_arrow.empty_table().select(columns) if first is None else pa.Table.from_batches([first])


def _read_csv(path: Path, columns: list[str], head: bool) -> pa.Table:
    options = {
        "parse_options": pa_csv.ParseOptions(newlines_in_values=True),
        "convert_options": pa_csv.ConvertOptions(
            include_columns=columns, column_types=dict.fromkeys(columns, pa.large_string()), strings_can_be_null=False
        ),
    }
    if not head:
        return pa_csv.read_csv(path, **options)
    with pa_csv.open_csv(path, **options) as blocks:
        return pa.Table.from_batches(islice(blocks, 1), blocks.schema)


def _json_objects(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield (line number, object): line by line, because pyarrow's reader takes no column of both texts and lists."""
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    found = json.loads(line)
                except ValueError as error:
                    raise pa.ArrowInvalid(f"line {number} is not JSON: {error}") from error
                if not isinstance(found, dict):
                    raise pa.ArrowInvalid(f"line {number} is no object in braces, but {line[:80]!r}")
                yield number, found


def _json_names(path: Path) -> list[str]:
    """Return the keys of the first thousand objects: an absent key is an empty cell."""
    names: dict[str, None] = {}
    for number, found in _json_objects(path):
        names |= dict.fromkeys(found)
        if number >= HEAD_ROWS:
            break
    return list(names)


def _read_json_lines(path: Path, name: str, columns: list[str], head: bool) -> pa.Table:
    """Read the columns; every cell becomes a list of texts, or null."""
    schema = pa.schema([(column, _TEXTS) for column in columns])
    cells: dict[str, list[list[str] | None]] = {column: [] for column in columns}
    chunks = []
    for number, found in islice(_json_objects(path), HEAD_ROWS if head else None):
        for column in columns:
            cells[column].append(_json_cell(found.get(column), f"{name} line {number}, {column}"))
        if len(cells[columns[0]]) == LINES_AT_ONCE:
            chunks.append(pa.table(cells, schema=schema))
            cells = {column: [] for column in columns}
    return pa.concat_tables([*chunks, pa.table(cells, schema=schema)])


def _json_cell(value: object, where: str) -> list[str] | None:
    if value is None or isinstance(value, list):
        return None if value is None else [text for one in value for text in _json_cell(one, where) or []]
    if isinstance(value, dict):
        raise ConfigError(f"{where} holds {json.dumps(value)[:80]}; a text, a number or a list of them is needed")
    return [value if isinstance(value, str) else json.dumps(value)]


def _column(table: pa.Table, column: str) -> pa.ChunkedArray:
    found = table.column(column)
    return found.cast(found.type.value_type) if pa.types.is_dictionary(found.type) else found


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _wrong(table: str, column: str, kind: pa.DataType, needed: str) -> ConfigError:
    return ConfigError(f"{table}: column {column!r} holds {kind}; {needed} is needed")


def _strings(table: pa.Table, column: str | None, name: str) -> pa.ChunkedArray:
    """Return one text per row, null where there is none."""
    if column is None:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.large_string())])
    found = _column(table, column)
    if found.type == _TEXTS:  # from JSON lines
        if pc.max(pc.list_value_length(found)).as_py() not in (None, 0, 1):
            raise _wrong(name, column, found.type, "one text a row")
        return pc.list_element(_padded(found), 0)
    if not (_is_text(found.type) or pa.types.is_integer(found.type) or pa.types.is_null(found.type)):
        raise _wrong(name, column, found.type, "text")
    return found.cast(pa.large_string())


def _padded(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn empty lists into null, so that each other one has a first element."""
    return pc.if_else(pc.equal(pc.list_value_length(lists), 0), pa.scalar(None, lists.type), lists)


def _lists(table: pa.Table, column: str | None, name: str) -> pa.ChunkedArray:
    """Return the captions of a row as a list, whether the cell is a text, a list or empty."""
    if column is None:
        return pa.chunked_array([pa.nulls(table.num_rows, _TEXTS)])
    found = _column(table, column)
    if _is_list(found.type):
        if not (_is_text(found.type.value_type) or pa.types.is_null(found.type.value_type)):
            raise _wrong(name, column, found.type, "text, or lists of text,")
        return found.cast(_TEXTS)
    if pa.types.is_null(found.type):
        return found.cast(_TEXTS)
    if not _is_text(found.type):
        raise _wrong(name, column, found.type, "text, or lists of text,")
    chunks = found.cast(pa.large_string()).chunks
    return pa.chunked_array(
        [pa.LargeListArray.from_arrays(pa.array(np.arange(len(chunk) + 1)), chunk) for chunk in chunks], _TEXTS
    )


def _scores(table: pa.Table, column: str | None, name: str) -> pa.ChunkedArray:
    """Return one number per row, null where there is none; of a list its mean, as in the official data set."""
    if column is None:
        return pa.chunked_array([pa.nulls(table.num_rows, pa.float64())])
    found = _column(table, column)
    try:
        if _is_list(found.type):
            numbers = [[float(one) for one in cell or []] for cell in found.to_pylist()]
            return pa.chunked_array([pa.array([sum(some) / len(some) if some else None for some in numbers])])
        if _is_text(found.type):
            found = pc.utf8_trim_whitespace(found.cast(pa.large_string()))
            found = pc.if_else(pc.equal(found, ""), pa.scalar(None, pa.large_string()), found)
        scores = found.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError, TypeError) as error:
        raise ConfigError(f"{name}: column {column!r} is the motion score, and holds no number: {error}") from error
    if pc.any(pc.is_inf(scores)).as_py():
        raise ConfigError(f"{name}: column {column!r} is the motion score, and holds an infinity")
    return scores
