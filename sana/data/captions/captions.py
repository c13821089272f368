"""Captions: the texts of each video of a data set, from any caption layout."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from sana.config.captions import CaptionsConfig
from sana.config.data import DatasetConfig
from sana.data.captions.caption_layouts import text_files
from sana.data.captions.caption_text import TextError, decode_text
from sana.data.captions.composed import Found, VideoCaptions
from sana.data.captions.metadata_readers import lines_of
from sana.data.captions.row_captions import RowCaptions, UnmatchedRow, join_rows, no_row, read_tables
from sana.data.sources.listing import SourceFile, files_of
from sana.data.sources.source import Source
from sana.errors import error_prefix


class TextFileCaptions:
    """Captions in a text file beside each video: one alternative per line, or one in all."""

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
        return Found((), "", f"there is no {stem}.txt").composed(self._config)

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


Captions = TextFileCaptions | RowCaptions


def open_captions(dataset: DatasetConfig, source: Source) -> Captions:
    """Read the caption tables of a data set, or find its text files.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts.
    """
    with error_prefix(dataset.where):
        if source.layout == "textfile":
            return TextFileCaptions(source, dataset.captions)
        return join_rows(dataset.captions, source)


def check_captions(dataset: DatasetConfig, source: Source) -> None:
    """Check the caption files of a data set, by the heads of its tables and the line counts of its paired text files.

    Raises:
        ConfigError: a table cannot be used; names the data set, the table, and the column or the line counts.
    """
    with error_prefix(dataset.where):
        tables = read_tables(dataset.captions, source, head=True) if source.layout in ("metadata", "lines") else []
        if source.is_table and not any(table.num_rows for _, _, table in tables):
            raise no_row(source)
