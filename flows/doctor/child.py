"""Run a probe in a child process within a time, whatever becomes of it."""

import signal
import subprocess
import sys
from typing import TypeVar

from flows.doctor.facts import ProbeFacts
from sana.record import DamagedRecordError
from sana.wording import one_line

_OF_PYDANTIC = "For further information visit"  # the last line of its errors
_LAST = 400  # characters of what a broken probe wrote last


class ProbeError(Exception):
    """The probe crashed, hung, or its library cannot be imported; the text says which."""


class ProbeLateError(ProbeError):
    """It has not answered in time: it hangs, or the machine is busy."""


Facts = TypeVar("Facts", bound=ProbeFacts)


def run_probe(kind: type[Facts], *, limit_s: float) -> Facts:
    """Return the facts that the probe of this kind prints. Raises ProbeError."""
    command = [sys.executable, "-m", "flows.doctor.probe", kind.PROBE]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise ProbeLateError(f"no answer within {limit_s:g} s") from None
    except OSError as error:
        raise ProbeError(f"no process can be started: {error.strerror}") from error
    if done.returncode < 0:
        raise ProbeError(f"it crashed ({_signal(-done.returncode)})")
    try:
        return kind.from_json(done.stdout.strip().splitlines()[-1], where="its answer")  # a library may print before it
    except (DamagedRecordError, IndexError):
        lines = done.stderr.strip().splitlines()
        said = (
            [line for line in lines if not line.lstrip().startswith(_OF_PYDANTIC)]
            or done.stdout.strip().splitlines()
            or [f"exit code {done.returncode}"]
        )
        raise ProbeError(one_line(said[-1], most=_LAST)) from None


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
