"""Files on a local disk: folders that survive a power cut, files that are replaced atomically, reads by position."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMP_PREFIX = ".tmp-"  # of files being written: never listed, and no key may have it


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, each durable before the next is made in it."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: without it a power cut may undo a finished link."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: it replaces `path` if the body succeeds, and is removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f"{TEMP_PREFIX}{os.urandom(16).hex()}")
    try:
        yield temp
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def read_at(descriptor: int, start: int, buffer: memoryview) -> int:
    """Fill a buffer from byte `start` of an open file; returns the number of bytes read, fewer only at its end."""
    done = 0
    while done < len(buffer):  # one call may return less: Linux stops at 2 GiB
        count = os.preadv(descriptor, [buffer[done:]], start + done)
        if count == 0:
            break
        done += count
    return done
