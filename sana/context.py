"""What every stage is given beside its inputs."""

from dataclasses import dataclass
from pathlib import Path

from sana.config.pipeline import Config
from sana.progress import Report, silent
from sana.store import Store


@dataclass(frozen=True)
class Context:
    """One run's config, places and ears. `read_only` forbids every write, caches included: it is what `plan` sets."""

    config: Config
    store: Store
    work_dir: Path
    report: Report = silent
    read_only: bool = False
