"""Where a conversion puts what is made, and which of its data sets share their files."""

import os
from collections.abc import Mapping
from typing import Any

from sana.config.places import is_below
from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run

ROOT_WHY = "artifacts: a folder or s3://bucket/prefix, shared and append-only"
WORK_WHY = "local: logs, locks, databases, checkpoints being written"


def convert_places(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `root` and `work_dir`: below output_dir, unless that is in a data set, whose files are only read."""
    named = keys.present("output_dir")
    wanted = keys.text("output_dir", ".sana").rstrip("/")
    sources = [source for entry in run.datasets for source in _sources_of(entry)]
    hidden = str(run.folder / ".sana")  # beside config.json; a hidden folder is never listed
    places = [wanted, hidden, *(f"{source.rstrip('/')}-sana" for source in sources)]
    folder = next((place for place in places if not _in_any(place, sources)), hidden)
    why = "" if folder == wanted else f"; not {wanted}, which is in a data set: what is made would be read as its files"
    if why:
        conversion.notes.append(f"root is in {folder}: output_dir is in a data set")
    local = hidden if "://" in folder else folder
    conversion.set("root", f"{folder}/store", f"{ROOT_WHY}{why}", *named)
    conversion.set("work_dir", f"{local}/work", f"{WORK_WHY}{why}", *named)


def covers_training(entry: Mapping[str, Any], run: Run) -> str:
    """Return the id of a data set in training whose folder is all in that of this eval data set; else nothing."""
    mine = _sources_of(entry)
    for other in run.datasets:
        trains = other.get("dataset_type") == "video" and not any(other.get(key) for key in ("disabled", "disable"))
        if trains and any(_in_any(source, mine) for source in _sources_of(other)):
            return str(other.get("id"))
    return ""


def _sources_of(entry: Mapping[str, Any]) -> list[str]:
    """Return the folders and prefixes that a data set reads."""
    if entry.get("dataset_type") not in ("video", "eval"):
        return []
    if entry.get("type", "local") == "aws":
        prefix = str(entry.get("aws_data_prefix") or "").strip("/")
        return [f"s3://{entry.get('aws_bucket_name')}/{prefix}".rstrip("/")]
    table = entry.get("csv_file") or ""
    if isinstance(entry.get("parquet"), Mapping):
        table = entry["parquet"].get("path") or table
    folders = [entry.get("instance_data_dir"), table and (os.path.dirname(str(table)) or ".")]
    return [str(folder) for folder in folders if folder]


def _in_any(place: str, sources: list[str]) -> bool:
    return any(is_below(place, source) for source in sources)
