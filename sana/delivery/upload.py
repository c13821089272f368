"""What a publication uploads: files that are in the store, or were just made, each checked before it leaves."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sana.artifact import FileInfo
from sana.errors import SanaError
from sana.store import Store
from sana.store_errors import StoreError
from sana.wording import in_units

LAST = ("model_index.json", "README.md")  # of a folder in a bucket: one without them is unfinished


@dataclass(frozen=True)
class Upload:
    """One file: its name there, and what gives a local file with its bytes, in a scratch folder where needed."""

    name: str
    num_bytes: int
    local: Callable[[Path], Path]


class Place(Protocol):
    """Where publications go. Every method raises SanaError, StoreError where trying again may help."""

    def prepare(self) -> None:
        """Make the place, or check that it is what the config says, before any upload."""

    def publish(
        self,
        name: str,
        message: str,
        uploads: Sequence[Upload],
        scratch: Path,
        on_file: Callable[[Upload], None],
    ) -> str:
        """Upload the files as one commit or folder; returns what names it. What is there already is not sent again."""


class Tally:
    """Counts what was uploaded, for reports and for the error that ends it."""

    def __init__(self, total_files: int, total_bytes: int, report: Callable[["Tally", str], None]) -> None:
        self.total_files, self.total_bytes, self._report = total_files, total_bytes, report
        self.num_files = self.num_bytes = 0

    def __call__(self, upload: Upload) -> None:
        """Count a file that is there."""
        self.num_files += 1
        self.num_bytes += upload.num_bytes
        self._report(self, upload.name)

    @property
    def told(self) -> str:
        """What was done, in words."""
        if not self.num_files:
            return "nothing was uploaded"
        return (
            f"{self.num_files} of {self.total_files} files ({in_units(self.num_bytes)}) were uploaded before; run "
            "again: those are not sent again"
        )


def explained(error: SanaError, told: str) -> SanaError:
    """Return the error with what was uploaded before it; of a StoreError trying again may help."""
    text = f"{str(error).rstrip('. ')}. {told[0].upper()}{told[1:]}. What was trained is in the store as before"
    return StoreError(text) if isinstance(error, StoreError) else SanaError(text)


def stored(store: Store, name: str, info: FileInfo) -> Upload:
    """Return the upload of a file in the store."""

    def local(scratch: Path) -> Path:
        path = store.local_path(info.key)
        if path is None:
            path = scratch / "fetched"
            store.fetch(info.key, path)
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except FileNotFoundError as error:
            raise SanaError(f"{store.uri(info.key)} is gone; sana verify CONFIG says how to make it again") from error
        if digest != info.digest:
            raise SanaError(f"{store.uri(info.key)} is damaged; sana verify CONFIG --deep says how to repair it")
        return path

    return Upload(name, info.num_bytes, local)


def made(name: str, path: Path) -> Upload:
    """Return the upload of a local file."""
    return Upload(name, path.stat().st_size, lambda _: path)
