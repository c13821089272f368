"""Numbers, and names from outside, as text for people. Nothing here is HTML: templates quote what they show."""

import math
import time

MAX_NAME_CHARS = 300


def name(value: str, limit: int = MAX_NAME_CHARS) -> str:
    """Escape characters that are unprintable or reverse the text; of a long text the middle is left out."""
    if len(value) > limit:
        value = f"{value[: limit // 2]} \u2026 {value[-(limit // 2) :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)


def lines(value: str) -> str:
    """Escape as `name` does, of a text of any length whose lines stay lines."""
    return "\n".join(name(line, len(line)) for line in value.splitlines())


def number(value: float) -> str:
    """Write a whole number with thousands separated: 1,234,567."""
    return f"{value:,.0f}"


def compact(value: float) -> str:
    """Write a number in at most five characters: 950, 12.3k, 1.2M."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= limit:
            scaled = value / (1e3 if unit == "k" else limit)
            return f"{scaled:.0f}{unit}" if scaled >= 100 else f"{scaled:.3g}{unit}"
    return f"{value:.4g}"


def percent(part: float, whole: float) -> str:
    """Write a fraction; never 0 % or 100 % of something that is not."""
    if not whole:
        return "0 %"
    value = 100.0 * part / whole
    if 0 < value < 0.1:
        return "< 0.1 %"
    if 99.9 < value < 100:
        return "> 99.9 %"
    written = f"{value:.1f}"
    return f"{value:.0f} %" if written in ("0.0", "100.0") else f"{written} %"


def size(num_bytes: float) -> str:
    """Write bytes in binary units."""
    if num_bytes < 1024:
        return f"{num_bytes:.0f} B"
    power = min(5, int(math.log(num_bytes, 1024)))
    scaled = num_bytes / 1024**power
    return f"{scaled:.0f} {'KMGTP'[power - 1]}iB" if scaled >= 100 else f"{scaled:.3g} {'KMGTP'[power - 1]}iB"


def hours(seconds: float) -> str:
    """Write seconds in hours, to a hundredth."""
    found = seconds / 3600
    return "< 0.01" if 0 < found < 0.01 else f"{found:,.2f}" if found < 100 else number(found)


def utc(seconds: float) -> str:
    """Write a time of the clock, seconds since 1970, to the minute."""
    return _strftime("%Y-%m-%d %H:%M UTC", seconds)


def clock(seconds: float) -> str:
    """Write a time of the clock, seconds since 1970, to the second."""
    return _strftime("%Y-%m-%d %H:%M:%S", seconds)


def _strftime(form: str, seconds: float) -> str:
    try:
        return time.strftime(form, time.gmtime(seconds))
    except (OverflowError, OSError, ValueError):  # no calendar has it: it was written by a mistaken clock, or another
        return "an unknown time"
