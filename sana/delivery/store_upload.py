"""Publications in a bucket or a folder: each is a folder of its own there, and no object is ever overwritten."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sana.delivery.upload import LAST, Upload
from sana.errors import SanaError
from sana.store import Store, open_store


class StorePlace:
    """A prefix of a bucket, or a folder."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._store: Store | None = None

    def prepare(self) -> None:
        """Open it and put and delete a small object."""
        try:
            self._store = open_store(self._to)
        except ValueError as error:
            raise SanaError(f"publish.to: {error}") from error
        self._store.check_writable()

    def publish(
        self,
        name: str,
        message: str,  # noqa: ARG002 - a bucket has none
        uploads: Sequence[Upload],
        scratch: Path,
        on_file: Callable[[Upload], None],
    ) -> str:
        """Put the files below `name`, the index and the card last."""
        assert self._store is not None  # prepared
        present = dict(self._store.list(name))
        order = {last: number for number, last in enumerate(LAST, 1)}
        for upload in sorted(uploads, key=lambda upload: (order.get(upload.name, 0), upload.name)):
            key = f"{name}/{upload.name}"
            if present.get(key, upload.num_bytes) != upload.num_bytes:
                raise SanaError(
                    f"{self._store.uri(key)} is there with {present[key]} bytes and should have {upload.num_bytes}: it "
                    "is not what this stage puts there; remove it, or set publish.to to another place"
                )
            if key not in present:
                self._store.put_file_if_absent(key, upload.local(scratch))
            on_file(upload)
        return self._store.uri(name)
