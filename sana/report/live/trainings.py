"""All trainings of a root as rows: the committed ones, those that run, and those that were never finished."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sana.report.live.committed import TrainingEntry
from sana.report.live.run_index import LIVE, RunRow

UNFINISHED = "unfinished"  # no run that is on record works on it, or failed at it


def merged(committed: Sequence[TrainingEntry], begun: Iterable[str], runs: Sequence[RunRow]) -> list[TrainingEntry]:
    """Return the trainings, each with its title and state.

    Args:
        begun: trajectories that have a folder; what ended on one is not listed again unless a run goes beyond it.
        runs: the newest first.
    """
    by_fingerprint: dict[str, list[RunRow]] = {}
    for run in runs:
        if run.has_trained and run.fingerprint:
            by_fingerprint.setdefault(run.fingerprint, []).append(run)
    rows = [_finished(row, by_fingerprint.pop(row.fingerprint, [])) for row in committed]
    trained = {row.trajectory for row in committed}
    listed: set[str] = set()
    for found in by_fingerprint.values():
        newest = found[0]
        if newest.trajectory and newest.trajectory not in listed:
            listed.add(newest.trajectory)
            rows.append(_unfinished(newest.trajectory, newest))
    rows += [_unfinished(name, None) for name in begun if name not in trained | listed]
    return rows


def _finished(row: TrainingEntry, runs: Sequence[RunRow]) -> TrainingEntry:
    if not runs:
        return row
    is_live = runs[0].state in LIVE  # it still evaluates, or trains again
    return replace(row, title=runs[0].title, state=runs[0].state if is_live else "completed")


def _unfinished(trajectory: str, run: RunRow | None) -> TrainingEntry:
    if run is None:
        return TrainingEntry(trajectory, "", "", "", "", 0, 0, 0.0, 0.0, 0, state=UNFINISHED)
    return TrainingEntry(
        trajectory=trajectory,
        fingerprint="",
        weights="",
        latents="",
        method=run.method,
        step=run.step,
        max_steps=run.max_steps,
        created_at=run.heard_at,
        seconds=run.seconds,
        num_bytes=0,
        title=run.title,
        data=run.data,
        state=UNFINISHED if run.state == "completed" else run.state,
    )
