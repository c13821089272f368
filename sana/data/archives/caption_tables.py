"""Caption tables made of what archives say of their videos: rows of Parquet files, and a JSON file beside each video.

They are files of a virtual folder, named metadata.parquet and metadata.jsonl, so that the layout `metadata` reads them
by the rules of any other table.
"""

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sana.arrow import one_chunk, run_starts
from sana.config.captions import CaptionsConfig
from sana.data.archives.embedded import MEMBER_COLUMN, NAME_COLUMN
from sana.data.archives.index import ArchiveIndex
from sana.data.archives.virtual_folder import VirtualFolder
from sana.data.sources.listing import METADATA_TABLE, TEXT_FILE, SourceFile, stems, videos_of

_ROWS_AT_ONCE = 4096
_JSON = r"(?i)\.json\z"


@dataclass(frozen=True)
class CaptionTable:
    """A table that is written when it is needed; `digest` is of what it is made of."""

    path: str
    digest: str
    num_bytes: int  # at most
    made_of: str  # in words
    write: Callable[[Path], None]

    @property
    def file(self) -> SourceFile:
        return SourceFile(self.path, self.num_bytes, self.digest)


def _digest(*parts: object) -> str:
    return f"made:{hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()}"


def tables_of_rows(
    archives: Sequence[SourceFile], indexes: Sequence[ArchiveIndex], folder: VirtualFolder, config: CaptionsConfig
) -> Iterator[CaptionTable]:
    """Yield one metadata.parquet for each folder in which Parquet files with videos lie."""
    by_folder: dict[str, list[int]] = {}
    for number, index in enumerate(indexes):
        if index.rows is not None:
            by_folder.setdefault(folder.folders[number], []).append(number)
    for where, numbers in sorted(by_folder.items()):

        def write(to: Path, where: str = where, numbers: list[int] = numbers) -> None:
            parts = [_with_paths(where, number, indexes[number], folder, config) for number in numbers]
            schema = pa.unify_schemas([part.schema for part in parts], promote_options="permissive")
            with pq.ParquetWriter(to, schema, compression="zstd") as writer:
                for part in parts:
                    missing = [name for name in schema.names if name not in part.schema.names]
                    for name in missing:
                        part = part.append_column(schema.field(name), pa.nulls(part.num_rows, schema.field(name).type))
                    writer.write_table(part.select(schema.names).cast(schema), _ROWS_AT_ONCE)

        num_bytes = sum(2 * rows.nbytes for number in numbers if (rows := indexes[number].rows) is not None)
        identities = [(archives[number].path, archives[number].identity) for number in numbers]
        digest = _digest(where, config.video_column, identities)
        more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
        made_of = f"the rows of {archives[numbers[0]].path}{more}"
        yield CaptionTable(f"{where}metadata.parquet", digest, num_bytes, made_of, write)


def _with_paths(
    where: str, number: int, index: ArchiveIndex, folder: VirtualFolder, config: CaptionsConfig
) -> pa.Table:
    """Return the kept rows of an archive with the paths of their videos, relative to `where`."""
    rows = index.rows
    assert rows is not None
    members = folder.members
    good = pc.equal(members.column("trouble"), "")
    mine = members.filter(pc.and_(pc.equal(members.column("archive"), number), good))
    path_of = dict(zip(mine.column("row").to_pylist(), mine.column("path").to_pylist(), strict=True))
    numbers, outside = rows.column(MEMBER_COLUMN).to_pylist(), rows.column(NAME_COLUMN).to_pylist()
    names = [
        path_of[member][len(where) :] if member in path_of else None if member >= 0 else name
        for member, name in zip(numbers, outside, strict=True)
    ]
    column = pa.array(names, pa.large_string())
    for name in {NAME_COLUMN, config.video_column or NAME_COLUMN}:
        at = rows.schema.get_field_index(name)
        rows = rows.append_column(name, column) if at < 0 else rows.set_column(at, name, column)
    lost = pc.and_(pc.greater_equal(rows.column(MEMBER_COLUMN), 0), pc.is_null(column))  # rejected as a member
    return rows.filter(pc.invert(lost)).drop_columns([MEMBER_COLUMN])


def tables_of_json(
    archives: Sequence[SourceFile],
    listed: pa.Table,
    folder: VirtualFolder,
    config: CaptionsConfig,
    text_of: Callable[[int], bytes],
    *,
    images: bool = False,
) -> tuple[list[CaptionTable], pa.Array]:
    """Return a metadata.jsonl for each folder with `key.json` beside `key.mp4`, and the paths of the files it is of.

    With `images` beside `key.jpg` too.

    None is made in a folder where texts or a table hold the captions; `listed` is the whole virtual folder, `text_of`
    gives the bytes of a row of `folder.members`.
    """
    if config.layout not in ("auto", "metadata"):
        return [], pa.array([], pa.large_string())
    videos = videos_of(listed, images=images)
    sidecars = _sidecars(videos, folder)
    if sidecars.num_rows:
        sidecars = sidecars.filter(pc.invert(_are_told_otherwise(sidecars.column("folder"), listed, videos, config)))
    if not sidecars.num_rows:
        return [], pa.array([], pa.large_string())
    identity = _digest(config.video_column, [(archive.path, archive.identity) for archive in archives])
    starts = run_starts(sidecars.column("folder")).tolist()
    tables = []
    for start, stop in zip(starts, [*starts[1:], sidecars.num_rows], strict=True):
        part = sidecars.slice(start, stop - start)
        where = part.column("folder")[0].as_py()

        def write(to: Path, part: pa.Table = part) -> None:
            with to.open("w", encoding="utf-8") as out:
                for batch in part.to_batches(_ROWS_AT_ONCE):
                    for row in batch.to_pylist():
                        found = _json_row(text_of(row["at"]), PurePosixPath(row["video"]).name, config)
                        out.write(json.dumps(found) + "\n")

        words = f"the .json files beside the videos, such as {part.column('path')[0].as_py()}"
        num_bytes = 3 * pc.sum(part.column("num_bytes")).as_py() + 512 * part.num_rows
        tables.append(CaptionTable(f"{where}metadata.jsonl", _digest(where, identity), num_bytes, words, write))
    return tables, one_chunk(sidecars.column("path"))


def _sidecars(videos: pa.Table, folder: VirtualFolder) -> pa.Table:
    """Return the JSON members that share a video's stem: path, at (row of the members), num_bytes, video, folder."""
    members = folder.members.append_column("at", pa.array(np.arange(folder.members.num_rows)))
    named = pc.match_substring_regex(members.column("path"), _JSON)
    found = members.filter(pc.and_(named, pc.equal(members.column("trouble"), ""))).select(["path", "at", "num_bytes"])
    if not found.num_rows:
        return found
    which = pc.index_in(one_chunk(stems(found)), one_chunk(stems(videos)))
    found = found.append_column("video", videos.column("path").take(which)).filter(pc.is_valid(which))
    found = found.append_column("folder", _folders(found.column("path")))
    return found.sort_by([("folder", "ascending"), ("path", "ascending")])


def _are_told_otherwise(
    folders: pa.ChunkedArray, listed: pa.Table, videos: pa.Table, config: CaptionsConfig
) -> pa.Array:
    """Return whether a table speaks for each folder or, unless a table is asked for, texts lie beside videos in it."""
    paths = listed.column("path")
    tables = set(_folders(paths.filter(pc.match_substring_regex(paths, METADATA_TABLE))).to_pylist())
    texts = listed.filter(pc.match_substring_regex(paths, TEXT_FILE))
    if config.layout == "metadata" or config.columns:
        texts = texts.slice(0, 0)
    paired = texts.filter(pc.is_in(one_chunk(stems(texts)), one_chunk(stems(videos))))
    with_texts = sorted(pc.unique(_folders(paired.column("path"))).to_pylist())
    told = []
    for folder in pc.unique(folders).to_pylist():
        above = [folder[: at + 1] for at, letter in enumerate(folder) if letter == "/"]
        at = bisect_left(with_texts, folder)  # a table speaks for folders in its folder, so no text may be there
        if tables & {"", *above} or (at < len(with_texts) and with_texts[at].startswith(folder)):
            told.append(folder)
    return pc.is_in(folders, pa.array(told, pa.large_string()))


def _folders(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the folder of each path with a final "/"; "" at the top."""
    return pc.replace_substring_regex(paths, r"[^/]*\z", "")


def _json_row(text: bytes, video: str, config: CaptionsConfig) -> dict[str, object]:
    """Return the object of a JSON file with the name of its video; nothing but that if it holds no object."""
    try:
        found = json.loads(text.decode("utf-8-sig"))
    except ValueError:
        found = None
    row: dict[str, object] = dict(found) if isinstance(found, dict) else {}
    return {**row, NAME_COLUMN: video, config.video_column or NAME_COLUMN: video}
