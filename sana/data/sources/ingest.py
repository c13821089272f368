"""Ingest: every video of every data set becomes a clip with captions and a digest, or a reject with a reason.

Videos are read in the order of their clip_ids, so that the tables are sorted as they grow: Arrow cannot sort lists of
text beyond 2 GiB. They grow chunk by chunk, so that only a chunk's rows are Python objects.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from sana.config.data import DatasetConfig
from sana.data.captions.captions import Captions, open_captions
from sana.data.schemas import CAPTIONS, CLIPS, MASK_FILES, REJECTS, Reason
from sana.data.sources.listing import SourceFile, files_of
from sana.data.sources.mask_files import ABSENT, NO_MASK
from sana.data.sources.source import Source
from sana.data.tables import clip_id_of
from sana.errors import ConfigError
from sana.runtime.threads import in_threads

CHUNK_CLIPS = 8192  # rows that are Python objects at a time
CLIPS_PER_THREAD = 64  # of a chunk, handed to a thread at once; fewer in a small data set
STAGE = "download"


class Clip(NamedTuple):
    """One clip: a row of CLIPS and CAPTIONS, or of REJECTS; columns of the other tables are empty."""

    clip_id: str
    dataset: str
    path: str
    num_bytes: int = 0
    source_id: str = ""
    digest: str = ""
    captions: tuple[str, ...] = ()
    reason: str = ""
    detail: str = ""
    stage: str = STAGE
    num_dropped: int = 0  # alternative captions that are no text
    mask: tuple[SourceFile, str] | None = None  # and its digest


@dataclass(frozen=True)
class IngestTables:
    """All clips: tables CLIPS, CAPTIONS, REJECTS and MASK_FILES, of clips that have a mask; sorted by clip_id."""

    clips: pa.Table
    captions: pa.Table
    rejects: pa.Table
    masks: pa.Table
    num_in: dict[str, int]  # clips found, by data set
    num_dropped: dict[str, int]  # alternative captions that are no text, of clips that have others, by data set


class _Dataset:
    """A data set with its opened source and captions."""

    def __init__(self, config: DatasetConfig, source: Source) -> None:
        self.config, self.source = config, source
        self.pattern = re.compile(config.source_pattern) if config.source_pattern else None
        check_pattern(config, source)
        self.captions: Captions = open_captions(config, source)
        self.rows = np.arange(source.videos.num_rows) if source.rows is None else source.rows

    def clip_ids(self) -> np.ndarray:
        """Return the clip_ids of the videos that are to be read: bytes of length 20 [rows]."""
        paths = self.source.videos.select(["path"])
        if len(self.rows) < paths.num_rows:
            paths = paths.take(pa.array(self.rows))
        ids = (
            clip_id_of(self.config.id, path)
            for batch in paths.to_batches(CHUNK_CLIPS)
            for path in batch.column(0).to_pylist()
        )
        return np.fromiter(ids, dtype="S20", count=paths.num_rows)

    def read(self, rows: np.ndarray) -> Iterator[Clip]:
        """Yield the clips of these rows of the videos."""
        files = files_of(self.source.videos.take(pa.array(rows, pa.int64())))
        masks = self._masks(rows)
        for file, captions, mask in zip(files, self.captions.read(rows), masks, strict=True):
            path = file.path
            clip = Clip(clip_id_of(self.config.id, path), self.config.id, path, file.num_bytes)
            if file.trouble:
                yield clip._replace(reason=Reason.UNREADABLE, detail=f"{path}: {file.trouble}")
            elif captions.reason:
                yield clip._replace(reason=Reason.NO_CAPTION, detail=captions.reason)
            elif isinstance(mask, SourceFile) and mask.trouble:
                yield clip._replace(reason=Reason.UNREADABLE, detail=f"{mask.path}: {mask.trouble}")
            elif isinstance(mask, str):
                yield clip._replace(reason=Reason.MISSING, detail=f"its mask {mask} is not there")
            else:
                reading = path
                try:
                    digest = self.source.digest(file)
                    reading = mask.path if mask else path
                    mask_digest = self.source.digest(mask) if mask else ""
                except OSError as error:
                    yield clip._replace(reason=Reason.UNREADABLE, detail=f"{reading}: {error.strerror or error}")
                    continue
                source_id = _match(self.pattern, path) if self.pattern else captions.source_id
                yield clip._replace(
                    source_id=source_id or clip.clip_id,
                    captions=captions.captions,
                    digest=digest,
                    num_dropped=captions.num_dropped,
                    mask=(mask, mask_digest) if mask else None,
                )

    def _masks(self, rows: np.ndarray) -> Iterator[SourceFile | str | None]:
        """Yield the mask of each of these videos; the name of one that is not there; None if it has none."""
        paired = self.source.mask_of
        of_rows = paired.rows[rows]
        files = files_of(self.source.masks.take(pa.array(of_rows[of_rows >= 0], pa.int64())))
        for row, mask in zip(rows.tolist(), of_rows.tolist(), strict=True):
            yield paired.absent[row] if mask == ABSENT else None if mask == NO_MASK else next(files)

    def unmatched(self) -> Iterator[Clip]:
        """Yield the videos that a table names and the source does not have, as rejects; of a sample as large a part."""
        step = max(1, round(self.source.videos.num_rows / max(1, len(self.rows))))
        for row in islice(self.captions.unmatched(), 0, None, step):
            clip_id = clip_id_of(self.config.id, row.name)
            yield Clip(clip_id, self.config.id, row.name, reason=row.reason, detail=row.detail)


def check_pattern(config: DatasetConfig, source: Source) -> None:
    """Reject a source_pattern that matches nothing: it would silently put one source into both splits.

    Raises:
        ConfigError: names the data set, the pattern and one file.
    """
    if not config.source_pattern:
        return
    pattern, paths = re.compile(config.source_pattern), source.videos.column("path")
    if not any(_match(pattern, path) for some in paths.iterchunks() for path in some.to_pylist()):
        stem = PurePosixPath(paths[0].as_py()).stem if len(paths) else ""
        raise ConfigError(
            f"{config.where}: source_pattern {config.source_pattern!r} finds nothing in "
            f"any of {len(paths)} file names, such as {stem!r}; its first group must match a part of the stem"
        )


def _match(pattern: re.Pattern[str], path: str) -> str:
    match = pattern.search(PurePosixPath(path).stem)
    return (match.group(1) or "") if match else ""


def ingest(
    configs: Sequence[DatasetConfig], sources: Sequence[Source], *, num_workers: int, report: Callable[[int, int], None]
) -> IngestTables:
    """Read all data sets; calls `report(done, total)` with numbers of videos. `num_workers` does not change the tables.

    Raises:
        ConfigError: a table or a source_pattern cannot be used.
    """
    datasets = [_Dataset(config, source) for config, source in zip(configs, sources, strict=True)]
    ids = [dataset.clip_ids() for dataset in datasets]
    order = np.argsort(np.concatenate(ids), kind="stable")
    which = np.repeat(np.arange(len(ids), dtype=np.int32), [len(some) for some in ids])[order]
    rows = np.concatenate([dataset.rows for dataset in datasets])[order]
    del ids

    num_read: dict[int, int] = {}  # of a chunk, by the first row of each part

    def read(part: slice) -> list[Clip]:
        clips: list[Clip | None] = [None] * (part.stop - part.start)
        for number, dataset in enumerate(datasets):
            indices = np.flatnonzero(which[part] == number)
            for index, clip in zip(indices.tolist(), dataset.read(rows[part][indices]), strict=True):
                clips[index] = clip
                num_read[part.start] = num_read.get(part.start, 0) + 1
        return [clip for clip in clips if clip is not None]

    tables: list[list[pa.Table]] = [[] for _ in _SCHEMAS]
    at_once = max(1, min(CLIPS_PER_THREAD, len(rows) // (4 * num_workers)))
    num_in = {dataset.config.id: len(dataset.rows) for dataset in datasets}
    num_dropped = dict.fromkeys(num_in, 0)
    for start in range(0, len(rows), CHUNK_CLIPS):
        stop = min(start + CHUNK_CLIPS, len(rows))
        parts = [slice(i, min(i + at_once, stop)) for i in range(start, stop, at_once)]
        clips: list[Clip] = []
        num_read.clear()
        report_read = partial(_report_read, report, num_read, start, len(rows))
        for some in in_threads(read, parts, num_threads=num_workers, while_waiting=report_read):
            clips += some
            report_read()
        for clip in clips:
            num_dropped[clip.dataset] += clip.num_dropped
        _append(tables, clips)
    for dataset in datasets:
        unmatched = dataset.unmatched()
        while some := list(islice(unmatched, CHUNK_CLIPS)):
            num_in[dataset.config.id] += len(some)
            _append(tables, some)
    clips_table, captions, rejects, masks = (
        pa.concat_tables([schema.empty_table(), *found]) for schema, found in zip(_SCHEMAS, tables, strict=True)
    )
    return IngestTables(clips_table, captions, rejects.sort_by("clip_id"), masks, num_in, num_dropped)


def _report_read(report: Callable[[int, int], None], num_read: dict[int, int], start: int, total: int) -> None:
    """Report what was read, within parts too: a part of large files takes minutes."""
    report(start + sum(list(num_read.values())), total)  # a list, for threads add to it


_SCHEMAS = (CLIPS, CAPTIONS, REJECTS, MASK_FILES)


def _append(tables: list[list[pa.Table]], clips: Sequence[Clip]) -> None:
    kept = [clip for clip in clips if not clip.reason]
    rejected = [clip for clip in clips if clip.reason]
    masks = [_mask_row(clip.clip_id, *clip.mask) for clip in kept if clip.mask]
    rows: tuple[Sequence[Clip | _MaskRow], ...] = (kept, kept, rejected, masks)
    for found, schema, some in zip(tables, _SCHEMAS, rows, strict=True):
        if some:
            found.append(pa.table({name: [getattr(row, name) for row in some] for name in schema.names}, schema))


class _MaskRow(NamedTuple):
    """A row of MASK_FILES."""

    clip_id: str
    path: str
    num_bytes: int
    digest: str


def _mask_row(clip_id: str, mask: SourceFile, digest: str) -> _MaskRow:
    return _MaskRow(clip_id, mask.path, mask.num_bytes, digest)
