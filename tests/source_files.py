"""Small folders of stand-in files as data sets, and what a source lists of them."""

import os
import random
from collections.abc import Mapping
from pathlib import Path

from sana.config.data import DatasetConfig
from sana.data.sources.file_cache import FileCache
from sana.data.sources.listing import SourceFile, files_of
from sana.data.sources.source import Source, open_source

FILES = {
    "b.mp4": b"video b",
    "b.txt": b"a caption",
    "a/x y.MOV": b"video x",
    "a/x y.txt": "\u732b in the rain".encode(),
    "a/new\nline.webm": b"video n",
    "a/b.c.mkv": b"video c",
    "a/b.c.txt": b"c",
    "\u00e9t\u00e9/clip.mp4": b"video e",
}


def make_files(folder: Path, files: Mapping[str, bytes | str], *, seed: int = 0) -> Path:
    """Write the files, in an order that `seed` draws, all of one time; returns the folder."""
    names = list(files)
    random.Random(seed).shuffle(names)
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = files[name]
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def opened(
    source: Path | str,
    work_dir: Path,
    *,
    revision: str = "main",
    cache_bytes: int = 10**9,
    read_only: bool = False,
    archive_files: tuple[str, ...] = (),
) -> Source:
    """Open a data set of this source as a run does."""
    dataset = DatasetConfig(id="d", source=str(source), revision=revision, archive_files=archive_files)
    cache = FileCache(work_dir / "cache/videos", max_bytes=cache_bytes)
    return open_source(dataset, work_dir=work_dir, cache=cache, read_only=read_only)


def listing(source: Source) -> list[SourceFile]:
    """List videos and caption files, by path."""
    return sorted([*files_of(source.videos), *files_of(source.caption_files)], key=lambda file: file.path)


def digests(source: Source) -> dict[str, str]:
    """Return {path: digest} of all that is listed."""
    return {file.path: source.digest(file) for file in listing(source)}
