"""Captions: the texts of each video of a data set, from any caption layout, with prefix, suffix and trigger added."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.config.captions import CaptionsConfig
from sana.config.data import DatasetConfig
from sana.data.captions.caption_layouts import line_files, resolve_video_path, text_files, why_missing
from sana.data.captions.metadata_readers import lines_of, read_lines, read_rows, rows_schema
from sana.data.schemas import Reason
from sana.data.sources.listing import FILES_AT_ONCE, SourceFile, files_of
from sana.data.sources.source import Source
from sana.errors import ConfigError, SanaError, error_prefix

MAX_NAME_CHARS = 1000  # of a cell that is no valid name: rejected rows are for people to read


@dataclass(frozen=True)
class VideoCaptions:
    """The captions of one video, as they are trained on, and the source it was cut from ("": not stated).

    Without captions, `reason` says why, in words.
    """

    captions: tuple[str, ...]
    source_id: str = ""
    reason: str = ""


@dataclass(frozen=True)
class UnmatchedRow:
    """A row of a table whose video is not among the videos of the source."""

    name: str
    reason: Reason
    detail: str


class TextFileCaptions:
    """Captions in a text file beside each video, one alternative per line."""

    def __init__(self, source: Source, config: CaptionsConfig) -> None:
        self._source, self._config = source, config
        self._videos, self._texts = source.videos, source.caption_files
        self._text_of = text_files(self._videos, self._texts)

    def read(self, videos: np.ndarray) -> list[VideoCaptions]:
        """Read the text files of these rows of the source's videos. Thread-safe."""
        texts = self._text_of[videos]
        files = files_of(self._texts.take(pa.array(texts[texts >= 0])))
        return [
            self._read_file(next(files)) if text >= 0 else self._no_file(video)
            for video, text in zip(videos, texts, strict=True)
        ]

    def unmatched(self) -> Iterator[UnmatchedRow]:
        """Yield nothing: a text file without a video is not a clip."""
        return iter(())

    def _no_file(self, video: int) -> VideoCaptions:
        stem = self._videos.column("path")[int(video)].as_py().rpartition(".")[0]
        return _composed((), f"there is no {stem}.txt", self._config)

    def _read_file(self, file: SourceFile) -> VideoCaptions:
        try:
            text = self._source.read(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return VideoCaptions((), reason=f"{file.path} is not UTF-8: {error.reason}")
        except OSError as error:
            return VideoCaptions((), reason=f"{file.path}: {error.strerror or error}")
        return _composed(tuple((line, None) for line in lines_of(text)), f"{file.path} is empty", self._config)


@dataclass(frozen=True)
class RowCaptions:
    """Captions in rows that name their videos, of tables or paired text files. Rows of one video are alternatives."""

    config: CaptionsConfig
    table: pa.Table  # rows_schema, in the order of the files: sorting would copy all text
    order: np.ndarray  # int64 [rows]: the rows, sorted by their videos
    starts: np.ndarray  # int64 [videos + 1]: the rows of video i are order[starts[i]:starts[i + 1]]
    no_row_reason: str  # of a video that no row names
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

    def unmatched(self) -> Iterator[UnmatchedRow]:
        """Yield the rows whose video is not in the source, each name once."""
        return iter(self.unmatched_rows)

    def _captions_of(self, rows: list[dict[str, Any]]) -> VideoCaptions:
        texts = [name for name in self.table.schema.names if name.startswith("text_")]
        captions = tuple(
            (text, row["motion_score"]) for row in rows for name in texts for text in row[name] or () if text
        )
        why_none = "its caption is empty" if rows else self.no_row_reason
        score = next((row["motion_score"] for row in rows if row["motion_score"] is not None), None)
        source_id = next((row["source_id"] for row in rows if row["source_id"]), "")
        return _composed(captions, why_none, self.config, source_id=source_id, score=score)


Captions = TextFileCaptions | RowCaptions


def open_captions(dataset: DatasetConfig, source: Source) -> Captions:
    """Read the caption tables of a data set, or find its text files.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts.
    """
    with error_prefix(dataset.where):
        if source.layout == "textfile":
            return TextFileCaptions(source, dataset.captions)
        return _join_rows(dataset.captions, source)


def check_captions(dataset: DatasetConfig, source: Source) -> None:
    """Check the caption files of a data set, by the heads of its tables and the line counts of its paired text files.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts.
    """
    with error_prefix(dataset.where):
        tables = _read_tables(dataset.captions, source, head=True) if source.layout in ("metadata", "lines") else []
        if source.is_table and not any(table.num_rows for _, _, table in tables):
            raise _no_row(source)


def _no_row(source: Source) -> ConfigError:
    return ConfigError(f"{source.uri} has no row")


def compose(caption: str, config: CaptionsConfig, motion_score: float | None) -> str:
    """Return the text that is trained on: `trigger, prefix caption suffix motion score: N.`, without the template."""
    text = f"{config.prefix}{caption}{config.suffix}"
    if config.trigger and not re.search(rf"(?<!\w){re.escape(config.trigger)}(?!\w)", text, re.IGNORECASE):
        text = f"{config.trigger}, {text}"
    if motion_score is not None and motion_score == motion_score:  # NaN: pandas' way to say that there is none
        text = f"{text} motion score: {int(motion_score)}."  # int, as in the official data set
    return text


def _composed(
    captions: Sequence[tuple[str, float | None]],
    why_none: str,
    config: CaptionsConfig,
    *,
    source_id: str = "",
    score: float | None = None,
) -> VideoCaptions:
    """Compose the captions found, else the fallback, else say why there is none."""
    texts = tuple(compose(text.strip(), config, motion) for text, motion in captions if text.strip())
    if not texts and config.fallback:  # the config allows one only where it is used
        texts = (compose(config.fallback, config, score),)
    return VideoCaptions(texts, source_id, "" if texts else why_none)


def _read_tables(config: CaptionsConfig, source: Source, *, head: bool = False) -> list[tuple[str, str, pa.Table]]:
    """Return (folder, name, rows) of each table of the source, sorted by name; `head`: only the first rows of each."""
    files = {file.path: file for file in files_of(source.caption_files)}
    try:
        if source.layout == "lines":
            pairs = line_files(files)
            texts = {path: source.read(file).decode("utf-8-sig") for path, file in files.items()}
            return [
                (folder, videos, read_lines(texts[videos], texts[prompts], names=(videos, prompts)))
                for folder, videos, prompts in pairs
            ]
        tables = []
        for name, file in sorted(files.items()):
            with source.open_file(file) as path:
                tables.append((name.rpartition("/")[0], name, read_rows(path, name, config, head=head)))
        return tables
    except UnicodeDecodeError as error:
        raise ConfigError(f"a file of prompts is not UTF-8: {error}") from error
    except OSError as error:
        raise SanaError(f"the captions of {source.uri} cannot be read: {error}") from error


def _join_rows(config: CaptionsConfig, source: Source) -> RowCaptions:
    """Find the video of every row; rows whose video is not in the source are listed apart."""
    tables = _read_tables(config, source) if source.layout != "none" else []
    schema = tables[0][2].schema if tables else rows_schema(1)
    rows = pa.concat_tables([schema.empty_table(), *(table for _, _, table in tables)]).combine_chunks()
    named = [(folder, name, table.num_rows) for folder, name, table in tables]
    del tables  # else all text would be in memory twice
    if source.is_table and not rows.num_rows:
        raise _no_row(source)
    paths, end = [], 0
    for folder, _, num_rows in named:
        start, end = end, end + num_rows
        for at in range(start, end, FILES_AT_ONCE):
            resolved = [
                resolve_video_path(video, folder=folder, base=source.base, is_source=source.is_table)
                for video in rows.column("video").slice(at, min(FILES_AT_ONCE, end - at)).to_pylist()
            ]
            paths.append(pa.array([path or None for path, _ in resolved], pa.large_string()))
    row_paths = pa.chunked_array(paths, pa.large_string()).combine_chunks()
    found = pc.fill_null(pc.index_in(row_paths, source.videos.column("path").combine_chunks()), -1)
    video_of = found.to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.argsort(video_of, kind="stable")
    starts = np.searchsorted(video_of[order], np.arange(source.videos.num_rows + 1))
    no_row_reason = f"no row of {', '.join(name for _, name, _ in named[:3])} names it" if named else "layout: none"
    unmatched = _unmatched_rows(named, rows, row_paths, np.flatnonzero(video_of < 0), source)
    return RowCaptions(config, rows, order, starts, no_row_reason, unmatched)


def _unmatched_rows(
    named: Sequence[tuple[str, str, int]], rows: pa.Table, row_paths: pa.Array, which: np.ndarray, source: Source
) -> list[UnmatchedRow]:
    """Say where each of the rows `which` is, and why it has no video; each video once."""
    firsts = np.cumsum([0] + [num_rows for _, _, num_rows in named])
    unmatched: dict[str, UnmatchedRow] = {}
    for row in which.tolist():
        number = int(np.searchsorted(firsts, row, side="right")) - 1
        folder, name, _ = named[number]
        video, path = rows.column("video")[row].as_py(), row_paths[row].as_py()
        at = f"row {row - int(firsts[number]) + 1} of {name}"
        if path:
            why = why_missing(path, is_source=source.is_table)
            unmatched.setdefault(path, UnmatchedRow(path[:MAX_NAME_CHARS], Reason.MISSING, f"{at}: it {why}"))
            continue
        _, why = resolve_video_path(video, folder=folder, base=source.base, is_source=source.is_table)
        shown = (video or at).replace("\0", "\\x00")[:MAX_NAME_CHARS]
        reason = Reason.OUTSIDE if video else Reason.MISSING
        unmatched.setdefault(shown, UnmatchedRow(shown, reason, f"{at}: it {why}"))
    return list(unmatched.values())
