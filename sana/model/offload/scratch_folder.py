"""A folder of large files that nobody needs after the process that made it."""

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

_PREFIX, _LOCK = "offloaded-", "in_use"
_MAKING = "making-"  # until it is locked: nobody may take it for one that was left
_OLD_S = 3600.0  # whoever was making it is gone


class ScratchFolder:
    """Makes an empty folder in `parent`, which is removed with this object, or at the end of the process.

    Folders of processes that were killed are removed first. It relies on flock(2), which the kernel releases with a
    process.
    """

    def __init__(self, parent: Path) -> None:
        parent.mkdir(parents=True, exist_ok=True)
        for other in [*parent.glob(f"{_PREFIX}*"), *parent.glob(f"{_MAKING}*")]:
            if _is_left(other):
                shutil.rmtree(other, ignore_errors=True)
        made = Path(tempfile.mkdtemp(prefix=_MAKING, dir=parent))
        lock = os.open(made / _LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.path = made.rename(parent / f"{_PREFIX}{made.name.removeprefix(_MAKING)}")
        self.remove = weakref.finalize(self, _remove, self.path, lock)


def _is_left(folder: Path) -> bool:
    try:
        if folder.name.startswith(_MAKING):
            return time.time() - folder.stat().st_mtime > _OLD_S
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except OSError:  # another user's, or renamed or removed meanwhile
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True


def _remove(folder: Path, lock: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)
