"""Where `sana init` keeps caches while it looks: work_dir, or a temporary folder that is gone afterwards."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sana.errors import SanaError
from sana.runtime.process_id import ProcessId, this_process

PREFIX = "sana-init-"
_OWNER = "process.json"  # by which a later call knows what a killed one left


@contextmanager
def looking_in(work_dir: Path) -> Iterator["LookedIn"]:
    """Give a folder for caches while we look: work_dir, or, where there is none yet, one that is gone afterwards.

    `keep()` moves that one to where work_dir is then to be, so that nothing is fetched and opened twice.
    """
    if work_dir.is_dir():
        yield LookedIn(work_dir, is_temporary=False)
        return
    remove_left()
    try:
        folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        (folder / _OWNER).write_bytes(this_process().to_json())
    except OSError as error:
        raise SanaError(
            f"no folder for temporary files can be made ({error.strerror}): set TMPDIR to one with room, or "
            "--work-dir to a folder that is there"
        ) from error
    try:
        yield LookedIn(folder / "work", is_temporary=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class LookedIn:
    """Where caches are while we look."""

    folder: Path
    is_temporary: bool

    def keep(self, work_dir: Path) -> None:
        """Move the caches to work_dir, if that is not there; what cannot be moved is lost, and found again."""
        if not self.is_temporary or work_dir.exists():
            return
        try:
            work_dir.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(self.folder, work_dir)
        except (OSError, shutil.Error):
            return


def remove_left() -> None:
    """Remove the folders of calls that were killed as they looked: they name a process of this machine that is gone.

    One that says nothing of its process, is of another user, or cannot be removed, stays.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            owner = ProcessId.from_json((folder / _OWNER).read_bytes(), where=str(folder / _OWNER))
        except (OSError, SanaError):
            continue
        if owner.is_gone():
            shutil.rmtree(folder, ignore_errors=True)
