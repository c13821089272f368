"""The folder that archives would unpack to: one path for every member of every archive, as if unpacked in place."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import one_chunk
from sana.data.archives.index import ArchiveIndex
from sana.data.sources.backends import MISSING
from sana.data.sources.listing import ARCHIVE_SUFFIXES, LISTED, VIDEO_SUFFIXES, is_picture_path

# of these two of one name are two clips, or speak for the files beside them; other files of one name are dropped
_MUST_DIFFER = (
    r"(?i)((^|/)(metadata\.(csv|jsonl|parquet)|(prompts?|captions|videos)\.txt)|("
    + "|".join(suffix.replace(".", r"\.") for suffix in VIDEO_SUFFIXES)
    + r"))\z"
)
_PLAIN = -1  # the number, among archives, of the files beside them


@dataclass(frozen=True)
class VirtualFolder:
    """The members of archives, sorted by path.

    `members` has the columns path, archive and row (the number of the archive, and of the member in its index),
    num_bytes, digest and trouble; a row with the path of an archive is about the archive itself. `folders` are those
    that the archives unpack to.
    """

    members: pa.Table
    archives: tuple[str, ...]
    folders: tuple[str, ...]

    @cached_property
    def _paths(self) -> pa.Array:
        return self.members.column("path").combine_chunks()

    def find(self, path: str) -> int | None:
        """Return the row of a path."""
        paths, wanted = self._paths, path.encode()
        row = bisect_left(range(len(paths)), wanted, key=lambda at: bytes(paths[at].as_buffer()))
        return row if row < len(paths) and paths[row].as_py() == path else None

    def place(self, row: int) -> tuple[int, int]:
        """Return (number of the archive, row in its index) of a row."""
        return self.members.column("archive")[row].as_py(), self.members.column("row")[row].as_py()

    def listed(self) -> pa.Table:
        """Return the members as a table LISTED; a digest is their identity."""
        return self._listed(pc.invert(self._of_archives()))

    def broken(self) -> pa.Table:
        """Return the archives that could not be read, or not to their end, as a table LISTED."""
        return self._listed(self._of_archives())

    def _of_archives(self) -> pa.ChunkedArray:
        return pc.is_in(self.members.column("path"), pa.array(self.archives, pa.large_string()))

    def _listed(self, wanted: pa.ChunkedArray) -> pa.Table:
        members = self.members.filter(wanted)
        identity = pc.if_else(pc.equal(members.column("trouble"), ""), members.column("digest"), MISSING)
        members = members.append_column("identity", identity)
        return members.select(LISTED.names).cast(LISTED)


def archive_folder(path: str) -> str:
    """Return the folder that an archive lies in, with a final "/"; "" at the top."""
    return path[: path.rfind("/") + 1]


def archive_stem(path: str) -> str:
    """Return the archive's name without its suffix."""
    name = PurePosixPath(path).name
    end = next((end for end in ARCHIVE_SUFFIXES if name.lower().endswith(end)), "")
    return name[: len(name) - len(end)] or name


def unpack_in_place(
    plain_paths: pa.Array, archives: Sequence[str], indexes: Sequence[ArchiveIndex], *, images: bool = False
) -> VirtualFolder:
    """Give every member its path: that in the archive, below the folder where the archive lies.

    `archives` are sorted paths. An archive with a video, or a table of captions, that an earlier one or the folder
    also has is unpacked, as a whole, to a folder of its own stem: so it stays beside its captions. With `images`, one
    with such a picture too.
    """
    folders = [archive_folder(path) for path in archives]
    table = _joined(archives, indexes, folders)
    critical = pc.match_substring_regex(table.column("path"), _MUST_DIFFER)
    if images:
        critical = pc.or_(critical, is_picture_path(table.column("path")))
    good = pc.equal(table.column("trouble"), "")
    wanted = table.filter(pc.and_(critical, good))
    paths = pa.concat_arrays([plain_paths.cast(pa.large_string()), one_chunk(wanted.column("path"))])
    number = np.r_[np.full(len(plain_paths), _PLAIN), wanted.column("archive").to_numpy()]
    codes = paths.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    taken_by = number[first][codes] if len(codes) else number
    moved = set(np.unique(number[taken_by < number]).tolist())
    if moved:
        folders = [f"{f}{archive_stem(archives[i])}/" if i in moved else f for i, f in enumerate(folders)]
        table = _joined(archives, indexes, folders)
    table = _without_twins(table, plain_paths, archives)
    return VirtualFolder(table.sort_by("path").combine_chunks(), tuple(archives), tuple(folders))


def _joined(archives: Sequence[str], indexes: Sequence[ArchiveIndex], folders: Sequence[str]) -> pa.Table:
    """Return the members of all archives in their order; those with a trouble under their archive's name."""
    parts = []
    for number, (archive, index, folder) in enumerate(zip(archives, indexes, folders, strict=True)):
        members = index.members.combine_chunks()
        if not members.num_rows:
            continue
        name, trouble = (one_chunk(members.column(column)) for column in ("name", "trouble"))
        inside = pc.binary_join_element_wise(_text(folder), name, _text(""))
        below = pc.binary_join_element_wise(_text(f"{archive}/"), name, _text(""))
        path = pc.if_else(pc.equal(name, ""), _text(archive), pc.if_else(pc.equal(trouble, ""), inside, below))
        parts.append(
            pa.table(
                {
                    "path": path,
                    "archive": pa.array(np.full(len(path), number, np.int32)),
                    "row": pa.array(np.arange(len(path), dtype=np.int32)),
                    "num_bytes": members.column("num_bytes"),
                    "digest": members.column("digest"),
                    "trouble": trouble,
                }
            )
        )
    return pa.concat_tables([_SCHEMA.empty_table(), *parts]).combine_chunks()


_SCHEMA = pa.schema(
    [("path", pa.large_string()), ("archive", pa.int32()), ("row", pa.int32())]
    + [("num_bytes", pa.int64()), ("digest", pa.string()), ("trouble", pa.large_string())]
)


def _without_twins(table: pa.Table, plain_paths: pa.Array, archives: Sequence[str]) -> pa.Table:
    """Leave one member of each path: the folder's own, else of the first archive its last, as unpacking it leaves."""
    path = one_chunk(table.column("path"))
    codes = pa.concat_arrays([plain_paths.cast(pa.large_string()), path]).dictionary_encode().indices.to_numpy()
    counts = np.bincount(codes)[codes] if len(codes) else codes
    twins = np.flatnonzero(counts[len(plain_paths) :] > 1)
    if not len(twins):
        return table
    paths, troubles = path.to_pylist(), table.column("trouble").to_pylist()
    number = table.column("archive").to_pylist()
    plain, winner = set(plain_paths.to_pylist()), dict[str, int]()
    for row in twins.tolist():
        if paths[row] in plain or troubles[row]:
            continue
        before = winner.get(paths[row])
        if before is None or number[before] == number[row]:
            winner[paths[row]] = row
    rows = table.column("row").to_pylist()
    for row in twins.tolist():
        path, archive = paths[row], archives[number[row]]
        if winner.get(path) == row:
            continue
        name = path[len(archive) + 1 :] if troubles[row] else PurePosixPath(path).name
        if not troubles[row]:
            holder = winner.get(path)
            same = holder is not None and number[holder] == number[row]
            where = "the folder" if holder is None else archives[number[holder]]
            why = "has a later member of this name, which is taken" if same else "has this path already; rename one"
            troubles[row] = f"{where} {why}"
        paths[row] = f"{archive}#{rows[row]}/{name}"
    table = table.set_column(0, "path", pa.array(paths, pa.large_string()))
    return table.set_column(table.schema.get_field_index("trouble"), "trouble", pa.array(troubles, pa.large_string()))


def _text(value: str) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())
