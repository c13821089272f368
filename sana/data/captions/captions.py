"""Captions: the texts of each video of a data set, from wherever its layout keeps them, and what is put around them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.config.captions import CaptionsConfig
from sana.config.data import DatasetConfig
from sana.data.captions.caption_layouts import line_files, place_of, text_files, why_missing
from sana.data.captions.metadata_readers import lines_of, read_lines, read_rows, rows_schema
from sana.data.schemas import Reason
from sana.data.sources.listing import FILES_AT_ONCE, SourceFile, files_of
from sana.data.sources.source import Source
from sana.errors import ConfigError, SanaError, error_prefix

MAX_NAME = 1000  # characters of what a cell holds instead of a name: a rejected row is for people


@dataclass(frozen=True)
class Told:
    """What is said of one video: its captions as they are trained on, and what it was cut from ("": not said).

    No captions: `reason` says why, in words.
    """

    captions: tuple[str, ...]
    source_id: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Unmatched:
    """A row of a table whose video is not among those of the source."""

    name: str
    reason: Reason
    detail: str


class TextFiles:
    """Captions in a text beside each video, one alternative a line."""

    def __init__(self, source: Source, config: CaptionsConfig) -> None:
        self._source, self._config = source, config
        self._videos, self._texts = source.videos, source.caption_files
        self._text_of = text_files(self._videos, self._texts)

    def of(self, videos: np.ndarray) -> list[Told]:
        """Read the texts of these rows of the source's videos. Thread-safe."""
        texts = self._text_of[videos]
        files = files_of(self._texts.take(pa.array(texts[texts >= 0])))
        return [
            self._read(next(files)) if text >= 0 else self._none(video)
            for video, text in zip(videos, texts, strict=True)
        ]

    def unmatched(self) -> Iterator[Unmatched]:
        """Nothing: a text beside no video is no clip."""
        return iter(())

    def _none(self, video: int) -> Told:
        stem = self._videos.column("path")[int(video)].as_py().rpartition(".")[0]
        return _finished((), f"there is no {stem}.txt", self._config)

    def _read(self, file: SourceFile) -> Told:
        try:
            text = self._source.read(file).decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Told((), reason=f"{file.path} is not UTF-8: {error.reason}")
        except OSError as error:
            return Told((), reason=f"{file.path}: {error.strerror or error}")
        return _finished(tuple((line, None) for line in lines_of(text)), f"{file.path} is empty", self._config)


@dataclass(frozen=True)
class Rows:
    """Captions in rows that name their videos: of tables, or of paired text files. Two rows are alternatives."""

    config: CaptionsConfig
    table: pa.Table  # rows_schema, as the tables have them: sorting them would be another copy of all text
    order: np.ndarray  # int64 [rows]: the rows by their videos
    starts: np.ndarray  # int64 [videos + 1]: the rows of video i are order[starts[i]:starts[i + 1]]
    nowhere: str  # what to say of a video that no row names
    lost: list[Unmatched] = field(default_factory=list)

    def of(self, videos: np.ndarray) -> list[Told]:
        """Gather the rows of these rows of the source's videos. Thread-safe."""
        starts, ends = self.starts[videos], self.starts[videos + 1]
        wanted = np.concatenate([self.order[a:b] for a, b in zip(starts, ends, strict=True)] or [starts])
        rows = self.table.take(pa.array(wanted)).to_pylist()
        told, at = [], 0
        for count in ends - starts:
            told.append(self._told(rows[at : at + count]))
            at += count
        return told

    def unmatched(self) -> Iterator[Unmatched]:
        """The rows whose video is not there, each name once."""
        return iter(self.lost)

    def _told(self, rows: list[dict]) -> Told:
        texts = [name for name in self.table.schema.names if name.startswith("text_")]
        captions = tuple(
            (text, row["motion_score"]) for row in rows for name in texts for text in row[name] or () if text
        )
        nothing = "its caption is empty" if rows else self.nowhere
        score = next((row["motion_score"] for row in rows if row["motion_score"] is not None), None)
        source_id = next((row["source_id"] for row in rows if row["source_id"]), "")
        return _finished(captions, nothing, self.config, source_id=source_id, score=score)


Captions = TextFiles | Rows


def open_captions(dataset: DatasetConfig, source: Source) -> Captions:
    """Read the tables of a data set, or find its texts.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts.
    """
    with error_prefix(dataset.where):
        if source.layout == "textfile":
            return TextFiles(source, dataset.captions)
        return _join(dataset.captions, source)


def check_captions(dataset: DatasetConfig, source: Source) -> None:
    """Read the heads of a data set's tables, and count the lines of its lists: what `open_captions` would reject.

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


def _finished(
    captions: Sequence[tuple[str, float | None]],
    nothing: str,
    config: CaptionsConfig,
    *,
    source_id: str = "",
    score: float | None = None,
) -> Told:
    """Compose what was found, or take the fallback, or say why there is `nothing`."""
    texts = tuple(compose(text.strip(), config, motion) for text, motion in captions if text.strip())
    if not texts and config.fallback:  # the config has one only where it is meant to be used
        texts = (compose(config.fallback, config, score),)
    return Told(texts, source_id, "" if texts else nothing)


def _read_tables(config: CaptionsConfig, source: Source, *, head: bool = False) -> list[tuple[str, str, pa.Table]]:
    """Return (folder, name, rows) of each table of the source, sorted by name; `head`: of a table its first rows."""
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


def _join(config: CaptionsConfig, source: Source) -> Rows:
    """Find the video of every row: the rows of a video lie together, those of none are told apart."""
    tables = _read_tables(config, source) if source.layout != "none" else []
    schema = tables[0][2].schema if tables else rows_schema(1)
    rows = pa.concat_tables([schema.empty_table(), *(table for _, _, table in tables)]).combine_chunks()
    named = [(folder, name, table.num_rows) for folder, name, table in tables]
    del tables  # else all text would be here twice
    if source.is_table and not rows.num_rows:
        raise _no_row(source)
    paths, end = [], 0
    for folder, _, num_rows in named:
        start, end = end, end + num_rows
        for at in range(start, end, FILES_AT_ONCE):
            places = [
                place_of(video, folder=folder, base=source.base, is_source=source.is_table)
                for video in rows.column("video").slice(at, min(FILES_AT_ONCE, end - at)).to_pylist()
            ]
            paths.append(pa.array([path or None for path, _ in places], pa.large_string()))
    meant = pa.chunked_array(paths, pa.large_string()).combine_chunks()
    found = pc.fill_null(pc.index_in(meant, source.videos.column("path").combine_chunks()), -1)
    video_of = found.to_numpy(zero_copy_only=False).astype(np.int64)
    order = np.argsort(video_of, kind="stable")
    starts = np.searchsorted(video_of[order], np.arange(source.videos.num_rows + 1))
    nowhere = f"no row of {', '.join(name for _, name, _ in named[:3])} names it" if named else "layout: none"
    lost = _lost(named, rows, meant, np.flatnonzero(video_of < 0), source)
    return Rows(config, rows, order, starts, nowhere, lost)


def _lost(
    named: Sequence[tuple[str, str, int]], rows: pa.Table, meant: pa.Array, which: np.ndarray, source: Source
) -> list[Unmatched]:
    """Say of each row whose video is not there where it is and why, each video once."""
    firsts = np.cumsum([0] + [num_rows for _, _, num_rows in named])
    lost: dict[str, Unmatched] = {}
    for row in which.tolist():
        number = int(np.searchsorted(firsts, row, side="right")) - 1
        folder, name, _ = named[number]
        video, path = rows.column("video")[row].as_py(), meant[row].as_py()
        at = f"row {row - int(firsts[number]) + 1} of {name}"
        if path:
            why = why_missing(path, is_source=source.is_table)
            lost.setdefault(path, Unmatched(path[:MAX_NAME], Reason.MISSING, f"{at}: it {why}"))
            continue
        _, why = place_of(video, folder=folder, base=source.base, is_source=source.is_table)
        shown = (video or at).replace("\0", "\\x00")[:MAX_NAME]
        reason = Reason.OUTSIDE if video else Reason.MISSING
        lost.setdefault(shown, Unmatched(shown, reason, f"{at}: it {why}"))
    return list(lost.values())
