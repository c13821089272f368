"""Self-contained pages that readers ask for: data reports, run reports and comparisons, made of what storage has."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

from sana.comparison.compare import compare
from sana.comparison.lineage import Lineage
from sana.config.load import from_values
from sana.config.yaml_reading import parse_yaml
from sana.context import Context
from sana.errors import ConfigError
from sana.pipeline.plan import committed
from sana.report.comparison.page import comparison_page
from sana.report.live.source import LiveRoot
from sana.report.page import data_report
from sana.report.training.find import find_subject as find_training
from sana.report.training.page import training_report
from sana.runs.compared import find_subject
from sana.runs.titles import titled

_FRESH_S = 20.0  # so long one that was made is shown again
_MAX_KEPT = 8
OWN = ""  # the data report of the config that the page was opened with


class Documents:
    """Makes one page at a time, as it may read large tables and open videos, and keeps the newest."""

    def __init__(self, root: LiveRoot, context: Context | None, title: str) -> None:
        self._root, self._context, self._title = root, context, title
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, ...], tuple[float, str]] = OrderedDict()

    def data(self, run_id: str) -> str:
        """Return the data report of a run's config, or of our own config.

        Raises:
            LookupError: there is no such run, or no config of our own.
            SanaError, OSError: its config is of another version, or storage does not answer.
        """
        return self._once(("data", run_id), lambda: self._data(run_id))

    def report(self, key: str) -> str:
        """Return the run report of a training, finished or not. Raises SanaError: there is none."""
        return self._once(("report", key), lambda: self._report(key))

    def comparison(self, a: str, b: str) -> str:
        """Return the page that compares training `b` with `a`.

        Raises:
            SanaError: one is not there or was not evaluated, or they have nothing in common.
        """
        return self._once(("comparison", a, b), lambda: self._comparison(a, b))

    def _once(self, name: tuple[str, ...], make: Callable[[], str]) -> str:
        with self._lock:
            made_at, page = self._kept.get(name, (0.0, ""))
            if not page or time.monotonic() - made_at > _FRESH_S:
                page = make()
                self._kept[name] = (time.monotonic(), page)
                while len(self._kept) > _MAX_KEPT:
                    self._kept.popitem(last=False)
            return page

    def _data(self, run_id: str) -> str:
        if run_id == OWN:
            if self._context is None:
                raise LookupError("this page was opened without a config: open the data report of a run")
            context, title = self._context, self._title
        else:
            started = self._root.run(run_id).started
            values = parse_yaml(started.config, where=f"the config of run {run_id}")
            if not isinstance(values, dict):
                raise ConfigError(f"the config of run {run_id} holds no keys")
            config = from_values(values, [f"root={self._root.store.root}"], where=f"run {run_id}")
            context = Context(config, self._root.store, Path(config.work_dir).absolute(), read_only=True)
            title = started.title
        return data_report(context, title, committed(context), now=time.time())

    def _report(self, key: str) -> str:
        return training_report(find_training(Lineage(self._root.store), key), now=time.time())

    def _comparison(self, a: str, b: str) -> str:
        store = self._root.store
        lineage = Lineage(store)
        found = compare(titled([find_subject(name, lineage, "ema") for name in (a, b)]))
        return comparison_page(found, {store.root: store}, now=time.time())
