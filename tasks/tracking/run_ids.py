"""Which tracker run belongs to which tags, kept beside the work so that a rerun finds its run at once.

A hint, not the source of truth: when the file or an entry is lost, the run is looked up in the tracker.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from sana.artifact import digest_of


class RunIds:
    """Run ids of one tracking uri in a small JSON file that is replaced whole."""

    def __init__(self, path: Path, uri: str) -> None:
        self._path = path
        self._uri = digest_of(uri)  # a uri may hold a password

    def get(self, tags: Mapping[str, str]) -> str | None:
        """Return the id that was remembered for these tags, or None."""
        return self._read().get(self._name(tags))

    def remember(self, tags: Mapping[str, str], run_id: str) -> None:
        """Note the id. Two processes at once may lose an entry, never the file."""
        known = self._read()
        if known.get(self._name(tags)) == run_id:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temp = self._path.with_name(f"{self._path.name}.{uuid4().hex[:8]}")
        temp.write_text(json.dumps(known | {self._name(tags): run_id}, indent=1), encoding="utf-8")
        os.replace(temp, self._path)

    def _name(self, tags: Mapping[str, str]) -> str:
        return "/".join([self._uri, *(tags[name] for name in sorted(tags))])

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        try:
            known: dict[str, str] = json.loads(self._path.read_text(encoding="utf-8"))
        except ValueError:  # cut off by a full disk: ask the tracker
            return {}
        return known
