"""`sana verify`: whether everything that a root's records refer to is there and is what they say."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import xxhash

from sana.data.shards.shard_tables import Read, Rows, find_fault, rows_by_shard
from sana.errors import SanaError
from sana.maintenance.gc import OrphanedObject, orphans
from sana.maintenance.object_graph import (
    ObjectGraph,
    Problem,
    Reference,
    commit_number,
    kind_of,
    pool_of,
    read_object_graph,
)
from sana.progress import Progress, Report, noop
from sana.runtime.threads import in_threads
from sana.store import Store, StoreError

BLOCK_BYTES = 8 * 2**20
_ABSENT = "there is no such object"


@dataclass
class StageHealth:
    """What one stage's folder holds, in objects: `num_objects` = ok + damaged + orphans + others; missing are not."""

    num_objects: int = 0
    num_bytes: int = 0
    ok: int = 0
    damaged: int = 0
    missing: int = 0
    orphans: int = 0
    orphan_bytes: int = 0


@dataclass
class Health:
    """The outcome of a verification. `problems` are of records in effect; `superseded` only of those that are not."""

    stages: dict[str, StageHealth] = field(default_factory=lambda: defaultdict(StageHealth))
    problems: list[Problem] = field(default_factory=list)
    superseded: list[Problem] = field(default_factory=list)
    orphans: list[OrphanedObject] = field(default_factory=list)


def verify(store: Store, *, deep: bool = False, report: Report = noop) -> Health:
    """Check sizes, tables and shard headers; `deep`: also every file's and every sample's digest, which reads all.

    That every file which a record names is there with its size is seen in a listing: no request a file.

    Raises:
        StoreError: storage failed, so nothing can be said.
    """
    found = read_object_graph(store, report=report)
    problems = list(found.problems)
    shards = {key for key in found.entries if kind_of(key) == "shard"}
    plain = [references for key, references in found.references.items() if key not in shards]
    for done, wrong in enumerate(in_threads(partial(_check_object, store, found, deep), plain), 1):
        problems += wrong
        report(Progress(done, len(plain), "objects"))
    problems += _check_shards(store, found, deep, report)
    return _summary(found, problems)


def invalidate(store: Store, problems: Sequence[Problem]) -> list[str]:
    """Take back the records that need what is damaged or missing, so that the next run makes just that again.

    Nothing else is deleted: what only these records referred to is left to `gc`. Returns the keys that went.
    A record that cannot be read is left alone: it may be of another version of this software.
    """
    gone: list[str] = []
    found = read_object_graph(store)
    names = list(found.entries)
    going = {problem.by for problem in problems if problem.state != "unreadable"}
    while more := {reference.by for key in going for reference in found.references.get(key, [])} - going:
        going |= more  # an artifact of a checkpoint
    for by in sorted(going, key=lambda key: (kind_of(key) != "artifact", key)):
        kind, folder = kind_of(by), by.rpartition("/")[0]
        if kind == "checkpoint":
            gone.append(by)  # its files are gc's, as another record may need them
        elif kind == "artifact":  # all its commits, the newest first: a gap would hide those behind it
            commits = [key for key in names if key.startswith(f"{folder}/") and kind_of(key) == kind]
            gone += sorted(commits, key=commit_number, reverse=True)
        else:  # tables that repeat a part's rows go before it
            gone += [key for key in names if key.startswith(f"{pool_of(by)}/compacted/")]
            gone += [by] if kind == "part" else []
    gone = list(dict.fromkeys(gone))
    for key in gone:
        store.delete(key)
    return gone


def _check_object(store: Store, found: ObjectGraph, deep: bool, references: list[Reference]) -> list[Problem]:
    """Check one object against all that is said of it, except shards, whose rows say it."""
    key = references[0].key
    entry = found.entries.get(key)
    if entry is None and not store.exists(key):  # it may have come after the listing
        return [Problem(key, reference.by, "missing", _ABSENT) for reference in references]
    num_bytes = store.size(key) if entry is None else entry.num_bytes
    problems, read = [], partial(store.read_range, key)
    for reference in references:
        if reference.num_bytes not in (None, num_bytes):
            what = f"it has {num_bytes} bytes, {reference.num_bytes} were written"
            problems.append(Problem(key, reference.by, "damaged", what))
        elif deep and reference.digest and file_digest(read, num_bytes, reference.algorithm) != reference.digest:
            problems.append(Problem(key, reference.by, "damaged", f"its digest is not {reference.digest}"))
    return problems


def file_digest(read: Read, num_bytes: int, algorithm: str) -> str:
    """Return the blake2b or xxh3 digest, of 128 bits, of an object that is read block by block."""
    digest = xxhash.xxh3_128() if algorithm == "xxh3" else hashlib.blake2b(digest_size=16)
    for start in range(0, num_bytes, BLOCK_BYTES):
        digest.update(read(start, min(BLOCK_BYTES, num_bytes - start)))
    return digest.hexdigest()


def _check_shards(store: Store, found: ObjectGraph, deep: bool, report: Report) -> list[Problem]:
    """Check each shard against the rows of each table, but only once where two tables say the same of it."""
    problems: list[Problem] = []
    verdicts: dict[tuple[str, int], str] = {}
    checked_bytes: set[str] = set()
    tables = sorted(found.tables.items(), key=lambda item: (kind_of(item[0]) != "part", item))  # the smallest first

    def check(group: tuple[str, Rows, int]) -> tuple[str, int, str]:
        key, rows, told = group
        if (key, told) in verdicts:
            return key, told, verdicts[key, told]
        try:
            size = found.entries[key].num_bytes if key in found.entries else store.size(key)
            return key, told, find_fault(partial(store.read_range, key), size, rows, deep=deep)
        except FileNotFoundError:
            return key, told, "missing"

    for number, (table, by) in enumerate(tables, 1):
        for key, told, verdict in in_threads(check, _groups(store, table, by, problems)):
            verdicts[key, told] = verdict
            checked_bytes.add(key)
            if verdict == "missing":
                problems.append(Problem(key, by, "missing", _ABSENT))
            elif verdict:
                problems.append(Problem(key, by, "damaged", verdict))
        report(Progress(number, len(tables), "tables", f"{len(checked_bytes)} shards"))
    return problems


def _groups(store: Store, table: str, by: str, problems: list[Problem]) -> Iterator[tuple[str, Rows, int]]:
    """Yield (shard, its rows, a digest of those) of one table."""
    known = {problem.key for problem in problems}
    try:
        data = store.read(table)
        for key, rows in rows_by_shard(data):
            yield key, rows, xxhash.xxh3_64_intdigest(repr(rows).encode())
    except FileNotFoundError:  # reported as a missing object, or deleted meanwhile
        return
    except StoreError:
        raise
    except SanaError as error:
        if table not in known:
            problems.append(Problem(table, by, "damaged", str(error)))


def _summary(found: ObjectGraph, problems: list[Problem]) -> Health:
    health, superseded = Health(), found.superseded()
    for problem in dict.fromkeys(problems):
        (health.superseded if problem.by in superseded else health.problems).append(problem)
    bad = {problem.key: problem.state for problem in problems}
    health.orphans = orphans(found)
    orphaned = {thing.key for thing in health.orphans}
    for key, entry in found.entries.items():
        stage = health.stages[key.partition("/")[0] if "/" in key else "(root)"]
        stage.num_objects += 1
        stage.num_bytes += entry.num_bytes
        if key in orphaned:
            stage.orphans += 1
            stage.orphan_bytes += entry.num_bytes
        elif key not in bad:
            stage.ok += 1
    for key, state in bad.items():
        stage = health.stages[key.partition("/")[0]]
        stage.missing += state == "missing"
        stage.damaged += state != "missing"
    return health
