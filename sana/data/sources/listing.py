"""Listings: the files of a data set as one Arrow table, sorted by path. Ten million take 1.5 GB."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Containers that libav opens and that hold the times of frames: of a raw stream (.h264, .mjpeg) the rate would be a
# guess. Those of sound with a picture at times (.ogg, .mp4a) are not among them.
VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".apng", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m2t", ".m2ts", ".m4v",
    ".mk3d", ".mkv", ".mov", ".mp4", ".mp4v", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".ogm", ".ogv", ".qt",
    ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
# Pictures that may be still: of .gif and .apng, which are listed as videos, probe finds out.
PICTURE_SUFFIXES = (".avif", ".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip", ".parquet")
# which files may hold captions by their names: patterns of paths, for Arrow
METADATA_TABLE = r"(?i)(^|/)metadata\.(csv|jsonl|parquet)\z"
PARQUET_METADATA_TABLE = r"(?i)(^|/)metadata\.parquet\z"
LINE_FILE = r"(?i)(^|/)(prompts?|captions|videos)\.txt\z"
TEXT_FILE = r"(?i)\.txt\z"
FILES_AT_ONCE = 65536  # rows of a listing that are Python objects at a time

# large strings: ten million long paths exceed the 2 GiB limit of ordinary ones
LISTED = pa.schema(
    [(name, pa.large_string()) for name in ("path", "identity", "trouble")] + [("num_bytes", pa.int64())]
)
_VIDEO, _PICTURE = (
    r"(?i)(" + "|".join(suffix.replace(".", r"\.") for suffix in suffixes) + r")\z"
    for suffixes in (VIDEO_SUFFIXES, PICTURE_SUFFIXES)
)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a data set: `path` is relative, with "/"; `identity` is what the listing says about its content.

    Identities: "mtime_ns:<ns>", "etag:<etag>", "sha256:<hex>" or "git:<hex>". `trouble` says why a video cannot be
    read: it is listed all the same, with the identity "missing", so that it is rejected and not forgotten.
    """

    path: str
    num_bytes: int
    identity: str
    trouble: str = ""


def is_video(path: str) -> bool:
    """Whether the path has a video suffix, in upper or lower case."""
    return path.lower().endswith(VIDEO_SUFFIXES)


def is_picture(path: str) -> bool:
    """Whether the path has the suffix of a picture, in upper or lower case."""
    return path.lower().endswith(PICTURE_SUFFIXES)


def is_hidden(path: str) -> bool:
    """Whether the file or a folder that it is in begins with a dot: such files are not part of a data set.

    But `.clip.mp4.icloud`, which iCloud leaves in place of clip.mp4, is a file that is missed.
    """
    folder, slash, name = path.rpartition("/")
    if name.startswith(".") and not (name.endswith(".icloud") and len(name) > len("..icloud")):
        return True
    return bool(slash) and (folder.startswith(".") or "/." in folder)


def printable(path: str) -> str:
    """Return a path as valid UTF-8: other bytes in it, and NUL, as `\\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace").replace("\0", "\\x00")


def table_of_files(files: Iterable[SourceFile]) -> pa.Table:
    """Return a table LISTED, sorted by path, of files in any order."""
    rest = iter(files)
    batches = []
    while some := list(islice(rest, FILES_AT_ONCE)):
        columns = [_strings([getattr(file, name) for file in some]) for name in LISTED.names[:-1]]
        sizes = np.array([file.num_bytes for file in some], dtype=np.int64)
        columns.append(pa.Array.from_buffers(pa.int64(), len(some), [None, pa.py_buffer(sizes)]))
        batches.append(pa.RecordBatch.from_arrays(columns, schema=LISTED))
    return pa.Table.from_batches(batches, LISTED).sort_by("path").combine_chunks()


def _strings(values: Sequence[str]) -> pa.Array:
    """Return large strings, built from buffers: `pa.array` imports pandas, a quarter of a second in every plan."""
    encoded = [value.encode() for value in values]
    ends = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum([len(text) for text in encoded], out=ends[1:])
    return pa.LargeStringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(b"".join(encoded)))


def files_of(listed: pa.Table) -> Iterator[SourceFile]:
    """Yield the rows of a table LISTED one by one."""
    for batch in listed.to_batches(FILES_AT_ONCE):
        for row in batch.to_pylist():
            yield SourceFile(**row)


def videos_of(listed: pa.Table, *, images: bool = False) -> pa.Table:
    """Return the rows of videos, by suffix; with `images` those of pictures too, which are videos of one frame."""
    return listed.filter(is_video_path(listed.column("path"), images=images)).combine_chunks()


def is_video_path(paths: pa.ChunkedArray, *, images: bool = False) -> pa.ChunkedArray:
    """Return `is_video` of each path; with `images`, whether it is that of a video or of a picture."""
    found = pc.match_substring_regex(paths, _VIDEO)
    return pc.or_(found, is_picture_path(paths)) if images else found


def is_picture_path(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return whether each path has the suffix of a picture, in upper or lower case."""
    return pc.match_substring_regex(paths, _PICTURE)


def stems(listed: pa.Table) -> pa.ChunkedArray:
    """Return the paths without their suffix."""
    return pc.replace_substring_regex(listed.column("path"), r"\.[^./]*\z", "")
