"""The export: what was learned as a whole checkpoint in diffusers layout, in the store.

    train/<fingerprint>/<attempt>/model/transformer/...     the trained weights, written and hashed in one pass
    model/base/<blake2b>/<file name>                        files of the base model that training leaves as they are

Of an adapter, model/ has its files, and model/merged/ is the checkpoint that it is merged into.

Those are stored once per root, whichever trainings refer to them. On a disk each also has a second name, a hard link,
in the export's folder, so that diffusers loads the folder; on S3 `sana export-model` puts a folder together.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from torch import Tensor

from sana.artifact import FileInfo
from sana.data.sources.digest_cache import DigestCache
from sana.errors import SanaError
from sana.model.model_resolver import INDEX, base_files
from sana.store import Block, Store
from sana.training.checkpoints.tensor_file import file_blocks, file_bytes

FOLDER = "model/"  # of the names in the artifact


class Exported(Protocol):
    """What is exported: a trainable, or a model that an adapter is merged into."""

    component: str  # of the pipeline: the folder that an export has new files in; "": the export is these files alone
    weights_file: str  # and the name of its tensors there
    weights_metadata: Mapping[str, str]  # of that safetensors file

    def export(self, weights: Mapping[str, Tensor], folder: Path) -> Mapping[str, Tensor]:
        """Write the component's files but its tensors to an empty folder; returns the tensors that it has then."""


def store_base(store: Store, base: str, *, without: str, work_dir: Path, below: str = "") -> dict[str, FileInfo]:
    """Store the files of the model in the folder `base`, but those of one component; returns them by name.

    What the root has is not copied again, nor read: digests of local files are cached in `work_dir`.

    Raises:
        FileNotFoundError: `base` is not a local folder in diffusers layout.
        SanaError: what the root has of a file is shorter or longer than it.
    """
    digests = DigestCache(work_dir / "cache" / "blake2b.sqlite", algorithm="blake2b")
    files = {}
    for name, path in base_files(base, without=without).items():
        digest = digests.digest(path).removeprefix("blake2b:")
        key = f"model/base/{digest}/{path.name}"
        if not store.put_file_if_absent(key, path) and store.size(key) != path.stat().st_size:
            raise SanaError(
                f"{store.uri(key)} has {store.size(key)} bytes, and {path}, whose copy it is, {path.stat().st_size}: "
                "it is damaged; delete it, and run again"
            )
        files[FOLDER + below + name] = FileInfo(key, path.stat().st_size, digest)
    return files


def export_model(
    store: Store,
    folder: str,
    exported: Exported,
    weights: Mapping[str, Tensor],
    *,
    base: str,
    work_dir: Path,
    below: str = "",
) -> dict[str, FileInfo]:
    """Store what was learned below the key `folder`/`below`, with all else from `base`; returns the files by name.

    `below` is "" or ends with a slash. `model_index.json` comes last: a folder without it is unfinished.

    Raises:
        FileNotFoundError: `base` is not a local folder in diffusers layout.
    """
    files = {}
    if exported.component:  # else the export is of what learned alone
        files = store_base(store, base, without=exported.component, work_dir=work_dir, below=below)
    prefix = f"{below}{exported.component}/" if exported.component else below
    with TemporaryDirectory(dir=work_dir, prefix="export-") as name:
        local = Path(name)
        tensors = exported.export(weights, local)
        for path in sorted(path for path in local.rglob("*") if path.is_file()):
            data, part = path.read_bytes(), f"{prefix}{path.relative_to(local).as_posix()}"
            store.put_if_absent(f"{folder}/{part}", data)
            digest = hashlib.blake2b(data, digest_size=16).hexdigest()
            files[FOLDER + part] = FileInfo(f"{folder}/{part}", len(data), digest)
        part = prefix + exported.weights_file
        key, metadata = f"{folder}/{part}", exported.weights_metadata
        files[FOLDER + part] = store_tensors(store, key, tensors, metadata=metadata, staging=local)
    last = FOLDER + below + INDEX
    for name in sorted(files, key=lambda name: (name == last, name)):
        linked = f"{folder}/{name.removeprefix(FOLDER)}"
        if linked != files[name].key:
            store.link_if_absent(linked, files[name].key)
    return dict(sorted(files.items()))


def store_tensors(
    store: Store, key: str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str], staging: Path
) -> FileInfo:
    """Store tensors as one safetensors file, hashed on the way; `staging` is a local folder for files on their way."""
    hasher = hashlib.blake2b(digest_size=16)
    blocks = _hashed_beside(file_blocks(tensors, metadata=metadata), hasher.update)
    store.put_blocks_if_absent(key, blocks, staging=staging)
    deque(blocks, maxlen=0)  # where an object was there
    return FileInfo(key, file_bytes(tensors, metadata=metadata), hasher.hexdigest())


def _hashed_beside(blocks: Iterator[Block], update: Callable[[Block], None]) -> Iterator[Block]:
    """Pass blocks on, each hashed by a thread meanwhile: blake2b is as slow as a disk."""
    with ThreadPoolExecutor(1, "blake2b") as thread:
        hashing: Future[None] | None = None
        for block in blocks:
            if hashing is not None:
                hashing.result()
            hashing = thread.submit(update, block)
            yield block
        if hashing is not None:
            hashing.result()
