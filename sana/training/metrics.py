"""What a step measures, until it is a row of `sana.metrics`, and the file of rows that is the source of truth.

What a step measures on the device stays there, as named Scalars, until a log window of steps is moved to the host. Each
says how it is reduced over ranks and micro batches, so a new metric is one line where it is measured.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from sana.metrics import Row


class Scalar(NamedTuple):
    """A float32 number on the device, and how it is reduced to one number per step.

    `sum`: this micro batch's part of a sum. `mean`: a mean over the samples of this micro batch. `ratio`: this micro
    batch's parts of two sums, [2], of which the first is divided by the second; a second of 0 gives no number. `equal`:
    a number of the whole step, equal on all ranks.
    """

    value: Tensor
    kind: Literal["sum", "mean", "ratio", "equal"]


def accumulate(scalars: dict[str, Scalar], micro: Mapping[str, Scalar], *, part: float) -> None:
    """Add a micro batch's scalars to the step's; `part` is its fraction of the global batch."""
    for name, (value, kind) in micro.items():
        value = value.detach() * part if kind == "mean" else value.detach()
        before = scalars.get(name)
        scalars[name] = Scalar(value if before is None or kind == "equal" else before.value + value, kind)


def to_host(
    steps: Sequence[Mapping[str, Scalar]], sum_over_ranks: Callable[[Tensor], Tensor]
) -> list[dict[str, float]]:
    """Move the scalars of several steps to the host: one collective that all ranks enter, and one device sync.

    All ranks must have measured the same names at each step, in the same order.
    """
    places = [(step, name) for step, scalars in enumerate(steps) for name in scalars]
    shared = [place for place in places if steps[place[0]][place[1]].kind != "equal"]
    equal = [place for place in places if steps[place[0]][place[1]].kind == "equal"]
    values = [_joined([steps[step][name] for step, name in some]) for some in (shared, equal) if some]
    if shared:
        values[0] = sum_over_ranks(values[0])
    numbers: list[dict[str, float]] = [{} for _ in steps]
    found = iter(torch.cat(values).tolist())
    for step, name in [*shared, *equal]:
        number = next(found)
        if steps[step][name].kind == "ratio":
            divisor = next(found)
            if divisor == 0:
                continue
            number /= divisor
        numbers[step][name] = number
    return numbers


def _joined(scalars: Sequence[Scalar]) -> Tensor:
    return torch.cat([one.value.float().reshape(-1) for one in scalars])


class MetricsWriter:
    """Appends rows to a local `metrics.jsonl`, and cuts the rows since the last checkpoint into a segment.

    `history` is the metrics of the checkpoint that training resumes from: it replaces a file whose last rows may be of
    steps that are now done again.
    """

    def __init__(self, path: Path, history: bytes = b"") -> None:
        self.path = path
        self._uncommitted: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(history)
        os.replace(temporary, path)

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows, whose values must be finite: JSON has no other numbers."""
        lines = [json.dumps(dict(row), allow_nan=False) + "\n" for row in rows]
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        self._uncommitted += lines

    def last_values(self, name: str, num_values: int) -> list[float]:
        """Return the last values of a metric that the file has, in order."""
        found: list[float] = []
        for line in reversed(self.path.read_bytes().splitlines()):
            row = json.loads(line)
            found += [row[name]] if name in row else []
            if len(found) == num_values:
                break
        return found[::-1]

    def cut_segment(self) -> bytes:
        """Return the rows since the last cut."""
        segment = "".join(self._uncommitted).encode()
        self._uncommitted.clear()
        return segment
