"""Curves in a terminal: braille dots, two by four in a character, or stars where there is no Unicode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille character, [row][column]
_BLANK = 0x2800
_LABEL = 8  # characters of a number at most
_MAX_POINTS = 4096  # of a line; a screen has some hundred columns


@dataclass(frozen=True)
class Line:
    """One line: `x` and `y` of equal length; what is not finite is a gap. Later lines lie over earlier ones."""

    x: Sequence[float]
    y: Sequence[float]
    style: str = ""


def plot(lines: Sequence[Line], width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
    """Draw lines into `height` rows of at most `width` characters: numbers at the left, the steps below.

    Empty where nothing can be drawn: no finite point, or too little room.
    """
    points = [_finite(line) for line in lines]
    kept = [(found, line.style) for found, line in zip(points, lines, strict=True) if found.shape[1]]
    if not kept or height < 3 or width < _LABEL + 8:
        return []
    x_min, x_max = _span([found[0] for found, _ in kept])
    y_min, y_max = _span([found[1] for found, _ in kept])
    top, bottom = number_text(y_max), number_text(y_min)
    margin = max(len(top), len(bottom))
    columns, rows = width - margin - 2, height - 1
    canvas = _Canvas(columns, rows, ascii_only=ascii_only)
    for found, style in kept:
        across, down = canvas.size
        places = np.stack([
            np.round((found[0] - x_min) / ((x_max - x_min) or 1.0) * (across - 1)),
            np.round((y_max - found[1]) / ((y_max - y_min) or 1.0) * (down - 1)),
        ]).astype(int)  # fmt: skip
        canvas.draw(places, style)
    bar = "|" if ascii_only else "\u2502"
    drawn = []
    for number, row in enumerate(canvas.lines()):
        label = top if number == 0 else bottom if number == rows - 1 else ""
        drawn.append(Text.assemble((f"{label:>{margin}}", "dim"), (f" {bar}", "dim"), row))
    first, last = f"{x_min:.0f}", f"{x_max:.0f}"
    steps = f"{first}{last:>{max(columns - len(first), len(last) + 1)}}" if x_max > x_min else first
    return [*drawn, Text(f"{'':{margin + 2}}{steps}", style="dim")]


def number_text(value: float) -> str:
    """Write a number in few characters: `0.6943`, `1.5`, `1.0e-05`."""
    text = f"{value:.4g}"
    return text if len(text) <= _LABEL else f"{value:.1e}"


class _Canvas:
    """Dots of a fixed size; `size` is (across, down) in dots."""

    def __init__(self, columns: int, rows: int, *, ascii_only: bool) -> None:
        self._columns, self._rows, self._ascii = columns, rows, ascii_only
        self.size = (columns, rows) if ascii_only else (columns * 2, rows * 4)
        self._cells = [[0] * columns for _ in range(rows)]
        self._styles = [[""] * columns for _ in range(rows)]

    def draw(self, places: NDArray[np.int64], style: str) -> None:
        """Draw a line through dots, int [2, points]: across and down."""
        across, down = (axis.tolist() for axis in places)
        self._dot(across[0], down[0], style)
        for x0, y0, x1, y1 in zip(across, down, across[1:], down[1:], strict=False):
            steps = max(abs(x1 - x0), abs(y1 - y0))
            for step in range(1, steps + 1):
                self._dot(x0 + round((x1 - x0) * step / steps), y0 + round((y1 - y0) * step / steps), style)

    def _dot(self, across: int, down: int, style: str) -> None:
        column, row = (across, down) if self._ascii else (across // 2, down // 4)
        self._cells[row][column] |= 1 if self._ascii else _DOTS[down % 4][across % 2]
        self._styles[row][column] = style

    def lines(self) -> list[Text]:
        drawn = []
        for cells, styles in zip(self._cells, self._styles, strict=True):
            line = Text()
            for cell, style in zip(cells, styles, strict=True):
                line.append(" " if not cell else "*" if self._ascii else chr(_BLANK + cell), style=style or None)
            line.rstrip()
            drawn.append(line)
        return drawn


def _finite(line: Line) -> NDArray[np.float64]:
    """Return the finite points, float64 [2, points], thinned to what can be seen."""
    found = np.array([line.x, line.y], dtype=np.float64).reshape(2, -1)
    found = found[:, np.isfinite(found).all(axis=0)]
    every = math.ceil(found.shape[1] / _MAX_POINTS) if found.shape[1] else 1
    return found[:, ::every]


def _span(axes: Sequence[NDArray[np.float64]]) -> tuple[float, float]:
    return min(float(axis.min()) for axis in axes), max(float(axis.max()) for axis in axes)
