"""What messages are made of: numbers and lists in words, and addresses that may be shown."""

import re
from collections.abc import Sequence

_PER = ((1, "s"), (60, "min"), (3600, "h"))
_JOINERS = "\u200c\u200d"  # invisible, and part of emoji and of some scripts


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


def duration(seconds: float) -> str:
    """Write a time span in the two units that matter: `2.2 s`, `35 s`, `3 min 2 s`, `2 h 5 min`, `4 d 3 h`."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.5 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24:,} d {hours % 24} h"


def age(seconds: float) -> str:
    """Write a time span in one unit, for a glance: `45 s`, `12 min`, `2.5 h`, `20 d`; one to come is `0 s`."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.0f} d"


def clock(seconds: float) -> str:
    """Write seconds as a display counts them: `0:31` or `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def rate_text(per_s: float, unit: str) -> str:
    """Write a rate, by the minute or hour where it is slow: `3.9 steps/s`, `2.5 samples/min`; `3.9/s` without unit."""
    factor, each = next(((factor, each) for factor, each in _PER if per_s * factor >= 1), _PER[-1])
    number = f"{per_s * factor:.3g}" if per_s * factor < 1000 else f"{per_s * factor:.0f}"
    return f"{number} {unit}/{each}" if unit else f"{number}/{each}"


def without_password(text: str) -> str:
    """Remove user and password from an address, or from all addresses in a text."""
    return re.sub(r"((?:^|:)//)[^/\s]*@", r"\1", text)


def has_password(text: str) -> bool:
    """Whether a text is an address that holds a password or token: no name of a file or model has one."""
    user = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/\s]*)@", text)
    if user is not None and (":" in user[1] or text.lower().startswith(("http", "s3:"))):
        return True
    query = r"://[^\s]*[?&;](password|passwd|pwd|token|api_?key|secret|access_?token)=."
    return re.search(query, text, re.IGNORECASE) is not None


def one_line(error: BaseException | str, *, with_type: bool = False, most: int = 1000) -> str:
    """Return an error's text on one line, `most` characters of it; of an error without text its type."""
    text = " ".join(str(error).split())
    if isinstance(error, BaseException) and (with_type or not text):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def without_controls(text: str) -> str:
    """Return a text of others on one line, as a terminal shows it and does not obey it.

    Ends of lines and tabs become blanks; other control, direction and invisible characters question marks.
    """
    return "".join(char if char.isprintable() or char in _JOINERS else " " if char in "\n\t" else "?" for char in text)


def as_file_name(nickname: str) -> str:
    """Return a prompt's nickname as a file name: the quickstart's `<token>` becomes `_token_`."""
    return nickname.replace("<", "_").replace(">", "_")
