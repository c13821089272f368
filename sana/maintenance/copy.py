"""`sana export` and `sana import`: copy what is committed from one root to another, data first, records last.

Nothing of the target is overwritten. What it has already is not copied again, so a copy that was killed resumes, but
it is compared first: a record byte for byte; a shard by its header and the digests of its first and last sample; any
other object byte for byte up to 8 MiB, beyond in its first and last MiB; with `deep` every byte of all. A record that
the target made itself stays, and the source's is left out.
"""

import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from sana.data.shards.shard_tables import Rows, find_fault, rows_by_shard
from sana.errors import SanaError
from sana.maintenance.object_graph import ObjectGraph, Reference, commit_number, kind_of, read_object_graph
from sana.maintenance.verify import BLOCK_BYTES, file_digest
from sana.progress import Progress, Report, noop
from sana.runtime.threads import in_threads
from sana.store import Store

_MIB = 2**20
# A record is created after what it refers to; an artifact's commits in their order, its history marker last of all.
_ORDER = ("metrics", "part", "compacted", "checkpoint", "artifact", "history")
_REPAIR_HINT = "`sana verify` on the source says how to repair it"


@dataclass
class CopyResult:
    """What a copy did, in objects. `kept` are records of the target that differ from the source's, and stay."""

    num_copied: int = 0
    num_bytes: int = 0
    num_present: int = 0  # in the target before
    kept: list[str] = field(default_factory=list)


def copy_root(
    source: Store,
    target: Store,
    *,
    stages: Collection[str],
    staging: Path | None = None,
    deep: bool = False,
    report: Report = noop,
) -> CopyResult:
    """Copy the artifacts, pools and checkpoints of these stages, with all they refer to; bytes are checked on the way.

    `deep` also reads every byte of what the target has already. `staging` is a local folder with room for the few
    largest objects; it is used when the source is S3.

    Raises:
        SanaError: the source is damaged (says where) or has nothing to copy, or the target has other data under a name
            of the source's.
        StoreError: storage failed; the same call resumes from there.
    """
    graph = read_object_graph(source, report=report)
    if graph.problems:
        raise SanaError(f"{source.uri(graph.problems[0].key)}: {graph.problems[0].what}; {_REPAIR_HINT}")
    present = dict(target.list(""))
    wanted = {key for key in graph.records() if key.partition("/")[0] in stages}
    if not wanted:  # a mistyped source must not look like a copy that went well
        raise SanaError(f"nothing that is to be copied is committed under {source.root}; is it the right root?")
    kept = _differing_records(source, target, wanted & set(present))
    chosen = graph.without(graph.records() - (wanted - kept))
    links = chosen.links()
    keys = (set(chosen.references) | _history_markers(chosen)) - set(links)
    lost = sorted(keys - set(graph.entries))
    if lost:
        raise SanaError(f"{source.uri(lost[0])} is not there ({len(lost)} such objects); {_REPAIR_HINT}")
    other = sorted(key for key in keys & set(present) if present[key] != graph.entries[key].num_bytes)
    if other:
        raise SanaError(
            f"{target.uri(other[0])} has {present[other[0]]} bytes, the source's {graph.entries[other[0]].num_bytes} "
            f"({len(other)} such objects): it is damaged, or of somebody else; nothing was copied"
        )
    missing = keys - set(present)
    _check_present(source, target, chosen, keys - missing - wanted, deep, report)
    result = CopyResult(num_present=len(keys) - len(missing), kept=sorted(kept))
    total = sum(graph.entries[key].num_bytes for key in missing)
    with TemporaryDirectory(dir=staging, prefix="copy-") as folder:
        for key in _copy_all(source, target, chosen, missing, links, Path(folder)):
            result.num_copied += 1
            result.num_bytes += graph.entries[key].num_bytes
            report(Progress(result.num_bytes // _MIB, max(total // _MIB, 1), "MiB", key))
    return result


def _differing_records(source: Store, target: Store, keys: Collection[str]) -> set[str]:
    """Return the records that differ in the target; all commits of an artifact if one of them differs."""

    def differs(key: str) -> str:
        return key if source.read(key) != target.read(key) else ""

    differing = {key for key in in_threads(differs, sorted(keys)) if key}
    folders = {key.rpartition("/")[0] for key in differing if kind_of(key) == "artifact"}
    return differing | {key for key in keys if kind_of(key) == "artifact" and key.rpartition("/")[0] in folders}


def _history_markers(graph: ObjectGraph) -> set[str]:
    """Return the history markers of the artifacts in a graph."""
    names = {(artifact.stage, artifact.fingerprint) for artifact in graph.artifacts.values()}
    markers = (key for key in graph.entries if kind_of(key) == "history")
    return {key for key in markers if (key.split("/")[0], key.rpartition("/")[2].partition("-")[2]) in names}


def _check_present(
    source: Store, target: Store, chosen: ObjectGraph, keys: set[str], deep: bool, report: Report
) -> None:
    """Compare what the target has already, records aside, with the source's objects or their digests.

    Raises:
        SanaError: an object differs.
    """

    if not keys:  # else every table of the source would be read for nothing
        return

    def differs(group: tuple[str, Rows]) -> tuple[str, str]:
        key, rows = group
        size, read = chosen.entries[key].num_bytes, partial(target.read_range, key)
        if rows:
            wrong = find_fault(read, size, rows, deep=deep)
            return key, wrong or ("" if deep else find_fault(read, size, [rows[0], rows[-1]], deep=True))
        for start in range(0, size, _MIB) if deep or size <= BLOCK_BYTES else (0, size - _MIB):
            length = min(_MIB, size - start)
            if read(start, length) != source.read_range(key, start, length):
                return key, f"it is not the source's at byte {start} or a little after it"
        return key, ""

    def with_rows(left: set[str]) -> Iterator[tuple[str, Rows]]:
        yield from _take_shards(source, chosen, left)
        yield from ((key, []) for key in sorted(left))

    for done, (key, wrong) in enumerate(in_threads(differs, with_rows(set(keys))), 1):
        if wrong:
            raise SanaError(
                f"{target.uri(key)} is there already, and {wrong}: one of the two is damaged, or it is of somebody "
                "else; nothing was copied. `sana verify --deep` of each root says which"
            )
        report(Progress(done, len(keys), "objects compared", key))


def _take_shards(source: Store, chosen: ObjectGraph, left: set[str]) -> Iterator[tuple[str, Rows]]:
    """Take the shards out of `left` and yield each with its rows."""
    for table in sorted(chosen.tables, key=lambda key: kind_of(key) != "part"):
        for key, rows in rows_by_shard(source.read(table)):
            if key in left:
                left.remove(key)
                yield key, rows


def _copy_all(
    source: Store, target: Store, chosen: ObjectGraph, missing: set[str], links: Mapping[str, str], folder: Path
) -> Iterator[str]:
    """Copy what is missing and yield each key when it is copied: shards, other data, then records in their order.

    `links` are second names of objects, which a disk gets before the records.
    """
    left = set(missing)

    def copy(group: tuple[str, Rows]) -> str:
        key, rows = group
        path = source.local_path(key)
        fetched = folder / uuid.uuid4().hex
        if path is None:
            source.fetch(key, fetched)
        wrong = _fault(path or fetched, rows, chosen.references.get(key, []))
        if wrong:
            raise SanaError(f"{source.uri(key)}: {wrong}; {_REPAIR_HINT}; what was copied before stays")
        target.put_file_if_absent(key, path or fetched)
        fetched.unlink(missing_ok=True)
        if target.size(key) != chosen.entries[key].num_bytes:
            raise SanaError(f"{target.uri(key)} was written by somebody else meanwhile, with other bytes")
        return key

    yield from in_threads(copy, _take_shards(source, chosen, left))
    yield from in_threads(copy, [(key, []) for key in sorted(left) if kind_of(key) not in _ORDER])
    for name, key in sorted(links.items(), key=lambda link: link[0].endswith("/model_index.json")):
        target.link_if_absent(name, key)
    for kind in _ORDER:
        records = sorted(key for key in left if kind_of(key) == kind)
        for number in sorted({commit_number(key) for key in records}):  # the first commits before the second
            yield from in_threads(copy, [(key, []) for key in records if commit_number(key) == number])


def _fault(path: Path, rows: Rows, references: list[Reference]) -> str:
    """Say what is wrong with a local copy of an object, or ""."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:

        def read(start: int, length: int) -> bytes:
            return os.pread(file.fileno(), length, start)

        for reference in references:
            if reference.num_bytes not in (None, num_bytes):
                return f"it has {num_bytes} bytes, {reference.by} says {reference.num_bytes}"
            if reference.digest and file_digest(read, num_bytes, reference.algorithm) != reference.digest:
                return f"its digest is not what {reference.by} says"
        return find_fault(read, num_bytes, rows, deep=True) if rows else ""
