"""`sana verify`: check that every object that a root's records refer to exists and matches them."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import xxhash

from sana.data.shards.shard_tables import Read, Rows, find_fault, rows_by_shard
from sana.errors import SanaError
from sana.maintenance.gc import OrphanedObject, orphaned_objects
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
from sana.store import Store
from sana.store_errors import StoreError

BLOCK_BYTES = 8 * 2**20
_ABSENT = "there is no such object"


@dataclass
class StageSummary:
    """The objects in one stage's folder: `num_objects` = ok + damaged + orphaned + unknown, without missing ones."""

    num_objects: int = 0
    num_bytes: int = 0
    ok: int = 0
    damaged: int = 0
    missing: int = 0
    num_orphaned: int = 0
    orphaned_bytes: int = 0


@dataclass
class VerifyResult:
    """The result of a verification. `problems` are of records in effect, `superseded` only of replaced ones."""

    stages: dict[str, StageSummary] = field(default_factory=lambda: defaultdict(StageSummary))
    problems: list[Problem] = field(default_factory=list)
    superseded: list[Problem] = field(default_factory=list)
    orphaned_objects: list[OrphanedObject] = field(default_factory=list)


def verify(store: Store, *, deep: bool = False, report: Report = noop) -> VerifyResult:
    """Check sizes, tables and shard headers; `deep`: also every file's and every sample's digest, which reads all.

    One listing shows that the files which records name exist with their sizes: no request for each file.

    Raises:
        StoreError: storage failed, so nothing was verified.
    """
    graph = read_object_graph(store, report=report)
    problems = list(graph.problems)
    shards = {key for key in graph.entries if kind_of(key) == "shard"}
    plain = [references for key, references in graph.references.items() if key not in shards]
    for done, wrong in enumerate(in_threads(partial(_check_object, store, graph, deep), plain), 1):
        problems += wrong
        report(Progress(done, len(plain), "objects"))
    problems += _check_shards(store, graph, deep, report)
    return _summarize(graph, problems)


def invalidate(store: Store, problems: Sequence[Problem]) -> list[str]:
    """Delete the records that refer to damaged or missing objects, so that the next run makes just those again.

    Besides, damaged files of base models are deleted, which every later export would find there by their digest.
    Nothing else is: `gc` deletes what only these records referred to. Returns the deleted keys.
    A record that cannot be read stays: it may be of another version of this software.
    """
    deleted: list[str] = []
    graph = read_object_graph(store)
    keys = list(graph.entries)
    invalid = {problem.by for problem in problems if problem.state != "unreadable"}
    while more := {reference.by for key in invalid for reference in graph.references.get(key, [])} - invalid:
        invalid |= more  # an artifact of a checkpoint
    for by in sorted(invalid, key=lambda key: (kind_of(key) != "artifact", key)):
        kind, folder = kind_of(by), by.rpartition("/")[0]
        if kind in ("checkpoint", "validation"):
            deleted.append(by)  # gc deletes its files, as another record may refer to them
        elif kind == "artifact":  # all its commits, the newest first: a gap would hide those behind it
            commits = [key for key in keys if key.startswith(f"{folder}/") and kind_of(key) == kind]
            deleted += sorted(commits, key=commit_number, reverse=True)
        else:  # tables that repeat a part's rows go before it
            deleted += [key for key in keys if key.startswith(f"{pool_of(by)}/compacted/")]
            deleted += [by] if kind == "part" else []
    deleted += [wrong.key for wrong in problems if wrong.state == "damaged" and kind_of(wrong.key) == "base file"]
    deleted = list(dict.fromkeys(deleted))
    for key in deleted:
        store.delete(key)
    return deleted


def _check_object(store: Store, graph: ObjectGraph, deep: bool, references: list[Reference]) -> list[Problem]:
    """Check one object, not a shard, against all references to it."""
    key = references[0].key
    entry = graph.entries.get(key)
    if entry is None and not store.exists(key):  # it may have been put after the listing
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


def _check_shards(store: Store, graph: ObjectGraph, deep: bool, report: Report) -> list[Problem]:
    """Check each shard against the rows of each table, but only once where two tables have equal rows for it."""
    problems: list[Problem] = []
    verdicts: dict[tuple[str, int], str] = {}
    checked_bytes: set[str] = set()
    tables = sorted(graph.tables.items(), key=lambda item: (kind_of(item[0]) != "part", item))  # the smallest first

    def check(group: tuple[str, Rows, int]) -> tuple[str, int, str]:
        key, rows, rows_digest = group
        if (key, rows_digest) in verdicts:
            return key, rows_digest, verdicts[key, rows_digest]
        try:
            size = graph.entries[key].num_bytes if key in graph.entries else store.size(key)
            return key, rows_digest, find_fault(partial(store.read_range, key), size, rows, deep=deep)
        except FileNotFoundError:
            return key, rows_digest, "missing"

    for number, (table, by) in enumerate(tables, 1):
        for key, rows_digest, verdict in in_threads(check, _shards_with_rows(store, table, by, problems)):
            verdicts[key, rows_digest] = verdict
            checked_bytes.add(key)
            if verdict == "missing":
                problems.append(Problem(key, by, "missing", _ABSENT))
            elif verdict:
                problems.append(Problem(key, by, "damaged", verdict))
        report(Progress(number, len(tables), "tables", f"{len(checked_bytes)} shards"))
    return problems


def _shards_with_rows(store: Store, table: str, by: str, problems: list[Problem]) -> Iterator[tuple[str, Rows, int]]:
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


def _summarize(graph: ObjectGraph, problems: list[Problem]) -> VerifyResult:
    result, superseded = VerifyResult(), graph.superseded()
    for problem in dict.fromkeys(problems):
        (result.superseded if problem.by in superseded else result.problems).append(problem)
    state_of = {problem.key: problem.state for problem in problems}
    result.orphaned_objects = orphaned_objects(graph)
    orphaned = {thing.key for thing in result.orphaned_objects}
    for key, entry in graph.entries.items():
        stage = result.stages[key.partition("/")[0] if "/" in key else "(root)"]
        stage.num_objects += 1
        stage.num_bytes += entry.num_bytes
        if key in orphaned:
            stage.num_orphaned += 1
            stage.orphaned_bytes += entry.num_bytes
        elif key not in state_of:
            stage.ok += 1
    for key, state in state_of.items():
        stage = result.stages[key.partition("/")[0]]
        stage.missing += state == "missing"
        stage.damaged += state != "missing"
    return result
