"""Files on a local disk: folders that survive a power cut, files replaced whole, reads by position."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMP_PREFIX = ".tmp-"  # names being written; never listed, rejected in keys


def make_folders(folder: Path) -> None:
    """Make a folder and those above it, each durable before the next is made in it."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync_folder(folder.parent)


def fsync_folder(folder: Path) -> None:
    """Make the folder's names durable: without it a power cut may take back a finished link."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`, moved over it if the body succeeds and removed if not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temp = path.with_name(f"{TEMP_PREFIX}{os.urandom(16).hex()}")
    try:
        yield temp
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)


def read_at(descriptor: int, start: int, buffer: memoryview) -> int:
    """Fill a buffer of bytes from byte `start` of an open file; returns how many there were, fewer at its end only."""
    done = 0
    while done < len(buffer):  # one call may return less: Linux stops at 2 GiB
        count = os.preadv(descriptor, [buffer[done:]], start + done)
        if count == 0:
            break
        done += count
    return done
