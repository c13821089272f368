"""The metrics of trainings in bins, kept between readings: a segment that was read is not read again."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress

from sana.runs.binned import BinnedRows
from sana.store import Store

MAX_TRAININGS = 16  # whose metrics are kept in memory


class CurveCache:
    """The metrics of the trainings that were looked at last."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, tuple[list[str], BinnedRows]] = OrderedDict()

    def rows(self, trajectory: str, segments: Sequence[str]) -> BinnedRows:
        """Return the metrics of these segments, in their order; one that is gone is passed over."""
        read, rows = self._kept.get(trajectory, ([], BinnedRows()))
        if list(segments[: len(read)]) != read:  # resumed from an earlier checkpoint, or pruned: from the beginning
            read, rows = [], BinnedRows()
        for key in segments[len(read) :]:
            with suppress(FileNotFoundError):
                rows.add_segment(self._store.read(key))
            read.append(key)
        self._kept[trajectory] = (read, rows)
        self._kept.move_to_end(trajectory)
        while len(self._kept) > MAX_TRAININGS:
            self._kept.popitem(last=False)
        return rows
