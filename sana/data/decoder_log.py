"""What decoders complain of goes to the log, a line for each open file, with the file's name; never to the terminal.

libav's own lines name no file, and a damaged one may give thousands. This module imports no libav.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import get_ident

LIBAV = "libav"  # the logger, and the parent of those, that PyAV passes libav's lines to
MAX_LINES = 3  # of a file that are quoted; the others are counted
MAX_CHARS = 200  # of each

log = logging.getLogger(__name__)
_names: dict[str, str] = {}  # local path -> the clip's own, of fetched and unpacked files


@dataclass
class _Complaints:
    """Of one open file."""

    path: Path
    lines: list[str] = field(default_factory=list)
    number: int = 0

    def add(self, line: str) -> None:
        self.number += 1
        if len(self.lines) < MAX_LINES and line not in self.lines:
            self.lines.append(line)


_open: dict[int, _Complaints] = {}  # by the thread that opened it last


class _Handler(logging.Handler):
    """Takes libav's lines, which come in the thread that decodes."""

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.name.removeprefix(f'{LIBAV}.')}: {' '.join(record.getMessage().split())[:MAX_CHARS]}"
        found = _open.get(get_ident())
        if found is not None:
            found.add(line)
        else:
            log.info("libav: %s", line)


def install() -> None:
    """Take the lines of libav from now on, once."""
    libav = logging.getLogger(LIBAV)
    if not any(isinstance(handler, _Handler) for handler in libav.handlers):
        libav.propagate = False  # to the root's handlers, as warnings that name no file
        libav.setLevel(logging.ERROR)
        libav.addHandler(_Handler())


@contextmanager
def complaints_of(path: Path) -> Iterator[None]:
    """Log, at the end, what decoders complain of in this thread meanwhile."""
    thread, mine = get_ident(), _Complaints(path)
    outer = _open.get(thread)
    _open[thread] = mine
    try:
        yield
    finally:
        if outer is not None:
            _open[thread] = outer
        elif _open.get(thread) is mine:
            del _open[thread]
        if mine.number:
            more = f" and {mine.number - len(mine.lines)} more lines" if mine.number > len(mine.lines) else ""
            log.info("%s: %s%s", _names.get(str(path), str(path)), "; ".join(mine.lines), more)


@contextmanager
def called(path: Path, name: str) -> Iterator[None]:
    """Call a local file by the name of its clip: that of a fetched file says nothing."""
    _names[str(path)] = name
    try:
        yield
    finally:
        _names.pop(str(path), None)
