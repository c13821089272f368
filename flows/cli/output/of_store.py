"""The documents of maintenance, from what it found."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict

from flows.cli.output.documents import (
    CopyDocument,
    GcDocument,
    ProblemObject,
    StageHealth,
    UnusedObject,
    VerifyDocument,
)
from sana.maintenance.copy import CopyResult
from sana.maintenance.gc import OrphanedObject
from sana.maintenance.object_graph import Problem
from sana.maintenance.verify import VerifyResult
from sana.store import Store


def verify_document(
    health: VerifyResult, store: Store, *, deep: bool, invalidated: Sequence[str], repair: str
) -> VerifyDocument:
    """Return all that a verification found."""
    return VerifyDocument(
        root=store.root,
        deep=deep,
        stages={name: StageHealth(**asdict(found)) for name, found in sorted(health.stages.items())},
        problems=tuple(_problems(health.problems)),
        orphaned=_unused(health.orphaned_objects),
        num_superseded=len(health.superseded),
        invalidated=tuple(invalidated),
        repair=repair,
    )


def gc_document(found: Sequence[OrphanedObject], store: Store, *, deleted: bool) -> GcDocument:
    """Return what a collection found."""
    return GcDocument(store.root, deleted and bool(found), _unused(found), sum(thing.num_bytes for thing in found))


def copy_document(done: CopyResult, source: Store, target: Store) -> CopyDocument:
    """Return what a copy of a root did."""
    return CopyDocument(
        source.root, target.root, done.num_copied, done.num_bytes, done.num_present, tuple(map(str, done.kept))
    )


def _unused(found: Sequence[OrphanedObject]) -> tuple[UnusedObject, ...]:
    return tuple(UnusedObject(thing.key, thing.num_bytes, thing.why) for thing in found)


def _problems(problems: Sequence[Problem]) -> list[ProblemObject]:
    by_object: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for problem in problems:
        by_object[problem.key, problem.state, problem.what].append(problem.by)
    return [ProblemObject(key, state, what, tuple(by)) for (key, state, what), by in by_object.items()]
