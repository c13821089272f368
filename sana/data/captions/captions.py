"""Captions: the texts of each video of a data set, from any caption layout."""

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.config.captions import CaptionsConfig
from sana.config.data import DatasetConfig
from sana.data.captions.caption_layouts import is_within, paired_texts, row_files, text_files
from sana.data.captions.caption_lines import lines_of
from sana.data.captions.caption_text import TextError, decode_text, is_blank
from sana.data.captions.composed import Found, VideoCaptions
from sana.data.captions.json_lines import HEAD_ROWS
from sana.data.captions.metadata_readers import HEAD_BYTES
from sana.data.captions.name_matching import nearest
from sana.data.captions.row_captions import MAX_NEAR, RowCaptions, UnmatchedRow, join_rows, no_row, read_tables
from sana.data.sources.listing import TEXT_FILE, SourceFile, files_of, stems
from sana.data.sources.source import Source
from sana.errors import ConfigError, error_prefix

MAX_TEXTS_CHECKED = 100  # before a run, whether texts have several lines


class TextFileCaptions:
    """Captions in a text file beside each video: one alternative per line, or one in all.

    `which`: bool [videos], those that have their captions in texts.
    """

    def __init__(self, source: Source, config: CaptionsConfig, which: np.ndarray | None = None) -> None:
        self._source, self._config = source, config
        self._videos = source.videos
        _, self._texts = row_files(source.layout, source.caption_files)
        rows = np.arange(self._videos.num_rows) if which is None else np.flatnonzero(which)
        self._text_of = np.full(self._videos.num_rows, -1)
        self._text_of[rows] = text_files(self._videos.take(pa.array(rows)), self._texts)
        self._near = self._near_texts(rows[self._text_of[rows] < 0][:MAX_NEAR])

    def _near_texts(self, videos: np.ndarray) -> dict[str, str]:
        """Return by stem the text that has nearly the name of a video without one."""
        paths = self._source.unused_files.column("path")
        texts = paths.filter(pc.match_substring_regex(paths, TEXT_FILE)).combine_chunks()
        if not len(videos) or not len(texts):
            return {}
        wanted = stems(self._videos.take(pa.array(videos))).combine_chunks()
        text_stems = pc.replace_substring_regex(texts, r"\.[^./]*\z", "")
        near = pc.take(texts, pc.index_in(nearest(wanted, text_stems), text_stems))
        return {stem: text for stem, text in zip(wanted.to_pylist(), near.to_pylist(), strict=True) if text}

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

    def num_lines(self, at_most: int) -> list[int]:
        """Return how many lines that are not blank some of the texts have, in the order of their paths."""
        some = np.unique(np.linspace(0, max(0, self._texts.num_rows - 1), at_most, dtype=np.int64))
        counted = []
        for file in files_of(self._texts.take(pa.array(some[: self._texts.num_rows]))):
            try:
                text = decode_text(self._source.read(file), self._config.encoding)
            except (TextError, OSError):  # a reject of the run, with the reason
                continue
            counted.append(sum(not is_blank(line) for line in lines_of(text)))
        return counted

    def _no_file(self, video: int) -> VideoCaptions:
        stem = self._videos.column("path")[int(video)].as_py().rpartition(".")[0]
        near = f'; "{self._near[stem]}" is near' if stem in self._near else ""
        return Found((), "", f"there is no {stem}.txt{near}").composed(self._config)

    def _read_file(self, file: SourceFile) -> VideoCaptions:
        try:
            text = decode_text(self._source.read(file), self._config.encoding)
        except TextError as error:
            return VideoCaptions((), reason=f"{file.path} {error}")
        except OSError as error:
            return VideoCaptions((), reason=f"{file.path}: {error.strerror or error}")
        lines = lines_of(text)
        if self._config.lines == "one":
            lines = ["\n".join(lines)]
        return Found([(line, None) for line in lines], file.path).composed(self._config)


class MixedCaptions:
    """Rows of tables in sub-folders for the videos there and those that they name; a text file for each other video."""

    def __init__(self, rows: RowCaptions, source: Source, config: CaptionsConfig) -> None:
        found, _ = row_files(source.layout, source.caption_files)
        inside = is_within(source.videos.column("path"), found.folders)
        self._by_row = inside.to_numpy() | rows.has_rows()
        self._rows = rows
        self.texts = TextFileCaptions(source, config, ~self._by_row)

    def read(self, videos: np.ndarray) -> list[VideoCaptions]:
        """Gather the captions of these rows of the source's videos. Thread-safe."""
        by_row = self._by_row[videos]
        rows, texts = iter(self._rows.read(videos[by_row])), iter(self.texts.read(videos[~by_row]))
        return [next(rows) if of_row else next(texts) for of_row in by_row]

    def unmatched(self) -> Iterator[UnmatchedRow]:
        """Yield the rows whose video is not in the source, each name once."""
        return chain(self._rows.unmatched(), self.texts.unmatched())


Captions = TextFileCaptions | RowCaptions | MixedCaptions


def open_captions(dataset: DatasetConfig, source: Source) -> Captions:
    """Read the caption tables of a data set, or find its text files.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts. Or there
            are texts beside most videos that a table leaves out.
    """
    config = dataset.captions
    with error_prefix(dataset.where):
        if source.layout == "textfile":
            return TextFileCaptions(source, config)
        rows = join_rows(config, source)
        if config.layout == "auto" and not config.columns:
            _check_one_layout(rows, source)
        return MixedCaptions(rows, source, config) if source.layout == "mixed" else rows


def _check_one_layout(rows: RowCaptions, source: Source) -> None:
    """Refuse a table that leaves out more videos with a text of their own than it names."""
    if not source.unused_files.num_rows or not rows.names:
        return
    has_rows = rows.has_rows()
    left_out = source.videos.filter(pa.array(~has_rows))
    texts = paired_texts(source.unused_files, left_out).column("path")
    if len(texts) > has_rows.sum():
        raise ConfigError(
            f"two caption layouts are in {source.uri}: {', '.join(rows.names[:3])} names {has_rows.sum()} of "
            f"{len(has_rows)} videos, and {len(texts)} of the others have a text beside them, as {texts[0].as_py()}. "
            "captions.layout: textfile takes the texts, captions.layout: metadata (or lines) the rows"
        )


def check_captions(dataset: DatasetConfig, source: Source) -> list[str]:
    """Check the caption files of a data set, by the heads of its tables and the line counts of its paired text files.

    Returns what may not be meant, a line each.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts.
    """
    config = dataset.captions
    notes: list[str] = []
    with error_prefix(dataset.where):
        tables = read_tables(config, source, head=True)
        if source.is_table and not any(table.num_rows for _, _, table in tables):
            raise no_row(source)
        largest = pc.max(source.caption_files.column("num_bytes")).as_py() or 0
        is_whole = all(table.num_rows < HEAD_ROWS for _, _, table in tables) and largest <= HEAD_BYTES
        if tables and is_whole and config.layout == "auto" and not config.columns and not source.is_table:
            _check_one_layout(join_rows(config, source, tables), source)
        if source.layout == "textfile" and "lines" not in config.model_fields_set:
            lines = TextFileCaptions(source, config).num_lines(MAX_TEXTS_CHECKED)
            several = sum(num > 1 for num in lines)
            if several > len(lines) / 2:
                notes.append(
                    f"{several} of {len(lines)} texts that were looked at have several lines: each line is an "
                    "alternative caption of its clip. captions.lines: one makes a file one caption; captions.lines: "
                    "alternatives keeps them, and ends this note"
                )
    return notes
