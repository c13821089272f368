"""What `sana doctor` finds: a verdict per check, each made in a thread of its own with a time limit of its own."""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from sana.record import Record
from sana.wording import one_line

Verdict = Literal["ok", "warn", "fail"]
_ORDER: tuple[Verdict, ...] = ("ok", "warn", "fail")


@dataclass(frozen=True)
class Finding:
    """What one check found, in words, and what to do about it, "" where nothing is to be done."""

    verdict: Verdict
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warn(found: str, remedy: str) -> Finding:
    return Finding("warn", found, remedy)


def fail(found: str, remedy: str) -> Finding:
    return Finding("fail", found, remedy)


@dataclass(frozen=True)
class Check:
    """A check by its name. One that takes longer than `limit_s` is left behind, with the verdict `late`."""

    name: str
    run: Callable[[], Finding]
    limit_s: float
    late: Verdict = "warn"
    if_late: str = "run `sana doctor` again when the machine is less busy"


@dataclass(frozen=True)
class Line(Record):
    """One check as it is shown and written as JSON."""

    name: str
    verdict: Verdict
    found: str
    remedy: str
    seconds: float


@dataclass(frozen=True)
class Diagnosis(Record):
    """All lines in the order of the checks; `verdict` is the worst of theirs."""

    verdict: Verdict
    checks: tuple[Line, ...]


def diagnose(checks: Sequence[Check]) -> Diagnosis:
    """Make all checks at once. One that fails or hangs ends none of the others."""
    running = [_Running(check) for check in checks]
    for one in running:
        one.start()
    lines = tuple(one.line() for one in running)
    return Diagnosis(worst(line.verdict for line in lines), lines)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the verdicts, `ok` of none."""
    return _ORDER[max((_ORDER.index(verdict) for verdict in verdicts), default=0)]


class _Running:
    """A check at work in a thread that the process does not wait for when it ends."""

    def __init__(self, check: Check) -> None:
        self._check = check
        self._began = time.monotonic()
        self._found: tuple[Finding, float] | None = None
        self._thread = threading.Thread(target=self._run, name=f"doctor {check.name}", daemon=True)

    def start(self) -> None:
        self._began = time.monotonic()
        self._thread.start()

    def _run(self) -> None:
        try:
            found = self._check.run()
        except Exception as error:  # noqa: BLE001 - whatever a broken installation raises is what is looked for
            found = fail(f"the check itself broke: {one_line(error, with_type=True, most=300)}", "mend that first")
        self._found = (found, time.monotonic() - self._began)

    def line(self) -> Line:
        """Wait for the check, until its limit at most."""
        check = self._check
        self._thread.join(max(0.0, self._began + check.limit_s - time.monotonic()))
        late = Finding(check.late, f"no answer within {check.limit_s:g} s", check.if_late), check.limit_s
        found, seconds = self._found or late
        return Line(check.name, found.verdict, found.found, found.remedy, round(seconds, 3))
