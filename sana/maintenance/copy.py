"""`sana export` and `sana import`: copy what is committed from one root to another, data first, records last.

Nothing of the target is overwritten. What is there already is not copied again, so a copy that was killed goes on, but
it is compared first: a record byte for byte; a shard by its header and the digests of its first and last sample; any
other object byte for byte up to 8 MiB, beyond in its first and last MiB; with `deep` every byte of all. A record that
the target has made itself stays, and the source's is left out.
"""

import os
import uuid
from collections.abc import Collection, Iterator
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
# A record is created when what it refers to is there; an artifact's commits in their order, its marker last of all.
_ORDER = ("metrics", "part", "compacted", "checkpoint", "artifact", "history")
_HEAL = "`sana verify` on the source says how to heal it"


@dataclass
class Copied:
    """What a copy did, in objects. `kept` are records of the target that differ from the source's, and stayed."""

    num_copied: int = 0
    num_bytes: int = 0
    num_there: int = 0
    kept: list[str] = field(default_factory=list)


def copy_root(
    source: Store,
    target: Store,
    *,
    stages: Collection[str],
    staging: Path | None = None,
    deep: bool = False,
    report: Report = noop,
) -> Copied:
    """Copy the artifacts, pools and checkpoints of these stages, with all they refer to; bytes are checked on the way.

    `deep` also reads every byte of what is in the target already.
    `staging` is a local folder with room for the few largest objects; it is used when the source is S3.

    Raises:
        SanaError: the source is damaged (says where) or has nothing to copy, or the target has other data under a name
            of the source's.
        StoreError: storage failed; the same call goes on from there.
    """
    found = read_object_graph(source, report=report)
    if found.problems:
        raise SanaError(f"{source.uri(found.problems[0].key)}: {found.problems[0].what}; {_HEAL}")
    there = dict(target.list(""))
    wanted = {key for key in found.records() if key.partition("/")[0] in stages}
    if not wanted:  # a mistyped source must not look like a copy that went well
        raise SanaError(
            f"nothing of {', '.join(sorted(stages))} is committed under {source.root}; is it the right root?"
        )
    kept = _others(source, target, wanted & set(there))
    chosen = found.without(found.records() - (wanted - kept))
    keys = set(chosen.references) | _markers(chosen)
    gone = sorted(keys - set(found.entries))
    if gone:
        raise SanaError(f"{source.uri(gone[0])} is not there ({len(gone)} such objects); {_HEAL}")
    other = sorted(key for key in keys & set(there) if there[key] != found.entries[key].num_bytes)
    if other:
        raise SanaError(
            f"{target.uri(other[0])} has {there[other[0]]} bytes, the source's {found.entries[other[0]].num_bytes} "
            f"({len(other)} such objects): it is damaged, or of somebody else; nothing was copied"
        )
    missing = keys - set(there)
    _check_there(source, target, chosen, keys - missing - wanted, deep, report)
    outcome = Copied(num_there=len(keys) - len(missing), kept=sorted(kept))
    total = sum(found.entries[key].num_bytes for key in missing)
    with TemporaryDirectory(dir=staging, prefix="copy-") as folder:
        for key in _copy_all(source, target, chosen, missing, Path(folder)):
            outcome.num_copied += 1
            outcome.num_bytes += found.entries[key].num_bytes
            report(Progress(outcome.num_bytes // _MIB, max(total // _MIB, 1), "MiB", key))
    return outcome


def _others(source: Store, target: Store, keys: Collection[str]) -> set[str]:
    """Return those records of which the target has its own; all commits of an artifact if it has one of them."""

    def differs(key: str) -> str:
        return key if source.read(key) != target.read(key) else ""

    other = {key for key in in_threads(differs, sorted(keys)) if key}
    folders = {key.rpartition("/")[0] for key in other if kind_of(key) == "artifact"}
    return other | {key for key in keys if kind_of(key) == "artifact" and key.rpartition("/")[0] in folders}


def _markers(found: ObjectGraph) -> set[str]:
    """Return the markers of history of the artifacts of a read_object_graph."""
    names = {(artifact.stage, artifact.fingerprint) for artifact in found.artifacts.values()}
    markers = (key for key in found.entries if kind_of(key) == "history")
    return {key for key in markers if (key.split("/")[0], key.rpartition("/")[2].partition("-")[2]) in names}


def _check_there(source: Store, target: Store, chosen: ObjectGraph, keys: set[str], deep: bool, report: Report) -> None:
    """Compare what the target has already, records aside, with what the source has or says of it.

    Raises:
        SanaError: an object is another one.
    """

    if not keys:  # else every table of the source would be read to say nothing
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

    def groups(left: set[str]) -> Iterator[tuple[str, Rows]]:
        yield from _shards(source, chosen, left)
        yield from ((key, []) for key in sorted(left))

    for done, (key, wrong) in enumerate(in_threads(differs, groups(set(keys))), 1):
        if wrong:
            raise SanaError(
                f"{target.uri(key)} is there already, and {wrong}: one of the two is damaged, or it is of somebody "
                "else; nothing was copied. `sana verify --deep` of each root says which"
            )
        report(Progress(done, len(keys), "objects there", key))


def _shards(source: Store, chosen: ObjectGraph, left: set[str]) -> Iterator[tuple[str, Rows]]:
    """Take the shards out of `left` and yield each with its rows."""
    for table in sorted(chosen.tables, key=lambda key: kind_of(key) != "part"):
        for key, rows in rows_by_shard(source.read(table)):
            if key in left:
                left.remove(key)
                yield key, rows


def _copy_all(source: Store, target: Store, chosen: ObjectGraph, missing: set[str], folder: Path) -> Iterator[str]:
    """Copy what is missing and yield each key when it is there: shards, other data, then records in their order."""
    left = set(missing)

    def copy(group: tuple[str, Rows]) -> str:
        key, rows = group
        path = source.local_path(key)
        fetched = folder / uuid.uuid4().hex
        if path is None:
            source.fetch(key, fetched)
        wrong = _fault(path or fetched, rows, chosen.references.get(key, []))
        if wrong:
            raise SanaError(f"{source.uri(key)}: {wrong}; {_HEAL}; what was copied before stays")
        target.put_file_if_absent(key, path or fetched)
        fetched.unlink(missing_ok=True)
        if target.size(key) != chosen.entries[key].num_bytes:
            raise SanaError(f"{target.uri(key)} was written by somebody else meanwhile, with other bytes")
        return key

    yield from in_threads(copy, _shards(source, chosen, left))
    yield from in_threads(copy, [(key, []) for key in sorted(left) if kind_of(key) not in _ORDER])
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
