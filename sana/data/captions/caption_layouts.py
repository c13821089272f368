"""Caption layouts: which files of a data set hold its captions, and which video a cell of a table names."""

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.config.captions import CaptionsConfig
from sana.data.sources.listing import VIDEO_SUFFIXES, stems, videos_of
from sana.errors import ConfigError

Layout = Literal["textfile", "metadata", "lines", "none"]
VIDEOS_FILE = "videos.txt"
PROMPTS_FILES = ("prompts.txt", "prompt.txt", "captions.txt")

_METADATA = r"(?i)(^|/)metadata\.(csv|jsonl|parquet)\z"
_LINES = r"(?i)(^|/)(prompts?|captions|videos)\.txt\z"


def choose_layout(listed: pa.Table, config: CaptionsConfig) -> tuple[Layout, pa.Table]:
    """Return the layout of a folder, and the files that hold its captions; `listed` is a table LISTED of all its files.

    Raises:
        ConfigError: the files of the layout are missing, or there are two where one is needed.
    """
    paths = listed.column("path")
    tables = listed.filter(pc.match_substring_regex(paths, _METADATA))
    lines = listed.filter(pc.match_substring_regex(paths, _LINES))
    pairs = line_files(lines.column("path").to_pylist()) if config.layout in ("auto", "lines") else []
    if config.layout == "metadata" or (config.layout == "auto" and tables.num_rows):
        if not tables.num_rows:
            raise ConfigError("captions.layout is metadata, but no metadata.csv, .jsonl or .parquet is there")
        _require_one_per_folder(tables.column("path").to_pylist())
        return "metadata", tables
    if config.layout == "lines" or pairs:
        if not pairs:
            raise ConfigError(f"captions.layout is lines, but no {PROMPTS_FILES[0]} beside a {VIDEOS_FILE} is there")
        wanted = pa.array([path for pair in pairs for path in pair[1:]], pa.large_string())
        return "lines", lines.filter(pc.is_in(lines.column("path"), wanted))
    if config.columns:
        raise ConfigError(
            f"captions.{config.columns[0]} names a column, but no metadata.csv, .jsonl or .parquet is there"
        )
    if config.layout == "none":
        return "none", listed.slice(0, 0)
    texts = listed.filter(pc.match_substring_regex(paths, r"(?i)\.txt\z"))
    return "textfile", texts.filter(pc.is_in(stems(texts), _one_chunk(stems(videos_of(listed)))))


def line_files(paths: Iterable[str]) -> list[tuple[str, str, str]]:
    """Return (folder, path of videos.txt, path of prompts.txt) for each folder with both.

    Raises:
        ConfigError: a folder has two files of prompts.
    """
    folders: dict[str, dict[str, str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name.lower()] = path
    pairs = []
    for folder, names in sorted(folders.items()):
        prompts = [names[name] for name in PROMPTS_FILES if name in names]
        if VIDEOS_FILE in names and prompts:
            if len(prompts) > 1:
                raise ConfigError(f"{' and '.join(prompts)} both pair with {names[VIDEOS_FILE]}; remove one")
            pairs.append((folder, names[VIDEOS_FILE], prompts[0]))
    return pairs


def text_files(videos: pa.Table, texts: pa.Table) -> np.ndarray:
    """Return int64 [videos]: the row of `texts` that shares a video's stem, or -1. Videos of one stem share their text.

    Of several texts `.txt` is taken before `.TXT`.
    """
    rows = texts.append_column("stem", stems(texts)).append_column("row", pa.array(np.arange(texts.num_rows)))
    first = rows.select(["stem", "path", "row"]).sort_by([("path", "descending")])  # lower case sorts last
    first = first.group_by("stem", use_threads=False).aggregate([("row", "first")])
    found = pc.index_in(_one_chunk(stems(videos)), _one_chunk(first.column("stem")))
    matched = pc.fill_null(pc.take(_one_chunk(first.column("row_first")), found), -1)
    of_videos: np.ndarray = matched.to_numpy(zero_copy_only=False)
    return of_videos


def resolve_video_path(video: str | None, *, folder: str, base: str, is_source: bool) -> tuple[str, str]:
    """Return (path, "") of the video that a cell names, relative to the source; or ("", why it may not be read).

    `folder` is the table's, relative to the source, whose own address is `base` ("" if it has none). A table that
    `is_source` may also name `s3://bucket/key`, which is a path as it stands.
    """
    if not video:
        return "", "names no video"
    if "\0" in video:
        return "", "has a NUL in it"
    if base and video.startswith(f"{base}/"):
        folder, video = "", video[len(base) + 1 :]
    elif video.startswith("s3://") and is_source:
        key = video.removeprefix("s3://")
        good = "/" in key and not any(part in ("", ".", "..") for part in key.split("/")) and "\\" not in key
        return (video, "") if good else ("", "is no s3://bucket/key without '..' and empty parts")
    elif "://" in video:
        return "", f"is an address that is not read from here; use a path beside the table{' or s3://' * is_source}"
    elif video.startswith("/"):
        return "", f"is an absolute path that is not below {base or 'the source'}"
    parts = [part for part in f"{folder}/{video}".split("/") if part not in ("", ".")]
    if ".." in parts:
        return "", "leads through '..', which may leave the source"
    return ("/".join(parts), "") if parts else ("", "names no video")


def why_missing(path: str, *, is_source: bool) -> str:
    """Say why no listed video has this path."""
    if is_source or path.lower().endswith(VIDEO_SUFFIXES):
        return "is not there"
    return f"is not there, or does not end in {', '.join(VIDEO_SUFFIXES)}"


def _require_one_per_folder(paths: Iterable[str]) -> None:
    folders: dict[str, str] = {}
    for path in paths:
        before = folders.setdefault(path.rpartition("/")[0], path)
        if before != path:
            raise ConfigError(f"{before} and {path} are both tables of one folder; remove one")


def _one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
