"""`sana gc`: find what no record refers to, and, if asked, records that are out of use; delete it in a safe order.

A part in flight is protected by the grace time, by a second look at the records just before anything is deleted, and
by its writer, who makes sure that its shards are there just before it commits (`require_shards`).
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

DATA = {  # kind -> why it is orphaned when no record refers to it
    "shard": "a shard that no part refers to",
    "file": "left by an attempt that never committed",
    "checkpoint file": "left by a checkpoint that was never finished",
    "metrics": "metrics that no checkpoint commits",
    "write test": "left by a test of whether the root can be written",
}
# Nothing is deleted before what might refer to it: commit files, tables that repeat parts, parts, checkpoints, data.
_ORDER = {"artifact": 0, "history": 1, "compacted": 2, "part": 3, "checkpoint": 4}


@dataclass(frozen=True)
class OrphanedObject:
    """An object that may go, and why; `modified_at` is Unix time, seconds."""

    key: str
    num_bytes: int
    modified_at: float
    why: str


def orphans(found: ObjectGraph) -> list[OrphanedObject]:
    """Return the objects that no record refers to, of any age. Unknown objects, leases and markers are none."""
    orphaned = [
        OrphanedObject(*entry, DATA[kind])
        for key, entry in found.entries.items()
        if (kind := kind_of(key)) in DATA and key not in found.references
    ]
    for tables in _by_folder(set(found.folded) & set(found.entries)).values():
        for key in tables:
            larger = [found.entries[other].modified_at for other in tables if found.folded[key] < found.folded[other]]
            if larger and found.folded[key]:  # empty where it does not say which parts it holds
                entry = found.entries[key]
                # a reader may have chosen it until the first larger one came
                since = max(entry.modified_at, min(larger))
                orphaned.append(
                    OrphanedObject(key, entry.num_bytes, since, "superseded by a table of the same parts and more")
                )
    return orphaned


def outdated(found: ObjectGraph, *, before: float, in_use: Collection[str] = ()) -> list[OrphanedObject]:
    """Return the records that nobody can miss who looks only at artifacts made since `before` (Unix time, seconds).

    Artifacts whose folders are `in_use` stay, the newest of each stage, and whatever a kept one read (by content
    digest). A part goes when no kept index points into its shards; checkpoints, when no kept artifact and no live lease
    has their trajectory.
    """
    kept = _kept_artifacts(found, before, in_use)
    gone = {key: "an artifact out of use" for key in found.artifacts if key.rpartition("/")[0] not in kept}
    for key in found.entries:
        if kind_of(key) == "history":
            stage, _, name = key.split("/")
            if any(f"{stage}/{name.partition('-')[2]}/" in commit for commit in gone):
                gone[key] = "order of an artifact out of use"
    indexed = {
        shard
        for shard, references in found.references.items()
        for reference in references
        if reference.by in found.artifacts and reference.by not in gone
    }
    shards_of: dict[str, list[str]] = defaultdict(list)
    for key, references in found.references.items():
        for reference in references:
            if kind_of(reference.by) == "part" and key != reference.by:
                shards_of[reference.by].append(key)
    parts = [
        part
        for part, shards in shards_of.items()
        if part in found.entries and found.entries[part].modified_at < before and indexed.isdisjoint(shards)
    ]
    pools = {pool_of(part) for part in parts}
    gone |= {key: "repeats parts that go" for key in found.folded if pool_of(key) in pools}
    gone |= dict.fromkeys(parts, "a part that no kept artifact reads")
    gone |= dict.fromkeys(_idle_checkpoints(found, gone, before), "a checkpoint of a training that is out of use")
    return [OrphanedObject(*found.entries[key], why) for key, why in gone.items() if key in found.entries]


def _kept_artifacts(found: ObjectGraph, before: float, in_use: Collection[str]) -> set[str]:
    """Folders of the artifacts that stay."""
    newest: dict[str, float] = defaultdict(float)
    for artifact in found.artifacts.values():
        newest[artifact.stage] = max(newest[artifact.stage], artifact.created_at)
    kept = {
        artifact.key
        for artifact in found.artifacts.values()
        if artifact.created_at >= before or artifact.created_at == newest[artifact.stage] or artifact.key in in_use
    }
    while True:
        read = {digest for a in found.artifacts.values() if a.key in kept for digest in a.inputs.values()}
        more = {a.key for a in found.artifacts.values() if read & set(a.content.values())} - kept
        if not more:
            return kept
        kept |= more


def _idle_checkpoints(found: ObjectGraph, gone: Mapping[str, str], before: float) -> list[str]:
    kept = [TrainFacts.find(artifact) for key, artifact in found.artifacts.items() if key not in gone]
    used = {trained.trajectory for trained in kept if trained is not None}
    for key, entry in found.entries.items():  # one that was trained, or leased, lately
        if key.startswith("train/") and entry.modified_at >= before:
            used.add(key.split("/")[1])
    return [key for key, checkpoint in found.checkpoints.items() if checkpoint.trajectory not in used]


def find_orphaned_objects(
    found: ObjectGraph, *, grace_s: float, artifacts_older_than_s: float | None = None, in_use: Collection[str] = ()
) -> list[OrphanedObject]:
    """Return what may be deleted, in the order to do it: only what was last modified `grace_s` ago or longer.

    With `artifacts_older_than_s` also old artifacts, but for those whose folders are `in_use`.

    Raises:
        SanaError: a record cannot be read, so what it refers to is not known.
    """
    _check_readable(found)
    now = time.time()
    old: list[OrphanedObject] = []
    if artifacts_older_than_s is not None:
        old = outdated(found, before=now - max(artifacts_older_than_s, grace_s), in_use=in_use)
    dropped = {orphaned.key for orphaned in old}
    orphaned = [
        replace(thing, why="of a record that goes") if thing.key in found.references else thing
        for thing in orphans(found.without(dropped))
        if thing.modified_at <= now - grace_s
    ]
    return sorted(old + orphaned, key=lambda thing: (_ORDER.get(kind_of(thing.key), 9), -commit_number(thing.key)))


def remove(
    store: Store, found: ObjectGraph, orphaned: Sequence[OrphanedObject], *, report: Report = noop
) -> list[OrphanedObject]:
    """Delete orphaned objects in their order, less those that a record refers to which came since the graph was read.

    Returns what was deleted.

    Raises:
        SanaError: records were to go, and a run has committed others meanwhile, which may build on them.
    """
    known = {*found.records(), *(problem.key for problem in found.problems)}
    later = ObjectGraph()
    add_records(store, later, [key for key, _ in store.list("") if key not in known])
    _check_readable(later)
    if later.records() and any(kind_of(thing.key) in RECORDS for thing in orphaned):
        raise SanaError(
            "a run is at work on this root; old artifacts are only dropped while none is: nothing is deleted"
        )

    def delete(key: str) -> str:
        store.delete(key)
        return key

    going = [thing for thing in orphaned if thing.key not in later.references]
    records = [thing.key for thing in going if kind_of(thing.key) in _ORDER]
    data = [thing.key for thing in going if kind_of(thing.key) not in _ORDER]
    for done, _ in enumerate(chain(map(delete, records), in_threads(delete, data)), 1):
        report(Progress(done, len(going), "objects"))
    return going


def _check_readable(found: ObjectGraph) -> None:
    if found.problems:
        first = found.problems[0]
        raise SanaError(
            f"{first.key} cannot be read ({first.what}), so what it refers to is not known; nothing is deleted "
            f"({len(found.problems)} such records). `sana verify` says how to heal them"
        )


def _by_folder(keys: Iterable[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = defaultdict(list)
    for key in sorted(keys):
        folders[key.rpartition("/")[0]].append(key)
    return folders
