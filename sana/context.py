"""What every stage is given beside its inputs."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

from sana.config.pipeline import Config
from sana.progress import Report, noop
from sana.store import Store

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Context:
    """One run's config, its places, and where progress is reported to.

    `read_only` forbids every write, caches included: it is what `plan` sets. `salt` is set for a forced stage: pools
    and trajectories of another name are used, so that the work is really done again and not found.
    `opened` is what `once` keeps; None keeps nothing.
    """

    config: Config
    store: Store
    work_dir: Path
    report: Report = noop
    read_only: bool = False
    salt: str = ""
    opened: "dict[Callable[[Context], object], object] | None" = field(default=None, compare=False, repr=False)

    def salted(self, key: str) -> str:
        """Return the key under which a forced run does its work; the key itself when nothing is forced."""
        return f"{key}-{self.salt}" if self.salt else key

    def once(self, make: "Callable[[Context], _Made]") -> _Made:
        """Return `make(self)`; of a context that keeps what it opened, what it gave the first time.

        So planning and the stage after it see the same listing of a source, which is made once.
        """
        if self.opened is None:
            return make(self)
        if make not in self.opened:
            self.opened[make] = make(self)
        return cast(_Made, self.opened[make])

    def keeping_opened(self) -> "Context":
        """Return a context that keeps what it opens, until `forget_opened`; copies of it share that."""
        return replace(self, opened={})

    def forget_opened(self) -> None:
        """Forget what was kept: it is opened again when it is needed again."""
        if self.opened is not None:
            self.opened.clear()
