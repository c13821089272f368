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
