"""What messages are made of: numbers and lists in words, and addresses that may be shown."""

import re
from collections.abc import Sequence


def counted(number: int, noun: str) -> str:
    """Write `1 clip`, `2 clips`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def first_of(names: Sequence[str], total: int) -> str:
    """Write the first names of so many, and the number of the others: `a, b and 3 more`."""
    more = total - len(names)
    return ", ".join(names) + (f" and {more} more" if more > 0 else "")


def in_units(num_bytes: float) -> str:
    """Write a number of bytes as `12.3 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.1f} {unit}" if unit != "B" else f"{num_bytes:.0f} B"
        num_bytes /= 1024
    return f"{num_bytes:.1f} TiB"


def at_rate(num_bytes: float, seconds: float) -> str:
    """Write what was read or written in a time as `12.3 MiB in 2.0 s, 6.1 MiB/s`."""
    return f"{in_units(num_bytes)} in {seconds:.1f} s, {in_units(num_bytes / max(seconds, 1e-3))}/s"


def without_password(text: str) -> str:
    """Remove user and password from an address, or from all addresses in a text."""
    return re.sub(r"((?:^|:)//)[^/\s]*@", r"\1", text)


def one_line(error: BaseException | str, *, with_type: bool = False, most: int = 1000) -> str:
    """Return an error's text on one line, `most` characters of it; of an error without text its type."""
    text = " ".join(str(error).split())
    if isinstance(error, BaseException) and (with_type or not text):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_controls(text: str) -> str:
    """Return text that a terminal shows and does not obey: control and direction characters become question marks."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "?", text)


def as_file_name(nickname: str) -> str:
    """Return a prompt's nickname as a file name: the quickstart's `<token>` becomes `_token_`."""
    return nickname.replace("<", "_").replace(">", "_")
