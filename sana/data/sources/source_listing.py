"""What a data set is made of: its videos, the files that hold their captions, and the files that nothing reads."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import digest_of
from sana.config.captions import CaptionsConfig
from sana.data.archives.backend import ArchiveBackend
from sana.data.captions.caption_layouts import Layout, choose_layout
from sana.data.sources.backends import Backend
from sana.data.sources.listing import (
    LISTED,
    PARQUET_METADATA_TABLE,
    VIDEO_SUFFIXES,
    is_video_path,
    table_of_files,
    videos_of,
)
from sana.data.sources.outputs import check_no_artifacts
from sana.data.sources.table_backend import TableBackend
from sana.data.sources.unused_files import count_by_ending, describe, unpack_note, unused_of
from sana.data.tables import content_digest
from sana.errors import ConfigError


@dataclass(frozen=True)
class SourceListing:
    """Tables LISTED, each sorted by path. `videos` has the archives that are damaged too: each is a reject."""

    layout: Layout
    videos: pa.Table
    caption_files: pa.Table
    unused: pa.Table

    @cached_property
    def digest(self) -> str:
        used = content_digest(pa.concat_tables([self.videos, self.caption_files]), ["path", *LISTED.names[1:]])
        if not self.unused.num_rows:
            return used
        return digest_of([used, content_digest(self.unused, ["path", "num_bytes"])])  # what is written of them


def list_source(backend: Backend, uri: str, captions: CaptionsConfig) -> SourceListing:
    """List the source `uri`, and choose its caption layout.

    Raises:
        ConfigError: it holds no video, or no file of the configured layout.
        SanaError: it cannot be listed.
    """
    packed = backend if isinstance(backend, ArchiveBackend) else None
    listed = packed.table() if packed else table_of_files(backend.files())
    broken = packed.broken() if packed else LISTED.empty_table()
    if isinstance(backend, TableBackend):
        table = pc.equal(listed.column("path"), backend.name)
        of_table: Layout = "none" if captions.layout == "none" else "metadata"
        return SourceListing(of_table, listed.filter(pc.invert(table)), listed.filter(table), listed.slice(0, 0))
    check_no_artifacts(uri, listed)
    videos = videos_of(listed)
    if not videos.num_rows and not broken.num_rows:
        raise ConfigError(
            f"source {uri} holds no video: no name, at any depth, ends in {', '.join(VIDEO_SUFFIXES)}"
            + "".join(f"; {more}" for more in _what_is_there(listed, packed) if more)
        )
    is_good = pc.equal(listed.column("trouble"), "")  # captions are not looked for in what cannot be read
    try:
        layout, caption_files = choose_layout(
            listed.filter(pc.or_(is_good, is_video_path(listed.column("path")))), captions
        )
    except ConfigError as error:
        raise ConfigError(f"{error} in {uri}") from error
    if broken.num_rows:
        videos = pa.concat_tables([videos, broken]).sort_by("path").combine_chunks()
    return SourceListing(layout, videos, caption_files, unused_of(listed, caption_files))


def _what_is_there(listed: pa.Table, packed: ArchiveBackend | None) -> Iterator[str]:
    """Say what a source without a video holds instead, and what may be meant."""
    paths = listed.column("path")
    yield describe(count_by_ending(paths)) or "nor is there any other file; hidden ones (.name) are not looked at"
    yield unpack_note(paths)
    yield packed.why_no_archive() if packed else ""
    tables = paths.filter(pc.match_substring_regex(paths, PARQUET_METADATA_TABLE))
    made_of = packed.made_of(tables[0].as_py()) if packed and len(tables) else ""
    if made_of:
        yield f"{made_of} name videos that are not there, and hold none themselves"
    elif len(tables):
        yield f"{tables[0].as_py()} is read as a table of the files beside it; if the videos are in it, rename it"
