"""The places of a run: room on the disks of root and work_dir, and whether the root can be written."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from flows.doctor.finding import Finding, fail, ok, warn
from flows.doctor.subject import Subject
from sana.config.places import path_below
from sana.errors import SanaError
from sana.store import local_root, open_store
from sana.wording import in_units

GIB = 2**30
LEAST_BYTES = GIB  # below it nothing can be done
ROOM_BYTES = 20 * GIB  # the model has 18 GB, a checkpoint of it 31 GiB; a tiny one needs none of it
LEAST_INODES = 10_000
_REMOTE_KINDS = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "fuse.sshfs", "fuse.s3fs", "fuse.goofys", "9p")


@dataclass(frozen=True)
class Disk:
    """The file system that a place is on, or would be: that of its first parent that exists."""

    place: str
    free_bytes: int
    total_bytes: int
    free_inodes: int | None  # None: as many as there is room for
    kind: str
    is_folder: bool = True  # nothing that is no folder is in the way
    can_write: bool = True


def disk_of(path: Path) -> Disk:
    """Look at the file system of a place that need not exist."""
    path = path.expanduser().absolute()
    there = next(parent for parent in (path, *path.parents) if os.path.exists(parent))
    usage, found = shutil.disk_usage(there), os.statvfs(there)
    inodes = found.f_favail if found.f_files else None
    is_folder = os.path.isdir(there)
    can_write = is_folder and os.access(there, os.W_OK | os.X_OK)
    return Disk(str(path), usage.free, usage.total, inodes, _kind_of(there), is_folder, can_write)


def _kind_of(path: Path) -> str:
    """Return the type of the file system, such as ext4; "" where the system does not say."""
    real = os.path.realpath(path)
    mounts = [(one.mountpoint, one.fstype) for one in psutil.disk_partitions(all=True)]
    holding = [(len(point), kind) for point, kind in mounts if path_below(real, point) is not None]
    return max(holding, default=(0, ""))[1]


def judge_disk(disk: Disk, *, name: str, needs_local: bool) -> Finding:
    """Judge a disk; `name` is the setting, `needs_local` that locks and databases are there."""
    said = f"{disk.place}: {in_units(disk.free_bytes)} of {in_units(disk.total_bytes)} free"
    if not disk.is_folder:
        return fail(f"{disk.place}: a file is where a folder is needed", f"choose another {name}")
    if not disk.can_write:
        return fail(f"{disk.place} cannot be written by this user", f"choose another {name}, or allow it")
    if disk.free_bytes < LEAST_BYTES:
        return fail(said, f"make room, or choose another {name}; sana gc CONFIG deletes what nothing needs")
    if disk.free_inodes is not None and disk.free_inodes < LEAST_INODES:
        return fail(f"{said}, but only {disk.free_inodes:,} more files", f"delete small files, or another {name}")
    if needs_local and disk.kind in _REMOTE_KINDS:
        return warn(f"{said}, on {disk.kind}", f"locks and databases need a local disk: choose another {name}")
    if disk.kind == "tmpfs":
        return warn(f"{said}, in memory", f"it is gone when the machine restarts: choose another {name}")
    if disk.free_bytes < ROOM_BYTES:
        return warn(said, "enough for the demo; the 2B model has 18 GB, and each of its checkpoints 31 GiB")
    return ok(said)


def check_work_dir(subject: Subject) -> Finding:
    """The disk of work_dir, which is always local."""
    return judge_disk(disk_of(subject.work_dir), name="work_dir", needs_local=True)


def check_root(subject: Subject) -> Finding:
    """The disk of root; of a bucket, whether it answers and can be written."""
    if not subject.root.startswith("s3://") and "://" not in local_root(subject.root):
        return judge_disk(disk_of(Path(local_root(subject.root))), name="root", needs_local=False)

    try:
        open_store(subject.root).check_writable()
    except SanaError as error:
        what, _, more = str(error).partition(": ")
        why, _, remedy = more.partition(": ")
        return fail(f"{what}: {why}" if why else what, remedy or "mend that, or choose another root")
    except ValueError as error:
        return fail(f"root: {error}", "name a folder, or s3://bucket/prefix")
    return ok(f"{subject.root}: read, written and deleted a test object")
