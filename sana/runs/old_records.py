"""Which records of runs may go: those that said nothing for long, but for the newest of each training that is kept."""

from collections import defaultdict
from collections.abc import Collection
from functools import partial

from sana.facts import TrainFacts
from sana.maintenance.gc import OrphanedObject
from sana.maintenance.object_graph import ObjectGraph, kind_of
from sana.runs.listing import read_status
from sana.runtime.threads import in_threads
from sana.store import Entry, Store

KEPT = 20  # runs of a training that is kept: its attempts, and the config that it was made with
_KINDS = ("run", "run status")
_WHY = "the record of a run that ended or fell silent long ago"
_AT_WORK_S = 3600.0  # a run that said something since is never dropped, whatever is asked for


def old_run_records(
    store: Store, graph: ObjectGraph, *, now: float, older_than_s: float, dropped: Collection[str] = ()
) -> list[OrphanedObject]:
    """Return the records of runs that have said nothing for `older_than_s` seconds; `now` is Unix time.

    Of each training that has an artifact or a checkpoint beside the `dropped` keys the newest KEPT runs stay.
    A run that works writes several times a minute, so it is never among them.

    Raises:
        StoreError: storage does not answer.
    """
    before = now - max(older_than_s, _AT_WORK_S)
    records: dict[str, list[Entry]] = defaultdict(list)
    for key, entry in graph.entries.items():
        if kind_of(key) in _KINDS:
            records[key.split("/")[1]].append(entry)
    names = sorted(records, reverse=True)  # the newest first
    statuses = in_threads(partial(read_status, store), names)
    kept, number = _trajectories(graph, dropped), defaultdict[str, int](int)
    gone: list[OrphanedObject] = []
    for name, status in zip(names, statuses, strict=True):
        trajectory = status.trajectory if status is not None else ""
        number[trajectory] += 1
        is_kept = trajectory in kept and number[trajectory] <= KEPT
        if not is_kept and max(entry.modified_at for entry in records[name]) < before:
            gone += [OrphanedObject(*entry, _WHY) for entry in sorted(records[name])]
    return gone


def _trajectories(graph: ObjectGraph, dropped: Collection[str]) -> set[str]:
    """Return the trajectories of the artifacts and checkpoints that stay."""
    trained = [TrainFacts.find(artifact) for key, artifact in graph.artifacts.items() if key not in dropped]
    found = {facts.trajectory for facts in trained if facts is not None}
    return found | {checkpoint.trajectory for key, checkpoint in graph.checkpoints.items() if key not in dropped}
