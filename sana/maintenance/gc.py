"""`sana gc`: find objects that no record refers to, and, if asked, outdated records; delete them in a safe order.

A part that is being written is protected by the grace time, by reading the records again just before anything is
deleted, and by its writer, which checks that its shards exist just before it commits (`require_shards`).
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.maintenance.object_graph import RECORDS, ObjectGraph, add_records, commit_number, kind_of, pool_of
from sana.progress import Progress, Report, noop
from sana.runtime.threads import in_threads
from sana.store import Store
from sana.training.checkpoints.checkpoint import Checkpoint
from sana.training.validation.record import ValidationRecord

DATA_KINDS = {  # kind -> why an object of it is orphaned when no record refers to it
    "shard": "a shard that no part refers to",
    "file": "left by an attempt that never committed",
    "checkpoint file": "left by a checkpoint that was never finished",
    "validation file": "left by a validation that never ended",
    "base file": "a file of a base model that no trained model has",
    "metrics": "metrics that no checkpoint commits",
    "write test": "left by a test of whether the root can be written",
}
# What refers to others is deleted before them: commit files, tables that repeat parts, parts, checkpoints, data.
_DELETE_ORDER = {"artifact": 0, "history": 1, "compacted": 2, "part": 3, "checkpoint": 4, "validation": 4}


@dataclass(frozen=True)
class OrphanedObject:
    """An object that may be deleted, and why; `modified_at` is Unix time, seconds."""

    key: str
    num_bytes: int
    modified_at: float
    why: str


def orphaned_objects(graph: ObjectGraph) -> list[OrphanedObject]:
    """Return the objects that no record refers to, of any age; never unknown objects, leases and history markers."""
    found = [
        OrphanedObject(*entry, DATA_KINDS[kind])
        for key, entry in graph.entries.items()
        if (kind := kind_of(key)) in DATA_KINDS and key not in graph.references
    ]
    for tables in _by_folder(set(graph.compacted_parts) & set(graph.entries)).values():
        for key in tables:
            larger = [
                graph.entries[other].modified_at
                for other in tables
                if graph.compacted_parts[key] < graph.compacted_parts[other]
            ]
            if larger and graph.compacted_parts[key]:  # empty where its metadata does not list its parts
                entry = graph.entries[key]
                # a reader may have chosen it until the first larger one came
                since = max(entry.modified_at, min(larger))
                found.append(
                    OrphanedObject(key, entry.num_bytes, since, "superseded by a table of the same parts and more")
                )
    return found


def outdated_records(graph: ObjectGraph, *, before: float, in_use: Collection[str] = ()) -> list[OrphanedObject]:
    """Return the records that no artifact made since `before` (Unix time, seconds) needs.

    Artifacts stay whose folders are `in_use`, the newest of each stage, and all that a kept one read (by content
    digest). A part goes when no kept index points into its shards; a checkpoint, when no kept artifact and no live
    lease has its trajectory.
    """
    kept = _kept_artifacts(graph, before, in_use)
    gone = {key: "an artifact out of use" for key in graph.artifacts if key.rpartition("/")[0] not in kept}
    for key in graph.entries:
        if kind_of(key) == "history":
            stage, _, name = key.split("/")
            if any(f"{stage}/{name.partition('-')[2]}/" in commit for commit in gone):
                gone[key] = "order of an artifact out of use"
    indexed = {
        shard
        for shard, references in graph.references.items()
        for reference in references
        if reference.by in graph.artifacts and reference.by not in gone
    }
    shards_of: dict[str, list[str]] = defaultdict(list)
    for key, references in graph.references.items():
        for reference in references:
            if kind_of(reference.by) == "part" and key != reference.by:
                shards_of[reference.by].append(key)
    parts = [
        part
        for part, shards in shards_of.items()
        if part in graph.entries and graph.entries[part].modified_at < before and indexed.isdisjoint(shards)
    ]
    pools = {pool_of(part) for part in parts}
    gone |= {key: "repeats parts that are deleted" for key in graph.compacted_parts if pool_of(key) in pools}
    gone |= dict.fromkeys(parts, "a part that no kept artifact reads")
    idle = set(graph.checkpoints) | set(graph.validations)
    for key in sorted(idle - _of_used_trajectories(graph, gone, before)):
        gone[key] = f"a {kind_of(key)} of a training that is out of use"
    return [OrphanedObject(*graph.entries[key], why) for key, why in gone.items() if key in graph.entries]


def _kept_artifacts(graph: ObjectGraph, before: float, in_use: Collection[str]) -> set[str]:
    """Return the folders of the artifacts that stay."""
    newest: dict[str, float] = defaultdict(float)
    for artifact in graph.artifacts.values():
        newest[artifact.stage] = max(newest[artifact.stage], artifact.created_at)
    kept = {
        artifact.key
        for artifact in graph.artifacts.values()
        if artifact.created_at >= before or artifact.created_at == newest[artifact.stage] or artifact.key in in_use
    }
    while True:
        read = {digest for a in graph.artifacts.values() if a.key in kept for digest in a.inputs.values()}
        more = {a.key for a in graph.artifacts.values() if read & set(a.content.values())} - kept
        if not more:
            return kept
        kept |= more


def _of_used_trajectories(graph: ObjectGraph, gone: Mapping[str, str], before: float) -> set[str]:
    """Return the checkpoints and validations of trajectories that a kept artifact has, or that grew since `before`."""
    kept = [TrainFacts.find(artifact) for key, artifact in graph.artifacts.items() if key not in gone]
    used = {trained.trajectory for trained in kept if trained is not None}
    for key, entry in graph.entries.items():  # trained or leased since
        if key.startswith("train/") and entry.modified_at >= before:
            used.add(key.split("/")[1])
    of_trajectory: dict[str, Checkpoint | ValidationRecord] = {**graph.checkpoints, **graph.validations}
    return {key for key, record in of_trajectory.items() if record.trajectory in used}


def find_orphaned_objects(
    graph: ObjectGraph, *, grace_s: float, artifacts_older_than_s: float | None = None, in_use: Collection[str] = ()
) -> list[OrphanedObject]:
    """Return the objects that may be deleted, in that order; only those last modified at least `grace_s` ago.

    With `artifacts_older_than_s` also old artifacts, except those whose folders are `in_use`.

    Raises:
        SanaError: a record cannot be read, so what it refers to is not known.
    """
    _check_readable(graph)
    now = time.time()
    old: list[OrphanedObject] = []
    if artifacts_older_than_s is not None:
        old = outdated_records(graph, before=now - max(artifacts_older_than_s, grace_s), in_use=in_use)
    dropped = {orphaned.key for orphaned in old}
    orphaned = [
        replace(thing, why="of a record that is deleted") if thing.key in graph.references else thing
        for thing in orphaned_objects(graph.without(dropped))
        if thing.modified_at <= now - grace_s
    ]
    return sorted(
        old + orphaned, key=lambda thing: (_DELETE_ORDER.get(kind_of(thing.key), 9), -commit_number(thing.key))
    )


def delete_objects(
    store: Store, graph: ObjectGraph, orphaned: Sequence[OrphanedObject], *, report: Report = noop
) -> list[OrphanedObject]:
    """Delete orphaned objects in their order, except those that a record written since the graph was read refers to.

    Returns what was deleted.

    Raises:
        SanaError: records were to be deleted, and a run has committed others meanwhile, which may build on them.
    """
    known = {*graph.records(), *(problem.key for problem in graph.problems)}
    newer = ObjectGraph()
    add_records(store, newer, [key for key, _ in store.list("") if key not in known])
    _check_readable(newer)
    if newer.records() and any(kind_of(thing.key) in RECORDS for thing in orphaned):
        raise SanaError(
            "a run is at work on this root; old artifacts are only dropped while none is: nothing is deleted"
        )

    def delete(key: str) -> str:
        store.delete(key)
        return key

    going = [thing for thing in orphaned if thing.key not in newer.references]
    records = [thing.key for thing in going if kind_of(thing.key) in _DELETE_ORDER]
    data = [thing.key for thing in going if kind_of(thing.key) not in _DELETE_ORDER]
    for done, _ in enumerate(chain(map(delete, records), in_threads(delete, data)), 1):
        report(Progress(done, len(going), "objects"))
    return going


def _check_readable(graph: ObjectGraph) -> None:
    if graph.problems:
        first = graph.problems[0]
        raise SanaError(
            f"{first.key} cannot be read ({first.what}), so what it refers to is not known; nothing is deleted "
            f"({len(graph.problems)} such records). `sana verify` says how to repair them"
        )


def _by_folder(keys: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        folders[key.rpartition("/")[0]].append(key)
    return folders
