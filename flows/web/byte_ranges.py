"""The Range header of HTTP, as far as players of videos use it: one range of bytes."""

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class UnsatisfiableRangeError(ValueError):
    """The range begins behind the end of the file."""


def parse_range(header: str, num_bytes: int) -> tuple[int, int] | None:
    """Return (first byte, byte after the last) of a file; None for the whole of it: no range, or one we do not know.

    Raises:
        UnsatisfiableRangeError: no byte of the file is in the range.
    """
    found = _RANGE.fullmatch(header.strip().replace(" ", ""))
    if found is None or found.groups() == ("", ""):
        return None  # several ranges, or another unit: the whole file is a right answer
    first, last = found.groups()
    if not first:
        start, end = max(0, num_bytes - int(last)), num_bytes
    else:
        if last and int(last) < int(first):
            return None
        start, end = int(first), min(num_bytes, int(last) + 1 if last else num_bytes)
    if start >= end:
        raise UnsatisfiableRangeError(f"bytes {header!r} of a file of {num_bytes} bytes")
    return start, end
