"""Data sets for the download stage, in the layouts that people publish, and its tables as rows."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.data.tables import read_table
from sana.stages import download
from sana.store import open_store
from tests.pipeline_runs import run_alone

DEMO = Path(__file__).parents[1] / "configs/demo.yaml"
# path -> captions; names with a space, a line feed, other scripts, an upper-case ending, a folder
CLIPS = {
    "a.mp4": ["a cat"],
    "b c.MOV": ["two dogs", "dogs, \u72ac \u72ac"],
    "deep/er/\u00e9t\u00e9.webm": ['he said "no", and left'],
    "deep/x.mkv": ["one", "two", "three"],
}


def videos(paths: Iterable[str] = CLIPS) -> dict[str, bytes | str]:
    """Return stand-ins for videos, {path: bytes}: the download stage only digests them."""
    return {path: f"bytes of {path}" for path in paths}


def context(tmp_path: Path, *datasets: dict[str, Any], workers: int = 4, report: Any = None) -> Context:
    """The demo's context with these data sets, of which all clips may be rejected; root and work_dir in tmp_path."""
    sets = [{"id": f"d{i}", "max_rejected_fraction": 1.0, **dataset} for i, dataset in enumerate(datasets)]
    places = [f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"download.resources.num_workers={workers}"]
    config = load_config(DEMO, [*places, f"download.datasets={json.dumps(sets)}"])
    more = {"report": report} if report else {}
    return Context(config, open_store(config.root), Path(config.work_dir), **more)


class FinishedDownload:
    """The artifact of a finished download stage, and its tables as rows."""

    def __init__(self, context: Context) -> None:
        self.artifact: Artifact = run_alone(download, context, {})
        self.context = context
        tables = {n: read_table(context.store, self.artifact, f"{n}.parquet") for n in ("clips", "captions", "rejects")}
        self.clips, captions, self.rejects = (tables[name].to_pylist() for name in tables)
        assert [clip["clip_id"] for clip in self.clips] == [row["clip_id"] for row in captions], "row beside row"
        assert [clip["clip_id"] for clip in self.clips] == sorted(clip["clip_id"] for clip in self.clips)
        self.captions = {c["path"]: row["captions"] for c, row in zip(self.clips, captions, strict=True)}
        self.rejected = {row["path"]: (row["reason"], row["detail"]) for row in self.rejects}
        counts = self.artifact.counts
        assert counts.num_in == counts.num_out + counts.num_rejected == len(self.clips) + len(self.rejects)
        assert sum(of.num_in for of in counts.datasets.values()) == counts.num_in


def csv_of(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def jsonl_of(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


ROWS = [{"file_name": path, "text": text} for path, texts in CLIPS.items() for text in texts]
