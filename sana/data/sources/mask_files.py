"""Which files of a data set are masks, and of which video each is.

A file that would be a mask by its name is never a clip. One that is the mask of no video is a file that nothing reads.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import one_chunk
from sana.config.captions import CaptionsConfig
from sana.config.training.masks import MasksConfig
from sana.data.captions.caption_layouts import folder_of, resolve_video_path
from sana.data.captions.metadata_readers import read_rows
from sana.data.captions.name_matching import videos_of_paths
from sana.data.sources.listing import FILES_AT_ONCE, is_picture_path, is_video_path, stems

NO_MASK, ABSENT = -1, -2  # in place of a mask's row: the video has none; a table names one that is not there


class NamedMasks(NamedTuple):
    """The masks that tables name: the path of the video and of its mask, as the source has it; large strings [rows]."""

    videos: pa.Array
    masks: pa.Array


class PairedMasks(NamedTuple):
    """The mask of each video. `rows`: int64 [videos], of the masks, or NO_MASK, or ABSENT: then `absent` names it."""

    rows: np.ndarray
    absent: Mapping[int, str] = MappingProxyType({})  # by row of the video: the mask that a table names


def would_be_masks(listed: pa.Table, config: MasksConfig) -> pa.ChunkedArray:
    """Return bool [files]: whether a file of a table LISTED is a mask by its name, of a video that may not be there."""
    paths = listed.column("path")
    named = pc.or_(is_video_path(paths), is_picture_path(paths))
    if config.folder is not None:
        named = pc.and_(named, pc.starts_with(paths, f"{config.folder}/"))
    if config.suffix is not None:
        named = pc.and_(named, pc.ends_with(stems(listed), config.suffix))
    return named


def pair_by_name(videos: pa.Table, masks: pa.Table, config: MasksConfig) -> PairedMasks:
    """Find each video's mask among those that would be masks, the first of several. Both tables are LISTED."""
    of_masks, skipped = one_chunk(stems(masks)), len(config.folder) + 1 if config.folder is not None else 0
    dropped = len(config.suffix) if config.suffix is not None else 0
    of_masks = pc.utf8_slice_codeunits(of_masks, skipped, None)
    if dropped:
        of_masks = pc.utf8_slice_codeunits(of_masks, 0, -dropped)
    found = pc.fill_null(pc.index_in(one_chunk(stems(videos)), of_masks), NO_MASK)
    return PairedMasks(found.to_numpy(zero_copy_only=False).astype(np.int64))


def read_named_masks(
    tables: Iterable[tuple[str, Path]], captions: CaptionsConfig, column: str, *, base: str, is_source: bool
) -> NamedMasks:
    """Read the column of masks of tables, given as (path, local file). Cells that are empty or a null word name none.

    Raises:
        ConfigError: a table is damaged, or has no such column; names it.
        OSError: one is not readable.
    """
    # as one column of texts, so that each kind of table is read by its reader
    config = captions.model_copy(update={"text_columns": (column,), "motion_score_column": None})
    words = {"", *(word.lower() for word in captions.null_words)}
    chunks: list[pa.Table] = []
    for name, path in tables:
        folder, rows = folder_of(name), read_rows(path, name, config).select(["video", "text_0"])
        for batch in rows.to_batches(FILES_AT_ONCE):
            found = []
            for video, masks in zip(*(values.to_pylist() for values in batch.columns), strict=True):
                written = next((mask.strip() for mask in masks or () if mask), "")
                if written.lower() in words:
                    continue
                of_video, of_mask = (
                    resolve_video_path(cell, folder=folder, base=base, is_source=is_source)[0]
                    for cell in (video, written)
                )
                if of_video:
                    found.append((of_video, of_mask or written))
            columns = list(zip(*found, strict=True)) or [(), ()]
            chunks.append(pa.table([pa.array(column, pa.large_string()) for column in columns], NamedMasks._fields))
    empty = pa.table([pa.array([], pa.large_string())] * 2, NamedMasks._fields)
    return NamedMasks(*map(one_chunk, pa.concat_tables([empty, *chunks]).columns))


def pair_by_table(videos: pa.Table, masks: pa.Table, named: NamedMasks) -> PairedMasks:
    """Find the mask of each video that a row names, of the masks that are there. Both tables are LISTED.

    Of several rows of a video the first counts.
    """
    video_of = videos_of_paths(named.videos, one_chunk(videos.column("path")))
    mask_of = pc.fill_null(pc.index_in(named.masks, one_chunk(masks.column("path"))), ABSENT)
    found = np.full(videos.num_rows, NO_MASK)
    rows = np.flatnonzero(video_of >= 0)[::-1]  # the first row is written last
    found[video_of[rows]] = mask_of.to_numpy(zero_copy_only=False)[rows]
    absent = {int(video_of[row]): named.masks[row].as_py() for row in rows.tolist() if found[video_of[row]] == ABSENT}
    return PairedMasks(found, absent)
