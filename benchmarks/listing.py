"""What does a data set of a million files cost before any video is opened? Listing, pairing with captions, digests.

    python -m benchmarks.listing [NUM_CLIPS]

Files and texts are synthetic: CPU seconds of this program are measured, and its memory before and at most. Each row
is a process of its own.
"""

import csv
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sana.arrow import to_parquet
from sana.config.data import DatasetConfig
from sana.data.schemas import CAPTIONS, CLIPS
from sana.data.sources.file_cache import FileCache
from sana.data.sources.ingest import ingest
from sana.data.sources.listing import SourceFile
from sana.data.sources.source import Source
from sana.data.tables import content_digest

CAPTION = "A black and white animated scene of a mouse who steers a boat along a river, and whistles. " * 3
LAYOUTS = ("metadata", "csv", "textfile")


class SyntheticBackend:
    """A backend of `num_clips` videos in folders of a thousand, with a table of captions or a text beside each."""

    revision, base = "", ""

    def __init__(self, num_clips: int, layout: str, folder: Path) -> None:
        self.num_clips, self.layout = num_clips, layout
        self.table = folder / ("metadata.csv" if layout == "csv" else "metadata.parquet")
        if layout == "csv":
            with self.table.open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["file_name", "text"])
                for number in np.random.default_rng(0).permutation(num_clips).tolist():
                    rows.writerow([self._name(number), f"{CAPTION}{self._name(number)}"])
        if layout == "metadata":
            schema = pa.schema([("file_name", pa.string()), ("text", pa.string())])
            with pq.ParquetWriter(self.table, schema) as out:  # in pieces: its memory must not be counted
                for some in np.array_split(np.random.default_rng(0).permutation(num_clips), 100):
                    names = [self._name(number) for number in some.tolist()]
                    out.write_table(pa.table([names, [f"{CAPTION}{name}" for name in names]], schema=schema))

    def _name(self, number: int) -> str:
        return f"videos/{number // 1000:05}/clip-{number:08}.mp4"

    def files(self) -> Iterator[SourceFile]:
        if self.layout != "textfile":
            yield SourceFile(self.table.name, 0, "etag:0")
        for number in range(self.num_clips):
            name = self._name(number)
            yield SourceFile(name, 2_000_000, f"etag:{number:032x}")
            if self.layout == "textfile":
                yield SourceFile(f"{name[:-4]}.txt", 200, f"etag:{number:032x}")

    def digest(self, file: SourceFile) -> str:
        return file.identity

    def read(self, file: SourceFile) -> bytes:
        return f"{CAPTION}{file.path}".encode()

    @contextmanager
    def open(self, path: str, *, digest: str) -> Iterator[Path]:  # noqa: ARG002
        yield self.table


def rss_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(num_clips: int, layout: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        dataset = DatasetConfig(id="made-up", source="s3://made/up")
        backend = SyntheticBackend(num_clips, layout, Path(name))
        before, marks = rss_gb(), [time.process_time()]
        source = Source(dataset, backend, FileCache(Path(name), max_bytes=1))
        source.listing_digest()
        marks.append(time.process_time())
        tables = ingest([dataset], [source], num_workers=8, report=lambda *_: None)
        marks.append(time.process_time())
        files = [to_parquet(table) for table in (tables.clips, tables.captions)]
        content_digest(tables.clips, CLIPS.names), content_digest(tables.captions, CAPTIONS.names)
        marks.append(time.process_time())
        assert tables.clips.num_rows == num_clips == pq.read_metadata(io.BytesIO(files[1])).num_rows
        seconds = " | ".join(f"{b - a:.1f}" for a, b in pairwise(marks))
        print(f"| {layout} | {num_clips:,} | {seconds} | {before:.2f} | {rss_gb():.2f} |")


def main() -> None:
    num_clips = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    if len(sys.argv) > 2:
        measure(num_clips, sys.argv[2])
        return
    print("| layout | clips | list, CPU s | read captions, CPU s | write and digest, CPU s | GB before | GB at most |")
    print("|---|---|---|---|---|---|---|")
    for layout in LAYOUTS:
        command = [sys.executable, "-m", "benchmarks.listing", str(num_clips), layout]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
