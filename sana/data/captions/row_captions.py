"""Captions in rows that name their videos: of tables, or of two text files line by line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.config.captions import CaptionsConfig
from sana.data.captions.caption_layouts import folder_of, resolve_video_path, row_files, why_missing
from sana.data.captions.caption_text import TextError, decode_text
from sana.data.captions.composed import Found, VideoCaptions
from sana.data.captions.json_lines import ABSENT, TROUBLE, TROUBLES
from sana.data.captions.metadata_readers import read_lines, read_rows, rows_schema
from sana.data.captions.name_matching import nearest, videos_of_paths
from sana.data.schemas import Reason
from sana.data.sources.listing import FILES_AT_ONCE, files_of
from sana.data.sources.source import Source
from sana.errors import ConfigError, SanaError

MAX_NEAR = 10_000  # names for which a near one is looked for
MAX_NAME_CHARS = 1000  # of a cell that is no valid name: rejected rows are for people to read


@dataclass(frozen=True)
class UnmatchedRow:
    """A row of a table whose video is not among the videos of the source."""

    name: str
    reason: Reason
    detail: str


@dataclass(frozen=True)
class RowCaptions:
    """Captions in rows that name their videos, of tables or paired text files. Rows of one video are alternatives."""

    config: CaptionsConfig
    table: pa.Table  # rows_schema, in the order of the files: sorting would copy all text
    order: np.ndarray  # int64 [rows]: the rows, sorted by their videos
    starts: np.ndarray  # int64 [videos + 1]: the rows of video i are order[starts[i]:starts[i + 1]]
    no_row_reason: str  # of a video that no row names
    null_words: frozenset[str]  # texts that are no caption, in lower case
    names: list[str]  # of the tables
    unmatched_rows: list[UnmatchedRow] = field(default_factory=list)

    def read(self, videos: np.ndarray) -> list[VideoCaptions]:
        """Gather the captions of these rows of the source's videos. Thread-safe."""
        starts, ends = self.starts[videos], self.starts[videos + 1]
        wanted = np.concatenate([self.order[a:b] for a, b in zip(starts, ends, strict=True)] or [starts])
        rows = self.table.take(pa.array(wanted)).to_pylist()
        found, at = [], 0
        for count in ends - starts:
            found.append(self._captions_of(rows[at : at + count]))
            at += count
        return found

    def has_rows(self) -> np.ndarray:
        """Return bool [videos]: whether a row names the video."""
        named: np.ndarray = self.starts[1:] > self.starts[:-1]
        return named

    def unmatched(self) -> Iterator[UnmatchedRow]:
        """Yield the rows whose video is not in the source, each name once."""
        return iter(self.unmatched_rows)

    def _captions_of(self, rows: list[dict[str, Any]]) -> VideoCaptions:
        texts = [name for name in self.table.schema.names if name.startswith("text_")]
        found = Found(
            [(text, row["motion_score"]) for row in rows for name in texts for text in row[name] or () if text],
            name="its caption",
            why_none="" if rows else self.no_row_reason,
            null_words=self.null_words,
            absent=[row[ABSENT] for row in rows if row[ABSENT]],
            troubles=[row[TROUBLE] for row in rows if row[TROUBLE]],
        )
        score = next((row["motion_score"] for row in rows if row["motion_score"] is not None), None)
        source_id = next((row["source_id"] for row in rows if row["source_id"]), "")
        return found.composed(self.config, source_id=source_id, score=score)


def read_tables(config: CaptionsConfig, source: Source, *, head: bool = False) -> list[tuple[str, str, pa.Table]]:
    """Return (folder, name, rows) of each table of the source, sorted by name; `head`: only the first rows of each."""
    if source.layout in ("none", "textfile"):
        return []
    found, _ = row_files(source.layout, source.caption_files)
    files = {file.path: file for file in files_of(source.caption_files)} if found.pairs else {}
    tables = []
    try:
        for folder, videos, prompts in found.pairs:
            texts = [_decoded(source.read(files[path]), path, config) for path in (videos, prompts)]
            tables.append((folder, videos, read_lines(*texts, names=(videos, prompts))))
        for file in files_of(found.tables):
            with source.open_file(file) as path, source.naming(file.path):
                rows = _named(read_rows(path, file.path, config, head=head), source.table_name(file.path))
            tables.append((folder_of(file.path), file.path, rows))
    except OSError as error:
        raise SanaError(f"the captions of {source.uri} cannot be read: {error}") from error
    return sorted(tables, key=lambda table: table[1])


def _decoded(data: bytes, name: str, config: CaptionsConfig) -> str:
    try:
        return decode_text(data, config.encoding)
    except TextError as error:
        raise ConfigError(f"{name} {error}") from error


def _named(rows: pa.Table, name: str) -> pa.Table:
    """Put the table's name before its TROUBLES."""
    for column in TROUBLES:
        if rows.column(column).null_count < rows.num_rows:
            text = pc.binary_join_element_wise(
                pa.scalar(name, pa.large_string()), rows.column(column), pa.scalar(" ", pa.large_string())
            )
            rows = rows.set_column(rows.schema.get_field_index(column), rows.schema.field(column), text)
    return rows


def no_row(source: Source) -> ConfigError:
    """The error of a source that is a table without rows."""
    return ConfigError(f"{source.uri} has no row")


def join_rows(
    config: CaptionsConfig, source: Source, tables: Sequence[tuple[str, str, pa.Table]] | None = None
) -> RowCaptions:
    """Find the video of every row, of all tables or those given; rows without a video are listed apart."""
    tables = read_tables(config, source) if tables is None else tables
    schema = tables[0][2].schema if tables else rows_schema(1)
    rows = pa.concat_tables([schema.empty_table(), *(table for _, _, table in tables)]).combine_chunks()
    named = [(folder, name, table.num_rows) for folder, name, table in tables]
    del tables  # else all text would be in memory twice
    if source.is_table and not rows.num_rows:
        raise no_row(source)
    row_paths = _paths_of(named, rows, source)
    video_of = videos_of_paths(row_paths, source.videos.column("path").combine_chunks())
    order = np.argsort(video_of, kind="stable")
    starts = np.searchsorted(video_of[order], np.arange(source.videos.num_rows + 1))
    names = [source.table_name(name) for _, name, _ in named]
    no_row_reason = f"no row of {', '.join(names[:3])} names it" if named else "layout: none"
    unmatched = _unmatched_rows(named, rows, row_paths, np.flatnonzero(video_of < 0), source)
    null_words = frozenset(word.lower() for word in config.null_words) if source.layout != "lines" else frozenset()
    return RowCaptions(config, rows, order, starts, no_row_reason, null_words, names, unmatched)


def _paths_of(named: Sequence[tuple[str, str, int]], rows: pa.Table, source: Source) -> pa.Array:
    """Return the path of the video that each row names, relative to the source; null where it names none."""
    paths, end = [], 0
    for folder, _, num_rows in named:
        start, end = end, end + num_rows
        for at in range(start, end, FILES_AT_ONCE):
            resolved = [
                resolve_video_path(video, folder=folder, base=source.base, is_source=source.is_table)
                for video in rows.column("video").slice(at, min(FILES_AT_ONCE, end - at)).to_pylist()
            ]
            paths.append(pa.array([path or None for path, _ in resolved], pa.large_string()))
    return pa.chunked_array(paths, pa.large_string()).combine_chunks()


def _near_names(written: pa.Array, videos: pa.Array) -> dict[str, str]:
    """Return the video that is near to each of the first MAX_NEAR names that fit none, if any."""
    names = pc.unique(written).drop_null().slice(0, MAX_NEAR)
    if not len(names):
        return {}
    plain = pc.replace_substring_regex(names, r"(?s)\A([A-Za-z][A-Za-z0-9+.-]*://[^?#]*)[?#].*", r"\1")
    near = zip(names.to_pylist(), nearest(plain, videos).to_pylist(), strict=True)
    return {name: video for name, video in near if video}


def _unmatched_rows(
    named: Sequence[tuple[str, str, int]],
    rows: pa.Table,
    row_paths: pa.Array,
    which: np.ndarray,
    source: Source,
) -> list[UnmatchedRow]:
    """Say where each of the rows `which` is, and why it has no video; each video once."""
    firsts = np.cumsum([0] + [num_rows for _, _, num_rows in named])
    shown_names = [source.table_name(name) for _, name, _ in named]
    unmatched: dict[str, UnmatchedRow] = {}
    written = pc.coalesce(row_paths, rows.column("video").combine_chunks()).take(pa.array(which))
    near = _near_names(written, source.videos.column("path").combine_chunks())
    for row in which.tolist():
        number = int(np.searchsorted(firsts, row, side="right")) - 1
        folder = named[number][0]
        video, path = rows.column("video")[row].as_py(), row_paths[row].as_py()
        at = f"row {row - int(firsts[number]) + 1} of {shown_names[number]}"
        if trouble := rows.column(TROUBLE)[row].as_py():
            unmatched.setdefault(at, UnmatchedRow(at, Reason.BAD_ROW, trouble))
            continue
        if path:
            why = why_missing(path, near.get(path), is_source=source.is_table)
            unmatched.setdefault(path, UnmatchedRow(path[:MAX_NAME_CHARS], Reason.MISSING, f"{at}: it {why}"))
            continue
        _, why = resolve_video_path(video, folder=folder, base=source.base, is_source=source.is_table)
        shown = (video or at).replace("\0", "\\x00")[:MAX_NAME_CHARS]
        reason = Reason.OUTSIDE if video else Reason.MISSING
        hint = f'; "{near[video]}" is near' if video in near else ""
        unmatched.setdefault(shown, UnmatchedRow(shown, reason, f"{at}: it {why}{hint}"))
    return list(unmatched.values())
