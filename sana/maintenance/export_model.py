"""Export a trained model: the files of a train artifact as one folder that diffusers loads, on a disk or in a bucket.

Nothing of the target is overwritten. `model_index.json` comes last: a folder without it is unfinished, and the same
call completes it. Of a training of an adapter one layout of it may be asked for: it is then the root of the target.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from sana.artifact import Artifact, FileInfo
from sana.errors import SanaError
from sana.maintenance.object_graph import MODEL
from sana.maintenance.verify import file_digest
from sana.progress import Progress, Report, noop
from sana.store import Store
from sana.wording import in_units

Layout = Literal["all", "peft", "comfyui", "merged"]

LAST = "model_index.json"
ADAPTER = "pytorch_lora_weights.safetensors"
_FOLDERS: dict[Layout, str] = {"comfyui": "comfyui/", "merged": "merged/"}  # of an adapter's layouts
_REPAIR_HINT = "`sana verify --deep` says how to repair it"


@dataclass(frozen=True)
class ExportResult:
    """What an export did, in files."""

    num_copied: int
    num_bytes: int
    num_present: int  # in the target before, with the same bytes


def export_model(
    store: Store,
    trained: Artifact,
    target: Store,
    *,
    layout: Layout = "all",
    staging: Path | None = None,
    report: Report = noop,
) -> ExportResult:
    """Copy the exported model of a train artifact to the root of `target`; every byte is checked by its digest.

    Of an adapter `layout` says which of its exports. `staging` is a local folder with room for the largest file; it is
    used when the source is S3.

    Raises:
        SanaError: there is no such layout, the target holds other files, or a file of the source is damaged.
        StoreError: storage failed; the same call resumes from there.
    """
    files = _files_of(store, trained, layout)
    present = dict(target.list(""))
    _check_target(target, files, present)
    names = sorted(files, key=lambda name: (name.rpartition("/")[2] == LAST, name))
    total, copied, num_bytes, done_bytes = sum(info.num_bytes for info in files.values()), 0, 0, 0
    with TemporaryDirectory(dir=staging, prefix="export-model-") as folder:
        for name in names:
            info = files[name]
            report(Progress(done_bytes // 2**20, total // 2**20, "MiB", name))
            if name not in present:
                _copy(store, info, target, name, Path(folder) / "file")
                copied, num_bytes = copied + 1, num_bytes + info.num_bytes
            done_bytes += info.num_bytes
    report(Progress(total // 2**20, total // 2**20, "MiB", ""))
    return ExportResult(copied, num_bytes, len(files) - copied)


def _files_of(store: Store, trained: Artifact, layout: Layout) -> dict[str, FileInfo]:
    files = {name.removeprefix(MODEL): info for name, info in trained.files.items() if name.startswith(MODEL)}
    if LAST not in files and ADAPTER not in files:
        raise SanaError(f"{store.uri(trained.key)} names no {MODEL}{LAST}: it has no model to export")
    if layout == "all":
        return files
    if LAST in files:
        raise SanaError(f"{store.uri(trained.key)} is no adapter but a whole model, which has no layout {layout}")
    folder = _FOLDERS.get(layout, "")
    found = {name.removeprefix(folder): info for name, info in files.items() if name.startswith(folder)}
    if layout == "peft":
        found = {ADAPTER: files[ADAPTER]}
    if not found:
        raise SanaError(
            f"{store.uri(trained.key)} has no export in layout {layout}; its passport.json says why. "
            "`sana lora merge` merges an adapter"
        )
    return found


def _check_target(target: Store, files: Mapping[str, FileInfo], present: Mapping[str, int]) -> None:
    """Require that the target holds nothing but files of this model.

    Raises:
        SanaError: names the first file that is of something else.
    """
    others = sorted(set(present) - set(files))
    if others:
        raise SanaError(
            f"{target.root} already holds {others[0]} ({len(others)} files that are not of this model); "
            "name an empty folder or prefix"
        )
    for name in sorted(present):
        info = files[name]
        if present[name] != info.num_bytes or _digest(target, name, info.num_bytes) != info.digest:
            raise SanaError(
                f"{target.uri(name)} ({in_units(present[name])}) is of another model, or damaged: nothing was copied; "
                "name an empty folder or prefix"
            )


def _copy(store: Store, info: FileInfo, target: Store, name: str, scratch: Path) -> None:
    path = store.local_path(info.key)
    if path is None:
        store.fetch(info.key, scratch)
    with (path or scratch).open("rb") as file:
        found = file_digest(lambda start, length: os.pread(file.fileno(), length, start), info.num_bytes, "blake2b")
        if os.fstat(file.fileno()).st_size != info.num_bytes or found != info.digest:
            raise SanaError(f"{store.uri(info.key)} is damaged: it is not what train wrote; {_REPAIR_HINT}")
    target.put_file_if_absent(name, path or scratch)
    scratch.unlink(missing_ok=True)


def _digest(store: Store, key: str, num_bytes: int) -> str:
    return file_digest(partial(store.read_range, key), num_bytes, "blake2b")
