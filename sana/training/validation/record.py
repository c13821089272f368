"""Validations in the store: what each made of a trajectory's step, or why it failed. No torch here.

    train/<trajectory>/validation/step_00000500/<settings>/<attempt>/bunny-81x480x832-seed0-ema.mp4, sheet-*.png
    train/<trajectory>/validation/step_00000500/<settings>/result.json   created last: it commits, and names its files
    train/<trajectory>/validation/step_00000500/<settings>/begun.json    while it is made; failed.json: it failed

<settings> is a digest of all that the pixels depend on beside the model, so other settings never meet.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from sana.artifact import FileInfo
from sana.errors import SanaError
from sana.record import DamagedRecordError, Record
from sana.store import Store

RESULT, FAILED, BEGUN = "result.json", "failed.json", "begun.json"

MAX_ATTEMPTS = 2  # trainers that may end while they make one: a kill is chance, two are its own doing

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationVideo(Record):
    """One video: the name of its file, what it was made of, the digest of its pixels, and whether it came in tiles."""

    file: str
    prompt: str  # nickname
    bucket: str
    seed: int
    weights: Literal["ema", "live"]
    digest: str
    tiled: bool


@dataclass(frozen=True)
class ValidationRecord(Record):
    """The videos that the weights of one step made, or why there are none: `failed` is then not empty."""

    trajectory: str
    step: int  # optimizer steps done
    settings: str  # digest
    seconds: float
    videos: tuple[ValidationVideo, ...] = ()
    sheets: Mapping[str, str] = field(default_factory=dict)  # contact sheet of a bucket and weights: name of its file
    files: Mapping[str, FileInfo] = field(default_factory=dict)
    failed: str = ""
    ended_trainer: bool = False  # it hung, or the process died in it
    timeout_s: float = 0.0  # of one that ended the trainer
    attempts: int = 1  # trainers that began it, and ended while they made it but for the last

    @property
    def key(self) -> str:
        """The key of this record."""
        return f"{folder_of(self.trajectory, self.step, self.settings)}/{FAILED if self.failed else RESULT}"


def folder_of(trajectory: str, step: int, settings: str) -> str:
    """Return the folder of a validation, relative to the root."""
    return f"{all_of(trajectory)}/step_{step:08d}/{settings}"


def all_of(trajectory: str) -> str:
    """Return the folder of a trajectory's validations, relative to the root."""
    return f"train/{trajectory}/validation"


def state_of(store: Store, trajectory: str, step: int, settings: str) -> str:
    """Return which of the files says how far a validation is; empty: none."""
    folder = folder_of(trajectory, step, settings)
    return next((name for name in (RESULT, FAILED, BEGUN) if store.exists(f"{folder}/{name}")), "")


def begin(store: Store, trajectory: str, step: int, settings: str) -> int:
    """Note that a trainer makes it from now on; returns how many have begun it.

    One that the next trainer finds so was cut off: `attempts_of` says how often.
    """
    before = attempts_of(store, trajectory, step, settings)
    record = ValidationRecord(trajectory, step, settings, 0.0, attempts=before + 1)
    if before:
        take_back(store, trajectory, step, settings)
    store.put_if_absent(f"{folder_of(trajectory, step, settings)}/{BEGUN}", record.to_json())
    return record.attempts


def attempts_of(store: Store, trajectory: str, step: int, settings: str) -> int:
    """Return how many trainers began it and did not come to its end; MAX_ATTEMPTS where that cannot be read."""
    try:
        return read(store, f"{folder_of(trajectory, step, settings)}/{BEGUN}").attempts
    except DamagedRecordError:
        return MAX_ATTEMPTS
    except SanaError:
        return 0


def end(store: Store, record: ValidationRecord) -> None:
    """Commit how a validation ended."""
    store.put_if_absent(record.key, record.to_json(sort_keys=True))
    if not record.failed:  # it was made again on purpose
        store.delete(f"{folder_of(record.trajectory, record.step, record.settings)}/{FAILED}")
    take_back(store, record.trajectory, record.step, record.settings)


def take_back(store: Store, trajectory: str, step: int, settings: str) -> None:
    """Note that nobody makes it any more: it was stopped in order, and is made when training resumes."""
    store.delete(f"{folder_of(trajectory, step, settings)}/{BEGUN}")


def read(store: Store, key: str) -> ValidationRecord:
    """Read a record.

    Raises:
        SanaError: it is missing or damaged.
    """
    try:
        return ValidationRecord.from_json(store.read(key), where=store.uri(key), repair_hint="remove it")
    except FileNotFoundError as error:
        raise SanaError(f"there is no validation at {store.uri(key)}") from error


def records(store: Store, trajectory: str, *, at_most: int | None = None) -> Iterator[ValidationRecord]:
    """Yield the validations of a trajectory that ended, in the order of their steps; a damaged one is told of."""
    for key, _ in store.list(all_of(trajectory)):
        if not key.endswith((f"/{RESULT}", f"/{FAILED}")):
            continue
        try:
            record = read(store, key)
        except (DamagedRecordError, SanaError) as error:
            _log.warning("a validation is passed over: %s", error)
            continue
        if at_most is None or record.step <= at_most:
            yield record


def prune(store: Store, trajectory: str, *, max_kept: int, newest: int) -> None:
    """Remove all but the newest validations up to step `newest`; those of later steps are left to their run."""
    steps: dict[int, list[str]] = {}
    for key, _ in store.list(all_of(trajectory)):
        name = key.removeprefix(f"{all_of(trajectory)}/step_").partition("/")[0]
        if name.isdigit() and int(name) <= newest:
            steps.setdefault(int(name), []).append(key)
    for step in sorted(steps)[:-max_kept]:
        for key in sorted(steps[step], key=lambda key: not key.endswith(f"/{RESULT}")):  # the record before its files
            store.delete(key)
