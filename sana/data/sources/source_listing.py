"""What a data set is made of: its videos, the files that hold their captions, their masks, and the unused files."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import digest_of
from sana.config.captions import CaptionsConfig
from sana.config.data import DatasetConfig
from sana.config.training.masks import MasksConfig
from sana.data.archives.backend import ArchiveBackend
from sana.data.captions.caption_layouts import Layout, choose_layout, row_files
from sana.data.sources.backends import Backend
from sana.data.sources.listing import (
    LISTED,
    PARQUET_METADATA_TABLE,
    PICTURE_SUFFIXES,
    VIDEO_SUFFIXES,
    files_of,
    is_picture_path,
    is_video_path,
    table_of_files,
    videos_of,
)
from sana.data.sources.mask_files import (
    NO_MASK,
    NamedMasks,
    PairedMasks,
    pair_by_name,
    pair_by_table,
    read_named_masks,
    would_be_masks,
)
from sana.data.sources.outputs import check_no_artifacts
from sana.data.sources.table_backend import TableBackend
from sana.data.sources.unused_files import count_by_ending, describe, unpack_note, unused_of
from sana.data.tables import content_digest
from sana.errors import ConfigError, SanaError


@dataclass(frozen=True)
class SourceListing:
    """Tables LISTED, each sorted by path. `videos` has the archives that are damaged too: each is a reject."""

    layout: Layout
    videos: pa.Table
    caption_files: pa.Table
    unused: pa.Table
    masks: pa.Table
    mask_of: PairedMasks

    @cached_property
    def digest(self) -> str:
        files = [self.videos, self.caption_files, self.masks]
        used = content_digest(pa.concat_tables(files), ["path", *LISTED.names[1:]])
        if not self.unused.num_rows:
            return used
        return digest_of([used, content_digest(self.unused, ["path", "num_bytes"])])  # what is written of them


def list_source(backend: Backend, dataset: DatasetConfig) -> SourceListing:
    """List the source of a data set, choose its caption layout, and find the masks of its videos.

    With `images: read` its pictures are videos of one frame.

    Raises:
        ConfigError: it holds no video, or no file of the configured layout, or no table has the column of masks.
        SanaError: it cannot be listed.
    """
    uri, captions, masks, images = dataset.source, dataset.captions, dataset.masks, dataset.images == "read"
    packed = backend if isinstance(backend, ArchiveBackend) else None
    listed = packed.table() if packed else table_of_files(backend.files())
    broken = packed.broken() if packed else LISTED.empty_table()
    if isinstance(backend, TableBackend):
        table = pc.equal(listed.column("path"), backend.name)
        of_table: Layout = "none" if captions.layout == "none" else "metadata"
        videos, tables = listed.filter(pc.invert(table)), listed.filter(table)
        named = _named_masks(backend, tables, captions, masks, is_source=True)
        return _without_masks(SourceListing(of_table, videos, tables, listed.slice(0, 0), *_no_masks(videos)), named)
    check_no_artifacts(uri, listed)
    all_listed = listed
    if masks is not None and masks.column is None:
        listed = listed.filter(pc.invert(would_be_masks(listed, masks)))
    videos = videos_of(listed, images=images)
    if not videos.num_rows and not broken.num_rows:
        raise ConfigError(
            f"source {uri} holds no video: no name, at any depth, ends in "
            f"{', '.join((*VIDEO_SUFFIXES, *(PICTURE_SUFFIXES if images else ())))}"
            + "".join(f"; {more}" for more in _what_is_there(listed, packed) if more)
        )
    is_good = pc.equal(listed.column("trouble"), "")  # captions are not looked for in what cannot be read
    try:
        layout, caption_files = choose_layout(
            listed.filter(pc.or_(is_good, is_video_path(listed.column("path"), images=images))), captions, images=images
        )
    except ConfigError as error:
        raise ConfigError(f"{error} in {uri}") from error
    unused = unused_of(listed, caption_files, images=images)
    if broken.num_rows:
        videos = pa.concat_tables([videos, broken]).sort_by("path").combine_chunks()
    found = SourceListing(layout, videos, caption_files, unused, *_no_masks(videos))
    if masks is None:
        return found
    if masks.column is None:
        return _with_masks(found, all_listed.filter(would_be_masks(all_listed, masks)).combine_chunks(), masks)
    return _without_masks(found, _named_masks(backend, row_files(layout, caption_files)[0].tables, captions, masks))


def _no_masks(videos: pa.Table) -> tuple[pa.Table, PairedMasks]:
    return LISTED.empty_table(), PairedMasks(np.full(videos.num_rows, NO_MASK))


def _with_masks(found: SourceListing, would_be: pa.Table, config: MasksConfig) -> SourceListing:
    """Add masks by name; `would_be`, LISTED, are not among the videos. Those of no video are unused files."""
    paired = pair_by_name(found.videos, would_be, config)
    taken = np.unique(paired.rows[paired.rows >= 0])
    is_taken = np.zeros(would_be.num_rows, bool)
    is_taken[taken] = True
    unused = pa.concat_tables([found.unused, would_be.filter(pa.array(~is_taken))]).sort_by("path").combine_chunks()
    rows = np.where(paired.rows >= 0, np.searchsorted(taken, paired.rows), NO_MASK)
    return replace(found, unused=unused, masks=would_be.filter(pa.array(is_taken)), mask_of=PairedMasks(rows))


def _without_masks(found: SourceListing, named: NamedMasks | None) -> SourceListing:
    """Take the masks that tables name out of the videos and the unused files."""
    if named is None:
        return found
    masks, videos, unused = [], found.videos, found.unused
    for files in (videos, unused):
        is_mask = pc.is_in(files.column("path"), named.masks)
        masks.append(files.filter(is_mask))
        if files is found.videos:
            videos = files.filter(pc.invert(is_mask)).combine_chunks()
        else:
            unused = files.filter(pc.invert(is_mask)).combine_chunks()
    listed = pa.concat_tables(masks).sort_by("path").combine_chunks()
    return replace(found, videos=videos, unused=unused, masks=listed, mask_of=pair_by_table(videos, listed, named))


def _named_masks(
    backend: Backend, tables: pa.Table, captions: CaptionsConfig, masks: MasksConfig | None, *, is_source: bool = False
) -> NamedMasks | None:
    """Read which masks the tables name, if they are to be found there.

    Raises:
        ConfigError: there is no table, or it has no such column.
        SanaError: a table cannot be read.
    """
    if masks is None or masks.column is None:
        return None
    if not tables.num_rows:
        raise ConfigError(
            f"masks.column {masks.column} names a column, but no metadata.csv, .jsonl or .parquet is there; name masks "
            "by masks.suffix or masks.folder"
        )

    def opened(stack: ExitStack) -> Iterator[tuple[str, Path]]:
        for file in files_of(tables):
            yield file.path, stack.enter_context(backend.open(file.path, digest=backend.digest(file)))

    try:
        with ExitStack() as stack:
            return read_named_masks(opened(stack), captions, masks.column, base=backend.base, is_source=is_source)
    except OSError as error:
        raise SanaError(f"the tables that name masks cannot be read: {error}") from error


def _what_is_there(listed: pa.Table, packed: ArchiveBackend | None) -> Iterator[str]:
    """Say what a source without a video holds instead, and what may be meant."""
    paths = listed.column("path")
    yield describe(count_by_ending(paths)) or "nor is there any other file; hidden ones (.name) are not looked at"
    yield unpack_note(paths)
    if num := int(pc.sum(is_picture_path(paths)).as_py() or 0):
        pictures = "a still picture is a clip" if num == 1 else f"{num} still pictures are clips"
        yield f"{pictures} of one frame where bucket.num_frames is 1 (or images: read with a bucket of one frame)"
    yield packed.why_no_archive() if packed else ""
    tables = paths.filter(pc.match_substring_regex(paths, PARQUET_METADATA_TABLE))
    made_of = packed.made_of(tables[0].as_py()) if packed and len(tables) else ""
    if made_of:
        yield f"{made_of} name videos that are not there, and hold none themselves"
    elif len(tables):
        yield f"{tables[0].as_py()} is read as a table of the files beside it; if the videos are in it, rename it"
