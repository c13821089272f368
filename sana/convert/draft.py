"""What a conversion is made of: keys that are read once and accounted for, and the lines they become."""

import difflib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from sana.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """One knob of ours: dotted key, value, why it is so, and the keys of theirs it was made from."""

    key: str
    value: Any
    why: str
    theirs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """One key of theirs that is not carried over: why, and what is used instead."""

    key: str
    value: Any
    why: str


@dataclass
class Draft:
    """A conversion under way. Every key of theirs ends in exactly one of `lines`, `left` and `unknown`."""

    lines: list[Line] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    unknown: list[Left] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)  # ids of the data loader file's entries

    def set(self, key: str, value: Any, why: str, *theirs: str) -> None:
        """Give one of our knobs a value; `theirs` are the keys it comes from."""
        self.lines.append(Line(key, value, why, theirs))

    def merge(self, key: str, *theirs: str) -> None:
        """Say that a knob that has its value comes from these keys too."""
        at = next(number for number, line in enumerate(self.lines) if line.key == key)
        self.lines[at] = replace(self.lines[at], theirs=(*self.lines[at].theirs, *theirs))

    def short(self, key: str) -> str:
        """Return a key of theirs without the id of its entry."""
        owners = [f"{entry}." for entry in self.entries if key.startswith(f"{entry}.")]
        return key.removeprefix(max(owners, key=len, default=""))

    def leave(self, key: str, value: Any, why: str) -> None:
        """Say why a key of theirs is not carried over."""
        self.left.append(Left(key, value, why))


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
        """Return the value as it stands, or `default` where there is none."""
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

    def integer(self, key: str, default: int) -> int:
        """Raises ConfigError: it is not a whole number."""
        return self._number(key, default, int)

    def number(self, key: str, default: float) -> float:
        """Raises ConfigError: it is not a number."""
        return self._number(key, default, float)

    def section(self, key: str) -> "Keys":
        """Return the object below a key; empty where there is none.

        Raises:
            ConfigError: something else stands there.
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


def account(
    draft: Draft, keys: Keys, known: Mapping[str, str], prefixes: Mapping[str, str], mapped: Collection[str]
) -> None:
    """Put every key that nobody took among those left, with its reason, or among the unknown, with the nearest known.

    `known` and `prefixes` say why keys, and families of keys, are left; `mapped` are the names that could be meant.
    """
    for name, value in keys.rest().items():
        if not keys.has(name):
            draft.leave(keys.name(name), value, "has no value")
            continue
        family = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
        if name in known:
            draft.leave(keys.name(name), value, known[name])
        elif name in mapped:
            draft.leave(keys.name(name), value, "has no meaning beside the other keys here")
        elif family is not None:
            draft.leave(keys.name(name), value, prefixes[family])
        else:
            near = difflib.get_close_matches(name, [*known, *mapped], n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "nothing known is near it"
            draft.unknown.append(Left(keys.name(name), value, hint))
