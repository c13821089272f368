"""The newest eval loss of a training that is not finished: of the rows that a run tells live, else of checkpoints."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sana.errors import SanaError
from sana.metrics import EVAL_LOSS_EMA, EVAL_LOSS_LIVE, EVAL_STDERR_EMA, EVAL_STDERR_LIVE, STEP, Row, parse_rows
from sana.runtime.threads import in_threads
from sana.store import Store
from sana.store_errors import StoreError
from sana.training.checkpoints.checkpoint import newest_checkpoint

MAX_NEW = 40  # trainings that one refresh looks at for the first time; later ones look at the others
_MAX_SEGMENTS = 50  # of metrics that are read of one, the newest first
_NAMES = (("ema", EVAL_LOSS_EMA, EVAL_STDERR_EMA), ("live", EVAL_LOSS_LIVE, EVAL_STDERR_LIVE))


@dataclass(frozen=True)
class EvalSoFar:
    """An eval loss that was measured while training, after so many steps."""

    step: int
    weights: str  # ema; live where there are no EMA weights
    mean: float
    stderr: float | None


def newest_eval(rows: Iterable[Row]) -> EvalSoFar | None:
    """Return the eval loss of the last step that has one, or None."""
    found = None
    for row in rows:
        for weights, loss, stderr in _NAMES:
            if loss in row and STEP in row:
                if found is None or row[STEP] >= found.step:
                    found = EvalSoFar(int(row[STEP]), weights, row[loss], row.get(stderr))
                break
    return found


@dataclass(frozen=True)
class _Kept:
    """What the newest checkpoint of a training says: its step, None where there is none; its last segment of rows."""

    step: int | None = None
    segment: str = ""
    measured: EvalSoFar | None = None
    heard_at: float = 0.0


class NewestEvals:
    """The newest eval loss of each training, as of the last `refresh`; what was read once is not read again."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, _Kept] = {}  # by trajectory

    def refresh(self, heard_at: Mapping[str, float]) -> None:
        """Look at the checkpoints of these trajectories, again where their run was heard of since.

        `heard_at`: Unix time in seconds by trajectory. Raises StoreError, OSError.
        """
        for gone in self._read.keys() - set(heard_at):
            del self._read[gone]
        new = [name for name in heard_at if name not in self._read][:MAX_NEW]
        wanted = [*new, *(name for name, kept in self._read.items() if kept.heard_at != heard_at[name])]
        for name, found in zip(wanted, in_threads(self._newest, wanted), strict=True):
            self._read[name] = replace(found, heard_at=heard_at[name])

    def of(self, trajectory: str, live: Iterable[Row] = ()) -> EvalSoFar | None:
        """Return the newest one, of its checkpoints and of `live` rows that come after them."""
        committed = self._read.get(trajectory, _Kept()).measured
        told = newest_eval(live)
        return told if committed is None or (told is not None and told.step >= committed.step) else committed

    def step_of(self, trajectory: str) -> int | None:
        """Return the step of its newest checkpoint; None: it has none, or was not looked at yet."""
        return self._read.get(trajectory, _Kept()).step

    def _newest(self, trajectory: str) -> _Kept:
        before = self._read.get(trajectory, _Kept())
        try:
            checkpoint = newest_checkpoint(self._store, trajectory)
        except StoreError:
            raise
        except SanaError:  # of another version: its training is listed, without numbers
            return _Kept(0)
        if checkpoint is None:
            return _Kept()
        keys = [segment.key for segment in checkpoint.segments]
        for key in reversed(keys[-_MAX_SEGMENTS:]):
            if key == before.segment:
                return _Kept(checkpoint.step, keys[-1], before.measured)
            if (newest := newest_eval(self._rows(key))) is not None:
                return _Kept(checkpoint.step, keys[-1], newest)
        return _Kept(checkpoint.step, keys[-1] if keys else "")

    def _rows(self, key: str) -> list[Mapping[str, float]]:
        """Return the rows of a segment; none where it is gone or damaged, which is told where it is shown."""
        try:
            read: list[Any] = parse_rows(self._store.read(key))
        except (FileNotFoundError, ValueError):
            return []
        return [row for row in read if isinstance(row, dict) and all(isinstance(n, int | float) for n in row.values())]
