"""The object graph of a root: its objects, and which record refers to which. verify, gc, export and import read it.

Records (commit files, parts, compacted tables, indexes of checkpoints, results of validations) are read; all else is
data that they refer to.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from sana.artifact import Artifact
from sana.data.shards.shard_tables import shard_keys
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.progress import Progress, Report, noop
from sana.record import DamagedRecordError
from sana.runtime.pool import compacted_names
from sana.runtime.threads import in_threads
from sana.store import Entry, Store
from sana.store_errors import StoreError
from sana.training.checkpoints.checkpoint import Checkpoint, DamagedCheckpointError, read_checkpoint
from sana.training.validation.record import ValidationRecord
from sana.wording import one_line

MODEL = "model/"  # of the names of a train artifact's files
INDEX = "index.parquet"  # the file of an artifact whose rows point into shards

_LAYOUT = {
    "artifact": r"[a-z_]+/[^/]+/artifact(\.\d{4})?\.json",
    "history": r"[a-z_]+/history/\d+-[^/]+",
    "part": r"[a-z_]+/pool/[^/]+/parts/[^/]+\.parquet",
    "compacted": r"[a-z_]+/pool/[^/]+/compacted/[^/]+\.parquet",
    "shard": r"[a-z_]+/pool/[^/]+/shards/.+\.safetensors",
    "checkpoint": r"train/[^/]+/checkpoints/step_\d+/index\.json",
    "checkpoint file": r"train/[^/]+/checkpoints/step_\d+/[0-9a-f]{12}/.+",
    "validation": r"train/[^/]+/validation/step_\d+/[0-9a-f]{12}/(result|failed|begun)\.json",
    "validation file": r"train/[^/]+/validation/step_\d+/[0-9a-f]{12}/[0-9a-f]{12}/[^/]+",
    "metrics": r"train/[^/]+/metrics/[^/]+\.jsonl",
    "lease": r"train/[^/]+/lease/\d+\.json",
    "run": r"runs/[^/]+/(start|end)\.json",
    "run status": r"runs/[^/]+/status/\d+\.json",
    "file": r"[a-z_]+/(?!pool/|history/)[^/]+/[0-9a-f]{12}/.+",
    "base file": r"model/base/[0-9a-f]{32}/[^/]+",
    "write test": r"probe-[0-9a-f]{32}",
}
_PATTERNS = {kind: re.compile(pattern) for kind, pattern in _LAYOUT.items()}
_IN_POOL = re.compile(r"([a-z_]+/pool/[^/]+)/.+")
State = Literal["damaged", "missing", "unreadable"]
RECORDS = ("artifact", "part", "compacted", "checkpoint", "validation")


def kind_of(key: str) -> str:
    """Return the kind of an object by its key; "unknown" is not ours, and never touched."""
    return next((kind for kind, pattern in _PATTERNS.items() if pattern.fullmatch(key)), "unknown")


def pool_of(key: str) -> str:
    """Return the folder of the pool that an object is in; "" if it is in none."""
    match = _IN_POOL.fullmatch(key)
    return match[1] if match else ""


@dataclass(frozen=True, slots=True)
class Reference:
    """The record `by` refers to the object `key`; its size and digest, where the record has them."""

    key: str
    by: str
    num_bytes: int | None = None
    digest: str = ""
    algorithm: Literal["blake2b", "xxh3"] = "blake2b"  # of `digest`; both 128 bits


@dataclass(frozen=True)
class Problem:
    """What is wrong with an object, and the record `by` that refers to it; a record refers to itself."""

    key: str
    by: str
    state: State
    what: str


@dataclass
class ObjectGraph:
    """All objects of a root, its records, and the references to each object. `tables` maps a table to its record."""

    entries: dict[str, Entry] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    validations: dict[str, ValidationRecord] = field(default_factory=dict)
    compacted_parts: dict[str, frozenset[str]] = field(default_factory=dict)  # compacted table -> parts in it
    tables: dict[str, str] = field(default_factory=dict)
    references: dict[str, list[Reference]] = field(default_factory=lambda: defaultdict(list))
    problems: list[Problem] = field(default_factory=list)  # of records and tables that could not be read

    def records(self) -> set[str]:
        """Return the keys of all records."""
        return {*self.artifacts, *self.checkpoints, *self.validations, *self.tables.values()}

    def without(self, dropped: Iterable[str]) -> "ObjectGraph":
        """Return the graph without these records and their references."""
        gone = set(dropped)
        left = ObjectGraph(
            {key: entry for key, entry in self.entries.items() if key not in gone},
            {key: artifact for key, artifact in self.artifacts.items() if key not in gone},
            {key: checkpoint for key, checkpoint in self.checkpoints.items() if key not in gone},
            {key: validation for key, validation in self.validations.items() if key not in gone},
            {key: parts for key, parts in self.compacted_parts.items() if key not in gone},
            {key: by for key, by in self.tables.items() if by not in gone},
        )
        for key, references in self.references.items():
            if kept := [reference for reference in references if reference.by not in gone]:
                left.references[key] = kept
        return left

    def links(self) -> dict[str, str]:
        """Return the second names that files of exported models have on a disk, each with the key it stands for."""
        return {name: key for artifact in self.artifacts.values() for name, key in _links(artifact).items()}

    def superseded(self) -> set[str]:
        """Return the commit files that a later one of the same artifact replaced."""
        newest: dict[str, str] = {}
        for key in sorted(self.artifacts, key=commit_number):
            newest[key.rpartition("/")[0]] = key
        return set(self.artifacts) - set(newest.values())


def commit_number(key: str) -> int:
    """Return 0 of `artifact.json`, 1 of `artifact.0001.json` and so on."""
    number = key.removesuffix(".json").rpartition(".")[2]
    return int(number) if number.isdigit() else 0


def read_object_graph(store: Store, *, report: Report = noop) -> ObjectGraph:
    """Read every record of a root. Records are listed after objects, so an object is never listed without its record,
    unless that is not yet written.
    """
    graph = ObjectGraph({entry.key: entry for entry in store.list_entries("")})
    add_records(store, graph, [key for key, _ in store.list("")], report=report)
    return graph


def add_records(store: Store, graph: ObjectGraph, keys: Iterable[str], *, report: Report = noop) -> None:
    """Read the records among `keys` and add them to a graph; those deleted meanwhile are left out."""
    records = [key for key in keys if kind_of(key) in RECORDS]
    for done, read in enumerate(in_threads(partial(_read, store), records), 1):
        _add_record(graph, *read, on_disk=store.is_local)
        report(Progress(done, len(records), "records"))
    indexes = [(table, by) for table, by in graph.tables.items() if kind_of(table) == "file"]
    for (table, by), read in zip(indexes, in_threads(partial(_read, store), [t for t, _ in indexes]), strict=True):
        if isinstance(read[1], _TableContent):
            _add_references(graph, by, *(Reference(shard, by) for shard in read[1].shards))
        elif isinstance(read[1], Problem):
            graph.problems.append(Problem(table, by, "damaged", read[1].what))


@dataclass(frozen=True)
class _TableContent:
    """The shards that a table points to; `parts`: of a compacted table, those in it."""

    shards: list[str]
    parts: frozenset[str] | None


_RecordContent = Artifact | Checkpoint | ValidationRecord | _TableContent | Problem | None


def _read(store: Store, key: str) -> tuple[str, _RecordContent]:
    """Return (key, the record's content); None: it was deleted meanwhile."""
    kind = kind_of(key)
    try:
        if kind == "checkpoint":
            _, trajectory, _, step, _ = key.split("/")
            return key, read_checkpoint(store, trajectory, int(step.removeprefix("step_")))
        data = store.read(key)
        if kind == "validation":
            return key, ValidationRecord.from_json(data, where=store.uri(key))
        if kind == "artifact":
            artifact = Artifact.from_json(data, where=store.uri(key))
            TrainFacts.find(artifact)  # its references must be readable
            return key, artifact
        return key, _TableContent(shard_keys(data), _parts_in(data, store.uri(key)) if kind == "compacted" else None)
    except StoreError:
        raise
    except FileNotFoundError:
        return key, None
    except (SanaError, KeyError, ValueError, pa.ArrowException) as error:
        if kind == "checkpoint" and not store.exists(key):  # invalidated meanwhile
            return key, None
        # a record of a later version of this software cannot be read either, and is not damaged
        of_another_version = not isinstance(error, DamagedRecordError | DamagedCheckpointError)
        is_json = kind in ("artifact", "checkpoint", "validation")
        state: State = "unreadable" if is_json and of_another_version else "damaged"
        return key, Problem(key, key, state, one_line(error))


def _parts_in(data: bytes, where: str) -> frozenset[str]:
    parts, _ = compacted_names(pq.read_schema(pa.BufferReader(data)).metadata, where=where)
    return parts


def _add_record(graph: ObjectGraph, key: str, record: _RecordContent, *, on_disk: bool) -> None:
    if isinstance(record, Problem):
        graph.problems.append(record)
    elif isinstance(record, Artifact):
        graph.artifacts[key] = record
        _add_references(graph, key, *(Reference(f.key, key, f.num_bytes, f.digest) for f in record.files.values()))
        if INDEX in record.files:
            graph.tables[record.files[INDEX].key] = key
        # on a disk diffusers needs each of them, on S3 there are none; their bytes are read under their other name
        sizes = {file.key: file.num_bytes for file in record.files.values()}
        links = _links(record).items() if on_disk else ()
        _add_references(graph, key, *(Reference(name, key, sizes[existing]) for name, existing in links))
        if trained := TrainFacts.find(record):
            _add_references(graph, key, *(Reference(name, key) for name in (trained.checkpoint, *trained.metrics)))
    elif isinstance(record, Checkpoint):
        graph.checkpoints[key] = record
        files = [Reference(file.key, key, file.num_bytes, file.digest, "xxh3") for file in record.files.values()]
        _add_references(graph, key, *files)
        _add_references(graph, key, *(Reference(segment.key, key, segment.num_bytes) for segment in record.segments))
    elif isinstance(record, ValidationRecord):
        graph.validations[key] = record
        _add_references(graph, key, *(Reference(f.key, key, f.num_bytes, f.digest) for f in record.files.values()))
    elif isinstance(record, _TableContent):
        if record.parts is not None:
            graph.compacted_parts[key] = record.parts
        graph.tables[key] = key
        _add_references(graph, key, *(Reference(shard, key) for shard in record.shards))


def _links(artifact: Artifact) -> dict[str, str]:
    """Return the names in the folder of an exported model whose objects are elsewhere: name to key."""
    trained = TrainFacts.find(artifact)
    if trained is None:
        return {}
    exported = {name.removeprefix(MODEL): file for name, file in artifact.files.items() if name.startswith(MODEL)}
    names = {f"{trained.model}/{name}": file.key for name, file in exported.items()}
    return {name: key for name, key in names.items() if name != key}


def _add_references(graph: ObjectGraph, by: str, *references: Reference) -> None:
    for reference in (Reference(by, by), *references):
        if reference not in graph.references[reference.key]:
            graph.references[reference.key].append(reference)
