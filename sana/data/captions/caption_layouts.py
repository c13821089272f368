"""Caption layouts: which files of a data set hold its captions, and which video a cell of a table names."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.arrow import one_chunk
from sana.config.captions import CaptionsConfig
from sana.data.captions.name_matching import match_stems
from sana.data.sources.listing import LINE_FILE, METADATA_TABLE, TEXT_FILE, VIDEO_SUFFIXES, stems, videos_of
from sana.errors import ConfigError

Layout = Literal["textfile", "metadata", "lines", "mixed", "none"]  # mixed: of rows in sub-folders, and texts
VIDEOS_FILE = "videos.txt"
PROMPTS_FILES = ("prompts.txt", "prompt.txt", "captions.txt")


@dataclass(frozen=True)
class RowFiles:
    """Files whose rows name videos: tables, LISTED, and pairs of (folder, path of videos.txt, path of prompts.txt)."""

    tables: pa.Table
    pairs: Sequence[tuple[str, str, str]]

    @property
    def folders(self) -> set[str]:
        """The folders that they are in; each speaks for the videos in its folder, at any depth."""
        return {folder_of(path) for path in self.tables.column("path").to_pylist()} | {pair[0] for pair in self.pairs}

    @property
    def names(self) -> list[str]:
        return [*self.tables.column("path").to_pylist(), *(path for pair in self.pairs for path in pair[1:])]


def choose_layout(listed: pa.Table, config: CaptionsConfig, *, images: bool = False) -> tuple[Layout, pa.Table]:
    """Return the layout of a folder, and the files that hold its captions; `listed` is a table LISTED of all its files.

    With `images` its pictures are videos of one frame.

    Raises:
        ConfigError: the files of the layout are missing, or there are two where one is needed.
    """
    found = RowFiles(_matching(listed, METADATA_TABLE), ())
    if config.layout in ("auto", "lines"):
        found = RowFiles(found.tables, line_files(_matching(listed, LINE_FILE).column("path").to_pylist()))
    if config.layout == "metadata" or (config.layout == "auto" and config.columns and found.tables.num_rows):
        if not found.tables.num_rows:
            raise ConfigError("captions.layout is metadata, but no metadata.csv, .jsonl or .parquet is there")
        _require_one_per_folder(found.tables.column("path").to_pylist())
        return "metadata", found.tables
    if config.layout == "lines":
        if not found.pairs:
            raise ConfigError(f"captions.layout is lines, but no {PROMPTS_FILES[0]} beside a {VIDEOS_FILE} is there")
        return "lines", _among(listed, RowFiles(found.tables.slice(0, 0), found.pairs).names)
    if config.columns:
        raise ConfigError(
            f"captions.{config.columns[0]} names a column, but no metadata.csv, .jsonl or .parquet is there"
        )
    if config.layout == "none":
        return "none", listed.slice(0, 0)
    if config.layout == "auto" and (found.tables.num_rows or found.pairs):
        return _by_folder(listed, found, images=images)
    return "textfile", paired_texts(listed, videos_of(listed, images=images))


def _by_folder(listed: pa.Table, found: RowFiles, *, images: bool) -> tuple[Layout, pa.Table]:
    """Choose where rows may be in sub-folders: they speak for the videos there, texts for the others.

    Rows in a folder without videos are left out where there are texts. Lists in the folder of a table are left out.
    """
    _require_one_per_folder(found.tables.column("path").to_pylist())
    tables = {folder_of(path): path for path in found.tables.column("path").to_pylist()}
    pairs = [pair for pair in found.pairs if not _is_within(pair[0], tables.keys())]
    for folder, videos, _ in pairs:
        inner = next((name for at, name in sorted(tables.items()) if _is_within(at, {folder})), None)
        if inner:
            raise ConfigError(
                f"two caption layouts are there: {videos} is for the whole folder, and {inner} for a part of it; "
                "captions.layout: lines or metadata chooses one"
            )
    found = RowFiles(found.tables, pairs)
    videos = videos_of(listed, images=images)
    outside = videos.filter(pc.invert(is_within(videos.column("path"), found.folders)))
    texts = paired_texts(listed.filter(pc.invert(pc.is_in(listed.column("path"), _paths(found.names)))), outside)
    if texts.num_rows:
        with_videos = _ancestors(_folders_of(videos.column("path")))
        is_used = [folder in with_videos for folder in map(folder_of, found.tables.column("path").to_pylist())]
        found = RowFiles(
            found.tables.filter(pa.array(is_used, pa.bool_())), [pair for pair in pairs if pair[0] in with_videos]
        )
        if not found.names:
            return "textfile", paired_texts(listed, videos)
    if texts.num_rows or (found.tables.num_rows and found.pairs):
        return "mixed", pa.concat_tables([_among(listed, found.names), texts]).sort_by("path")
    return ("metadata", found.tables) if found.tables.num_rows else ("lines", _among(listed, found.names))


def row_files(layout: Layout, files: pa.Table) -> tuple[RowFiles, pa.Table]:
    """Take the files of a folder's layout apart: those with rows, and texts beside videos. Both tables are LISTED."""
    nothing = files.slice(0, 0)
    if layout == "textfile":
        return RowFiles(nothing, ()), files
    if layout == "metadata":
        return RowFiles(files, ()), nothing
    found = RowFiles(
        _matching(files, METADATA_TABLE), line_files(_matching(files, LINE_FILE).column("path").to_pylist())
    )
    return found, files.filter(pc.invert(pc.is_in(files.column("path"), _paths(found.names))))


def paired_texts(listed: pa.Table, videos: pa.Table) -> pa.Table:
    """Return the rows of texts that belong to one of the videos; both tables are LISTED."""
    texts = _matching(listed, TEXT_FILE)
    text_stems, video_stems = one_chunk(stems(texts)), one_chunk(stems(videos))
    taken = pc.is_in(text_stems, video_stems).to_numpy(zero_copy_only=False)
    free = np.flatnonzero(~taken)
    lacking = videos.filter(pc.invert(pc.is_in(video_stems, text_stems))) if len(free) else videos.slice(0, 0)
    if lacking.num_rows:
        near = text_files(lacking, texts.take(pa.array(free)))
        taken = taken.copy()  # Arrow's arrays are read-only
        taken[free[near[near >= 0]]] = True
    return texts.filter(pa.array(taken))


def folder_of(path: str) -> str:
    """Return the folder of a path; "" for the root."""
    return path.rpartition("/")[0]


def is_within(paths: pa.ChunkedArray, folders: Collection[str]) -> pa.ChunkedArray:
    """Return whether each path lies in one of the folders, at any depth."""
    if "" in folders:
        return pa.chunked_array([pa.array(np.ones(len(paths), dtype=bool))])
    inside = [folder for folder in _folders_of(paths) if _is_within(folder, folders)]
    return pc.is_in(_folder_column(paths), _paths(inside))


def _folder_column(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring_regex(paths, r"(?s)/?[^/]*\z", "")


def _folders_of(paths: pa.ChunkedArray) -> list[str]:
    folders: list[str] = pc.unique(_folder_column(paths)).to_pylist()
    return folders


def _is_within(folder: str, folders: Collection[str]) -> bool:
    return any(above in folders for above in _ancestors([folder]))


def _ancestors(folders: Iterable[str]) -> set[str]:
    """Return the folders and all that are above them, the root "" too."""
    found = {""}
    for folder in folders:
        while folder not in found:
            found.add(folder)
            folder = folder_of(folder)
    return found


def _matching(listed: pa.Table, pattern: str) -> pa.Table:
    return listed.filter(pc.match_substring_regex(listed.column("path"), pattern))


def _among(listed: pa.Table, paths: Sequence[str]) -> pa.Table:
    return listed.filter(pc.is_in(listed.column("path"), _paths(paths)))


def _paths(paths: Sequence[str]) -> pa.Array:
    return pa.array(paths, pa.large_string())


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
    """Return int64 [videos]: the row of `texts` that belongs to a video, or -1. Videos of one stem share their text.

    It has the video's stem; of several `.txt` is taken before `.TXT`. For a stem that no text has, it is the only text
    that is equal after normalising (`match_stems`) and that no other video has.
    """
    rows = texts.append_column("stem", stems(texts)).append_column("row", pa.array(np.arange(texts.num_rows)))
    first = rows.select(["stem", "path", "row"]).sort_by([("path", "descending")])  # lower case sorts last
    first = first.group_by("stem", use_threads=False).aggregate([("row", "first")])
    text_stems, text_rows = one_chunk(first.column("stem")), one_chunk(first.column("row_first"))
    video_stems = one_chunk(stems(videos))
    found = pc.fill_null(pc.index_in(video_stems, text_stems), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    left = np.flatnonzero(found < 0)
    free = np.setdiff1d(np.arange(len(text_stems)), found)
    if len(left) and len(free):
        distinct = pc.dictionary_encode(video_stems.take(pa.array(left)))
        matched = match_stems(distinct.dictionary, text_stems.take(pa.array(free)))
        of_stem = np.where(matched >= 0, free[matched], -1)
        found[left] = of_stem[distinct.indices.to_numpy(zero_copy_only=False)]
    of_videos: np.ndarray = np.where(found >= 0, text_rows.to_numpy()[found], -1) if len(text_rows) else found
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


def why_missing(path: str, near: str | None, *, is_source: bool) -> str:
    """Say why no listed video has this path; `near` is a video that has nearly the same name."""
    hint = f'; "{near}" is near' if near else ""
    if re.match(r"[A-Za-z]:[\\/]", path.rpartition("/")[2]) or "\\\\" in path[:2]:
        return f"is not there: it is an absolute path of Windows; use a path relative to the table{hint}"
    if is_source or path.lower().endswith(VIDEO_SUFFIXES):
        return f"is not there{hint}"
    return f"is not there, or does not end as a video does (.mp4, .mkv, .webm, ...){hint}"


def _require_one_per_folder(paths: Iterable[str]) -> None:
    folders: dict[str, str] = {}
    for path in paths:
        before = folders.setdefault(path.rpartition("/")[0], path)
        if before != path:
            raise ConfigError(f"{before} and {path} are both tables of one folder; remove one")
