"""Comparisons that readers of the page ask for: two trainings of its root, by what storage has of them."""

import threading
import time
from collections import OrderedDict

from sana.comparison.compare import compare
from sana.comparison.find import find_subject
from sana.comparison.lineage import Lineage
from sana.report.comparison.page import comparison_page
from sana.store import Store

_FRESH_S = 60.0  # so long one that was made is shown again
_MAX_KEPT = 8


class Comparisons:
    """Makes one page at a time, and keeps the newest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], tuple[float, str]] = OrderedDict()

    def page(self, a: str, b: str) -> str:
        """Return the page that compares training `b` with `a`.

        Raises:
            SanaError: one is not there or was not evaluated, or they have nothing in common.
        """
        with self._lock:
            made_at, page = self._kept.get((a, b), (0.0, ""))
            if not page or time.monotonic() - made_at > _FRESH_S:
                lineage = Lineage(self._store)
                found = compare([find_subject(name, lineage, "ema") for name in (a, b)])
                page = comparison_page(found, {self._store.root: self._store}, now=time.time())
                self._kept[a, b] = (time.monotonic(), page)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
            return page
