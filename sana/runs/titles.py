"""What people call the sides of a comparison: the config of the newest run that worked on each."""

from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import replace

from sana.comparison.subjects import Subject
from sana.runs.listing import iterate_runs
from sana.store import Store

MAX_RUNS = 1000  # that are looked through, the newest first


def titled(subjects: Sequence[Subject]) -> list[Subject]:
    """Return the subjects with their titles; that of one which no run tells of stays "". Raises StoreError."""
    stores = {subject.lineage.store.root: subject.lineage.store for subject in subjects}
    titles = {
        root: titles_of(store, {one.trajectory for one in subjects if one.lineage.store.root == root} - {""})
        for root, store in stores.items()
    }
    return [replace(one, title=_title(one, titles[one.lineage.store.root])) for one in subjects]


def titles_of(store: Store, trajectories: Collection[str]) -> dict[str, str]:
    """Return the config of the newest run of each trajectory, and of each fingerprint that one of them ended with.

    Looks no further once each trajectory has one that finished it.
    """
    found: dict[str, str] = {}
    missing = set(trajectories)
    with closing(iterate_runs(store, limit=MAX_RUNS)) as runs:
        for run in runs if missing else ():
            if run.trajectory not in trajectories or run.status is None:
                continue
            found.setdefault(run.trajectory, run.started.title)
            stage = run.status.stages.get("train")
            if stage is not None and stage.fingerprint and stage.state != "running":
                found.setdefault(stage.fingerprint, run.started.title)
                missing.discard(run.trajectory)
            if not missing:
                break
    return found


def _title(subject: Subject, titles: dict[str, str]) -> str:
    of_artifact = subject.trained.fingerprint if subject.trained is not None and subject.is_trained else ""
    return titles.get(of_artifact) or titles.get(subject.trajectory, "")
