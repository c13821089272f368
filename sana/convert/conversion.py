"""What a conversion is made of: keys that are read once and accounted for, and the lines they become."""

import difflib
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sana.convert.unsupported_keys import FAMILIES, family_of
from sana.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """One setting of ours: dotted key, value, why it is so, and the keys of theirs it was made from."""

    key: str
    value: Any
    why: str
    theirs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unmapped:
    """One key of theirs that is no setting of ours: why, and what is used instead."""

    name: str
    value: Any
    why: str


@dataclass
class Conversion:
    """A conversion under way. Every key of theirs ends in exactly one of `settings`, `not_carried` and `unknown`."""

    settings: list[Setting] = field(default_factory=list)
    not_carried: list[Unmapped] = field(default_factory=list)
    unknown: list[Unmapped] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)  # ids of the data loader file's entries
    notes: list[str] = field(default_factory=list)  # what is otherwise than the keys say, in a few words each

    def set(self, key: str, value: Any, why: str, *theirs: str) -> None:
        """Give one of our settings a value; `theirs` are the keys it comes from."""
        self.settings.append(Setting(key, value, why, theirs))

    def merge(self, key: str, *theirs: str) -> None:
        """Say that a setting that has its value comes from these keys too."""
        at = next(number for number, setting in enumerate(self.settings) if setting.key == key)
        self.settings[at] = replace(self.settings[at], theirs=(*self.settings[at].theirs, *theirs))

    def change(self, key: str, value: Any, why: str) -> None:
        """Give a setting that has a value another one, for what it does not go with."""
        at = next(number for number, setting in enumerate(self.settings) if setting.key == key)
        self.settings[at] = replace(self.settings[at], value=value, why=why)

    def leave_out(self, name: str, value: Any, why: str) -> None:
        """Say why a key of theirs is not carried over."""
        self.not_carried.append(Unmapped(name, value, why))

    def value(self, key: str) -> Any:
        """Return the value that one of our settings has; None where it has none yet."""
        return next((setting.value for setting in self.settings if setting.key == key), None)

    def short(self, name: str) -> str:
        """Return a key of theirs without the id of its entry."""
        owners = [f"{entry}." for entry in self.entries if name.startswith(f"{entry}.")]
        return name.removeprefix(max(owners, key=len, default=""))


class Keys:
    """A JSON object of theirs: `take` reads a key, and `rest` gives those that nobody took.

    SimpleTuner takes command-line names too, so leading dashes are dropped. `where` names the object in messages.
    """

    def __init__(self, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
        self._values = {name.lstrip("-"): value for name, value in values.items()}
        self._taken: set[str] = set()
        self.where = where
        self.prefix = prefix

    def name(self, key: str) -> str:
        """The key as messages name it: `disney.repeats` of a data set."""
        return f"{self.prefix}{key}"

    def has(self, key: str) -> bool:
        """Return whether the key is there with a value."""
        return self._values.get(key) not in (None, "")

    def present(self, *keys: str) -> list[str]:
        """Return those of these keys that are there, as messages name them."""
        return [self.name(key) for key in keys if self.has(key)]

    def take(self, key: str, default: Any = None) -> Any:
        """Return the value as it is written, or `default` where there is none."""
        self._taken.add(key)
        return self._values[key] if self.has(key) else default

    def text(self, key: str, default: str = "") -> str:
        return str(self.take(key, default))

    def flag(self, key: str, default: bool = False) -> bool:
        """Return true or false; SimpleTuner also takes the words.

        Raises:
            ConfigError: it is neither.
        """
        value = self.take(key, default)
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if str(value).lower() not in words:
            raise ConfigError(f"{self.where}: {key} is {value!r}, not true or false")
        return words[str(value).lower()]

    def like(self, key: str, default: bool | int | float | str | None) -> Any:
        """Return the value, read as what `default` is; with None as text.

        Raises:
            ConfigError: it is not of that kind.
        """
        if isinstance(default, bool):
            return self.flag(key, default)
        if isinstance(default, int | float):
            return self._number(key, default, type(default))
        return self.text(key, default or "")

    def integer(self, key: str, default: int) -> int:
        """Raises ConfigError: it is not a whole number."""
        return self._number(key, default, int)

    def number(self, key: str, default: float) -> float:
        """Raises ConfigError: it is not a number."""
        return self._number(key, default, float)

    def section(self, key: str) -> "Keys":
        """Return the object below a key; empty where there is none.

        Raises:
            ConfigError: something else is there.
        """
        value = self.take(key, {})
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self.where}: {key} is {value!r}, not an object in braces")
        return Keys(value, f"{self.where}: {key}", f"{self.name(key)}.")

    def names(self) -> list[str]:
        return list(self._values)

    def rest(self) -> dict[str, Any]:
        """Return what nobody took, and what has no value."""
        return {name: value for name, value in self._values.items() if name not in self._taken or not self.has(name)}

    def _number(self, key: str, default: T, kind: Callable[[Any], T]) -> T:
        value = self.take(key, default)
        try:
            number = kind(value)
            changed = float(number) != float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):  # Infinity is no int, and 400 digits are no float
            raise ConfigError(f"{self.where}: {key} is {value!r}, not a number") from None
        if isinstance(value, bool) or changed:
            raise ConfigError(f"{self.where}: {key} is {value!r}, not a {'whole ' if kind is int else ''}number")
        return number


def account(conversion: Conversion, keys: Keys, mapped: Collection[str], rest: str = "") -> None:
    """Put every key that nobody took among those not carried over, with its reason, or among the unknown.

    `mapped`: the keys that are read from this object; `rest`: the reason of all others, where their names are free.
    An unknown key has the nearest known name beside it.
    """
    for key, value in keys.rest().items():
        family = family_of(key)
        reason = rest or (family.reason if family else "")
        if not keys.has(key):
            conversion.leave_out(keys.name(key), value, "has no value")
        elif key in mapped:
            conversion.leave_out(keys.name(key), value, "has no meaning beside the other keys here")
        elif reason:
            conversion.leave_out(keys.name(key), value, reason)
        else:
            known = [*(name for family in FAMILIES for name in family.names), *mapped]
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "nothing known is near it"
            conversion.unknown.append(Unmapped(keys.name(key), value, hint))


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ConfigError: it is missing, not readable or not JSON; names the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not valid JSON: line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path} is not valid JSON: brackets are nested too deep; is one left open?") from None
