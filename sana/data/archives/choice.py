"""Which archives of a data set are read, and what a user should know of that before a run."""

from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from sana.config.data import DatasetConfig
from sana.data.sources.listing import ARCHIVE_SUFFIXES, PARQUET_METADATA_TABLE, SourceFile, files_of, videos_of
from sana.errors import ConfigError
from sana.wording import in_units

_ARCHIVE = r"(?i)(" + "|".join(suffix.replace(".", r"\.") for suffix in ARCHIVE_SUFFIXES) + r")\z"
# archives with this many times the bytes of the videos beside them are the data set; the videos are a preview of it
_MUCH_MORE = 10
_SPLITS = ("train", "test", "validation", "valid", "val", "dev")


def choose_archives(listed: pa.Table, config: DatasetConfig) -> tuple[pa.Table, list[SourceFile], list[str]]:
    """Return (the other files, the archives whose members are read, notes) of a listing of files.

    Raises:
        ConfigError: `archive_files` matches no archive.
    """
    paths = listed.column("path")
    able = pc.and_(
        pc.match_substring_regex(paths, _ARCHIVE), pc.invert(pc.match_substring_regex(paths, PARQUET_METADATA_TABLE))
    )
    found = list(files_of(listed.filter(able)))
    if config.archives == "ignore" or not found:
        return listed, [], []
    notes, videos = [], videos_of(listed, images=config.images == "read")
    if config.archives == "auto" and not config.archive_files and videos.num_rows:
        num_bytes = pc.sum(videos.column("num_bytes")).as_py()
        if sum(file.num_bytes for file in found) < _MUCH_MORE * num_bytes:
            return listed, [], [_beside_note(found, videos.num_rows)]
        notes = [_both_note(found, videos, num_bytes)]
    chosen = [file for file in found if _is_chosen(file.path, config)]
    if not chosen:
        raise ConfigError(
            f"archive_files {', '.join(config.archive_files)} matches none of {len(found)} archives, such as "
            f"{found[0].path}; `*` matches any part of a path"
        )
    names = pa.array([file.path for file in chosen], pa.large_string())
    plain = listed.filter(pc.invert(pc.is_in(paths, names)))
    if config.archive_files:  # the others are another's
        others = pa.array([file.path for file in found if file not in chosen], pa.large_string())
        plain = plain.filter(pc.invert(pc.is_in(plain.column("path"), others)))
    return plain, chosen, [*notes, *_split_note(chosen, config)]


def _beside_note(found: list[SourceFile], num_videos: int) -> str:
    """Say that archives lie beside videos and are not read."""
    packed = [file.path for file in found if not file.path.lower().endswith(".parquet")]
    name = (packed or [file.path for file in found])[0]
    lie = f"{len(found)} archives, such as {name}, lie" if len(found) > 1 else f"the archive {name} lies"
    if not packed:
        lie = f"{len(found)} .parquet files, such as {name}, lie" if len(found) > 1 else f"{name} lies"
    beside = "1 video" if num_videos == 1 else f"{num_videos} videos"
    return f"{lie} beside {beside}: videos that may be inside are not read; archives: read takes both"


def _both_note(found: list[SourceFile], videos: pa.Table, num_bytes: int) -> str:
    """Say that archives that lie beside a few videos are read, and these too."""
    packed = f"{len(found)} archives" if len(found) > 1 else f"the archive {found[0].path}"
    size = in_units(sum(file.num_bytes for file in found))
    first = videos.column("path")[0].as_py()
    plain = f"{videos.num_rows} videos, such as {first}" if videos.num_rows > 1 else f"the video {first}"
    return (
        f"{packed} ({size}) and {plain} ({in_units(num_bytes)}), beside, are both read; archives: ignore takes "
        "what is not packed alone"
    )


def _is_chosen(path: str, config: DatasetConfig) -> bool:
    globs = config.archive_files
    return not globs or any(fnmatchcase(path, glob) or fnmatchcase(PurePosixPath(path).name, glob) for glob in globs)


def _split_note(chosen: list[SourceFile], config: DatasetConfig) -> Iterator[str]:
    """Say so when the names of archives are of several splits: all of them are read, also those meant for tests."""
    counts = Counter(split for file in chosen if (split := _split_of(file.path)))
    if len(counts) > 1 and not config.archive_files:
        shown = ", ".join(f"{split} ({count})" for split, count in sorted(counts.items()))
        yield f"archives of several splits are read: {shown}; archive_files: ['*train*'] would take one"


def _split_of(path: str) -> str:
    parts = path.lower().split("/")
    words = parts[-1].replace("_", "-").replace(".", "-").split("-")
    return next((split for split in _SPLITS if words[0] == split or split in parts[:-1]), "")


def unread_note(archives: list[SourceFile], *, is_local: bool) -> str:
    """Say that the members of archives are not known before a run, and what the run reads or fetches to know them."""
    num_bytes = in_units(sum(archive.num_bytes for archive in archives))
    what = f"{len(archives)} archives, such as {archives[0].path}," if len(archives) > 1 else archives[0].path
    are, does = "are" if len(archives) > 1 else "is", "reads" if is_local else "fetches"
    return f"{what} {are} not read before a run: the download stage {does} {num_bytes}, once, and lists what is in them"


def too_large_note(archives: list[SourceFile], max_bytes: int) -> str:
    """Say which archives a cache of `max_bytes` cannot hold; "" if it can hold each."""
    large = [archive for archive in archives if archive.num_bytes > max_bytes]
    if not large:
        return ""
    most = max(large, key=lambda archive: archive.num_bytes)
    more = f" and {len(large) - 1} more archives are" if len(large) > 1 else " is"
    return (
        f"{most.path} ({in_units(most.num_bytes)}){more} larger than the cache of "
        f"{in_units(max_bytes)}: each is read through once and not kept, and each video is fetched again when it is "
        "opened; a larger download.resources.cache_gib keeps them"
    )
