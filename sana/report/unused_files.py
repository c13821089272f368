"""The files of the data sets that nothing reads: how many by ending, and which."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sana.artifact import Artifact
from sana.data.columns import batches
from sana.facts import DownloadFacts
from sana.store import Store

UNUSED_FILE = "unused_files.parquet"
MAX_ROWS = 300
_COLUMNS = ["dataset", "path", "num_bytes", "kind"]


@dataclass(frozen=True)
class UnusedFiles:
    """`endings`: by data set, the number of files by ending; `rows` of UNUSED_FILES that are shown; `key` of all."""

    endings: Mapping[str, Mapping[str, int]]
    rows: Sequence[Mapping[str, Any]]
    key: str

    @property
    def total(self) -> int:
        return sum(sum(numbers.values()) for numbers in self.endings.values())


def unused_files(store: Store, download: Artifact) -> UnusedFiles | None:
    """Count the unused files of a download, and pick the first of each kind to show; None where there is none.

    Raises:
        SanaError: the table is gone or damaged.
    """
    if UNUSED_FILE not in download.files:  # of a version that did not look for them
        return None
    endings = DownloadFacts.of(download).unused_files
    if not endings:
        return None
    rows: dict[str, list[dict[str, Any]]] = {"table": [], "text": [], "other": []}  # first what a rename would use
    for batch in batches(store, download, UNUSED_FILE, _COLUMNS):
        for kind, found in rows.items():
            if missing := MAX_ROWS // len(rows) - len(found):
                of_kind = batch.filter(pc.equal(batch.column("kind"), pa.scalar(kind)))
                found += of_kind.slice(0, missing).to_pylist()
    return UnusedFiles(endings, [row for found in rows.values() for row in found], download.files[UNUSED_FILE].key)
