"""Readers of published tables of videos and captions: CSV, JSON lines, Parquet, and two text files line by line."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from sana.config.captions import CaptionsConfig
from sana.data.captions.caption_lines import lines_of
from sana.data.captions.caption_text import BLOCK_BYTES, TextError, utf8_blocks
from sana.data.captions.csv_rows import CsvRows
from sana.data.captions.json_lines import HEAD_ROWS, TROUBLE, TROUBLES, json_names, read_json_lines
from sana.data.captions.table_cells import TEXTS, lists_of_texts, nothing, scores_of, strings, without_words
from sana.data.file_heads import head_of, what_it_is
from sana.data.sources.listing import VIDEO_SUFFIXES
from sana.errors import ConfigError, NoColumnError

VIDEO_COLUMNS = ("file_name", "video", "path", "uri", "url")
TEXT_COLUMNS = ("text", "caption", "captions", "prompt")
SOURCE_COLUMN = "source_id"
HEAD_BYTES = 1 << 19

_VIDEO_NAME = re.compile(rf"({'|'.join(map(re.escape, VIDEO_SUFFIXES))})(?![a-z0-9])", re.IGNORECASE)


def rows_schema(num_texts: int) -> pa.Schema:
    """Return the schema that every table is read into.

    `video` is as written, `text_<i>` are lists of captions. TROUBLES say what stands in place of a caption, and what
    is wrong with the row or one of its captions; both are null in most rows.
    """
    return pa.schema(
        [("video", pa.large_string()), ("source_id", pa.large_string()), ("motion_score", pa.float64())]
        + [(name, pa.large_string()) for name in TROUBLES]
        + [(f"text_{i}", TEXTS) for i in range(num_texts)]
    )


def read_rows(path: Path, name: str, config: CaptionsConfig, *, head: bool = False) -> pa.Table:
    """Read the rows of a table file: schema `rows_schema(max(1, len(config.text_columns)))`; nulls where a cell is.

    `head`: only the first ones, thousands at most: enough to see what is wrong with the table as a whole.

    Raises:
        ConfigError: it is damaged, or a column is missing or of a type that cannot be used; begins with `name`.
        OSError: it is not readable.
    """
    suffix = PurePosixPath(name).suffix.lower()
    start = head_of(path)
    other = what_it_is(start, "a table of captions", text_is_fine=True)
    if not start:
        raise ConfigError(f"{name} is an empty file: remove it, or set captions.layout to where the captions are")
    if other and not (suffix == ".parquet" and start.startswith(b"PAR1")):
        raise ConfigError(f"{name} {other.removeprefix('it ')}")

    def blocks() -> Iterator[bytes]:
        return utf8_blocks(path, config.encoding, block_bytes=HEAD_BYTES if head else BLOCK_BYTES)

    try:
        if suffix == ".parquet":
            wanted = _columns(pq.read_schema(path).names, name, config)
            table = _read_parquet(path, sorted(set(filter(None, wanted))), head)
        elif suffix == ".csv":
            rows = CsvRows(blocks(), delimiter=config.delimiter, is_header=lambda names: _has_columns(names, config))
            try:
                wanted = _columns(rows.header, name, config)
            except ConfigError as error:
                raise ConfigError(f"{error}{_delimiter_hint(rows)}") from error
            table = _read_csv(rows, wanted, head)
        else:
            wanted = _columns(json_names(blocks()), name, config)
            columns = sorted(set(filter(None, wanted)))
            table = read_json_lines(blocks(), name, columns, texts=list(filter(None, wanted[3:])), head=head)
        video, source, motion, *texts = wanted
        words = [word.lower() for word in config.null_words]
        sources = without_words(strings(table, source, name), words)  # else all clips without one would share it
        columns = [strings(table, video, name), sources, scores_of(table, motion, name, words)]
        columns += [
            table.column(column) if column in table.column_names else nothing(table.num_rows) for column in TROUBLES
        ]
        columns += [lists_of_texts(table, text, name) for text in texts]
    except TextError as error:
        raise ConfigError(f"{name} {error}") from error
    except (pa.ArrowInvalid, UnicodeError) as error:
        raise ConfigError(f"{name} cannot be read: {' '.join(str(error).split())[:300]}") from error
    return pa.table(columns, schema=rows_schema(len(texts)))


def read_lines(videos: str, prompts: str, *, names: Sequence[str]) -> pa.Table:
    """Pair the lines of two texts, given with their names: schema `rows_schema(1)`.

    Blank lines at the end of the longer one, of which the other has none, are left out.

    Raises:
        ConfigError: they do not have as many lines.
    """
    paths, texts = lines_of(videos), lines_of(prompts)
    num = min(len(paths), len(texts))
    if not "".join([*paths[num:], *texts[num:]]).strip():
        paths, texts = paths[:num], texts[:num]
    if len(paths) != len(texts):
        raise ConfigError(
            f"{names[0]} has {len(paths)} lines and {names[1]} has {len(texts)}: line N of one belongs to line N of "
            "the other, so they must agree"
        )
    columns = {"video": [path.strip() for path in paths], "text_0": [[text] for text in texts]}
    return pa.table(
        [pa.array(columns.get(field.name, [None] * len(paths)), field.type) for field in rows_schema(1)],
        schema=rows_schema(1),
    )


def _has_columns(names: Sequence[str], config: CaptionsConfig) -> bool:
    try:
        _columns(names, "", config)
    except ConfigError:
        return False
    return True


def _columns(names: Sequence[str], table: str, config: CaptionsConfig) -> list[str | None]:
    """Return the names of the columns for video, source_id, motion score and captions; None for what is missing.

    A name in other case is taken where one column has it.
    """
    named = [name for name in names if name]
    if len(set(named)) != len(named):
        raise ConfigError(f"{table} has two columns of one name: {', '.join(names)}; rename one")
    has = f"It has: {', '.join(names) or 'none'}"

    def like(column: str) -> str | None:
        if column in named:
            return column
        same = [name for name in named if name.strip().lower() == column.lower()]
        return same[0] if len(same) == 1 else None

    def one(column: str) -> str:
        found = like(column)
        if found is not None:
            return found
        near = get_close_matches(column.lower(), [name.lower() for name in names], n=1, cutoff=0.5)
        hint = next((f"; did you mean {name!r}?" for name in names if [name.lower()] == near), ".")
        raise ConfigError(f"{table} has no column {column!r}{hint} {has}")

    def first(columns: Sequence[str], setting: str) -> str:
        found = next(filter(None, [*(c for c in columns if c in named), *map(like, columns)]), None)
        if found is None:
            is_row = table.lower().endswith(".csv") and any(_VIDEO_NAME.search(name) for name in names)
            rows = "; its first line must name the columns" * is_row
            message = (
                f"{table} has none of the columns {', '.join(columns)}; name one in captions.{setting}. {has}{rows}"
            )
            raise NoColumnError(message, setting, names)
        return found

    video = one(config.video_column) if config.video_column else first(VIDEO_COLUMNS, "video_column")
    texts: list[str | None] = [one(column) for column in config.text_columns]
    if not texts:
        texts = [None if config.layout == "none" else first(TEXT_COLUMNS, "text_columns")]
    source = one(config.source_column) if config.source_column else like(SOURCE_COLUMN)
    return [video, source, one(config.motion_score_column) if config.motion_score_column else None, *texts]


def _read_parquet(path: Path, columns: list[str], head: bool) -> pa.Table:
    file = pq.ParquetFile(path)
    if head:
        first = next(file.iter_batches(HEAD_ROWS, columns=columns), None)
        batches = [] if first is None else [first]
        table = pa.Table.from_batches(batches, None if batches else pa.schema(map(file.schema_arrow.field, columns)))
    else:
        table = file.read(columns=columns)
    for column in columns:
        try:
            table.column(column).validate(full=True)  # text that is not UTF-8 is read without a word
        except pa.ArrowInvalid as error:
            raise pa.ArrowInvalid(f"column {column!r}: {error}") from error
    return table


def _read_csv(rows: CsvRows, wanted: Sequence[str | None], head: bool) -> pa.Table:
    columns = list(dict.fromkeys(filter(None, wanted)))  # the video first
    numbers = [rows.header.index(column) for column in columns]
    names = [*columns, TROUBLE]
    found = pa.table([nothing(0) for _ in names], names)
    for table in rows.tables(numbers[0], numbers):  # of a block there may be several
        found = pa.concat_tables([found, table.rename_columns(names)])
        if head and (found.num_rows >= HEAD_ROWS or found.nbytes > 2 * HEAD_BYTES):
            break
    return found


def _delimiter_hint(rows: CsvRows) -> str:
    """Say which character separates cells, where the first line may have another."""
    if len(rows.header) != 1 or not (other := re.search(r"[^\w\s.-]", rows.header[0].replace(rows.delimiter, ""))):
        return ""
    return (
        f". Cells are separated by {rows.delimiter!r} here; if it is {other[0]!r}, set captions.delimiter: '{other[0]}'"
    )
