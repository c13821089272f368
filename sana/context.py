"""What every stage gets beside its inputs."""

from dataclasses import dataclass
from pathlib import Path

from sana.config.pipeline import Config
from sana.progress import Report, noop
from sana.store import Store


@dataclass(frozen=True)
class Context:
    """One run's config, storage and listener.

    `read_only` forbids every write, caches included: it is what `plan` sets. `salt` is set for a forced stage: its
    pools and trajectories get another name, so that the work is done again and not looked up.
    """

    config: Config
    store: Store
    work_dir: Path
    report: Report = noop
    read_only: bool = False
    salt: str = ""

    def salted(self, key: str) -> str:
        """Return the key under which a forced run does its work; the key itself when nothing is forced."""
        return f"{key}-{self.salt}" if self.salt else key
