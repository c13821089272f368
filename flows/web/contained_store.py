"""The folder of a root as its page reads it: what a symbolic link leads out of it for is not there."""

import errno
import logging
import os
from functools import lru_cache
from pathlib import Path

from sana.store import LocalStore

_log = logging.getLogger(__name__)


class ContainedStore(LocalStore):
    """A root whose objects are in its folder, or in one that a whole stage was moved to by a link at the top.

    Whoever may write to a shared root could else have the page of another user read that user's files to them.
    """

    def uri(self, key: str) -> str:
        """Return where an object would be."""
        return str(super().local_path(key))

    def local_path(self, key: str) -> Path:
        """Return the file of an object. Raises FileNotFoundError: links lead out of the root on the way there."""
        path = super().local_path(key)
        places = (self.root, os.path.join(self.root, key.partition("/")[0]) if "/" in key else self.root)
        real = Path(os.path.realpath(path))
        if not any(real.is_relative_to(os.path.realpath(place)) for place in places):
            _say(f"{path}: a symbolic link leads out of the root there, so no page shows it")
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return path


@lru_cache(1000)
def _say(text: str) -> None:  # once, as pages read again and again
    _log.warning("%s", text)
