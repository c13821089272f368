"""A table of keys: each row is a key of theirs, the setting of ours that it gives, and how its value changes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sana.convert.conversion import Conversion, Keys


@dataclass(frozen=True)
class Run:
    """What is known of a run of SimpleTuner beside its config.json.

    `num_processes`: GPUs it had, which no file says; `folder`: where its config.json is; `datasets`: the data loader
    file's entries, and `where`: that file's path. `at`: what the names of our settings begin with; `entry`: the entry
    that is being read; `keep_clipping`: gradients are clipped as there, or not at all.
    """

    num_processes: int
    folder: Path
    datasets: Sequence[Mapping[str, Any]]
    where: str
    at: str = ""
    entry: Mapping[str, Any] = field(default_factory=dict)
    keep_clipping: bool = False


@dataclass(frozen=True)
class Row:
    """One setting of ours, from one key of theirs.

    `theirs`: the key; of several names between spaces the first that is there; empty for a setting that no key gives.
    `default`: the value where none is; its type says how the value is read, and with None there is no setting then.
    `change`: from their value to ours.
    """

    ours: str
    theirs: str
    default: bool | int | float | str | None
    why: str
    change: Callable[[Any], Any] | None = None

    def write(self, conversion: Conversion, keys: Keys, run: Run) -> None:
        """Raises ConfigError: the value is not of the kind that is needed."""
        key = next((key for key in self.theirs.split() if keys.has(key)), None)
        if key is None and self.default is None:
            return
        value = self.default if key is None else keys.like(key, self.default)
        changed = self.change(value) if self.change else value
        conversion.set(f"{run.at}{self.ours}", changed, self.why, *([] if key is None else [keys.name(key)]))


@dataclass(frozen=True)
class Group:
    """Keys of theirs that give settings of ours together, by a function."""

    theirs: str
    convert: Callable[[Conversion, Keys, Run], None]

    def write(self, conversion: Conversion, keys: Keys, run: Run) -> None:
        """Raises ConfigError: the values have no meaning together; names one."""
        self.convert(conversion, keys, run)


Table = Sequence[Row | Group]


def mapped_names(table: Table) -> list[str]:
    """Return every key that a table reads."""
    return [key for row in table for key in row.theirs.split()]


def at_least(least: float) -> Callable[[float], float]:
    """Return a change of a number to the nearest that is allowed; its type stays."""
    return lambda value: max(type(value)(least), value)
