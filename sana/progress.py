"""Progress of long work, as data: the terminal, Prefect and MLflow each show it in their own way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """How far one stage is, `done` of `total` in `unit`; `metrics` are the rows that came since the last report."""

    done: int
    total: int
    unit: str
    detail: str = ""
    metrics: tuple[Mapping[str, float], ...] = field(default=())


Report = Callable[[Progress], None]


def silent(progress: Progress) -> None:
    """A report that nobody reads, for plans and tests."""


# Who watches a run from inside its process: called with (stage, state, progress). The command line's bars do.
listeners: list[Callable[[str, str, Progress | None], None]] = []


def publish(stage: str, state: str, progress: Progress | None = None) -> None:
    """Tell every listener that a stage is `running` (with how far), or `completed`, `cached` or `failed`."""
    for listener in listeners:
        listener(stage, state, progress)
