"""A map of numbers over steps and one more axis, such as noise levels, as tones of one colour."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from sana.report.drawing.axes import Floats
from sana.report.drawing.shapes import TOP, Chart, Shape, label, rounded
from sana.report.formatting import compact

_LEFT = 58  # margin: numbers of any size stand in it
_SCALE = 80  # width at the right for the scale of tones
_ROW = 22  # height
_PALEST = 0.06  # opacity of the lowest number, so that it is told from none


def heat_map(
    x: ArrayLike,
    rows: Sequence[str],
    values: ArrayLike,
    *,
    unit: str,
    x_unit: str = "step",
    row_unit: str = "",
    middle: float | None = None,
    width: int = 1060,
    max_columns: int = 120,
) -> Chart:
    """Draw numbers [len(x), len(rows)] as one column for each x, the first row at the bottom.

    Neighbours are put together where there are more than `max_columns`: a cell is then their mean, and says so.
    What is not finite is left empty. With a `middle`, such as a difference of 0, what is below and above it has two
    colours.
    """
    at = np.asarray(x, np.float64).reshape(-1)
    found = np.asarray(values, np.float64).reshape(len(at), len(rows))
    found = np.where(np.isfinite(found), found, np.nan)
    groups = np.array_split(np.arange(len(at)), min(max(1, max_columns), len(at))) if len(at) else []
    cells = np.array([_mean(found[group]) for group in groups]).reshape(len(groups), len(rows))
    right, top = width - _SCALE, TOP + 16
    height = top + _ROW * len(rows) + 40
    about = f"{unit} by {x_unit} and {row_unit or 'row'}"
    shapes = [label(2, top - 8, row_unit, "tick")]
    known = cells[np.isfinite(cells)]
    if not known.size:
        shapes.append(label((_LEFT + right) / 2, height / 2, "no number yet", "sub", "middle"))
        return Chart(width, height, f"{about}: no number yet", shapes)
    low, high = float(known.min()), float(known.max())
    broad = (right - _LEFT) / len(groups)
    for row, words in enumerate(rows):
        y = top + _ROW * (len(rows) - 1 - row)
        shapes.append(label(_LEFT - 7, y + _ROW / 2 + 4, words, "tick", "end"))
        for column, group in enumerate(groups):
            number = float(cells[column, row])
            if not np.isfinite(number):
                continue
            first, last = at[group[0]], at[group[-1]]
            when = f"{first:g}" if len(group) == 1 else f"{first:g} to {last:g}, mean of {len(group)}"
            tip = f"{number:.4g} {unit} at {row_unit} {words}, {x_unit} {when}"
            shapes.append(_cell(_LEFT + broad * column, y, broad, _ROW, number, (low, high), middle, tip))
    every = max(1, -(-50 // broad))
    for column in range(0, len(groups), int(every)):
        words = compact(at[groups[column][0]])
        shapes.append(label(_LEFT + broad * (column + 0.5), height - 22, words, "tick", "middle"))
    shapes.append(label((_LEFT + right) / 2, height - 5, x_unit, "tick", "middle"))
    shapes += _scale(low, high, middle, right + 14, top, _ROW * len(rows), unit)
    return Chart(width, height, f"{about}: from {low:.4g} to {high:.4g}", shapes)


def _mean(group: Floats) -> Floats:
    known = np.isfinite(group)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, group, 0.0).sum(axis=0) / known.sum(axis=0), np.float64)


def _cell(
    x: float,
    y: float,
    width: float,
    height: float,
    number: float,
    ends: tuple[float, float],
    middle: float | None,
    tip: str = "",
) -> Shape:
    low, high = ends
    if middle is None:
        kind, part = "heat", (number - low) / (high - low) if high > low else 1.0
    else:
        furthest = max(abs(low - middle), abs(high - middle))
        kind, part = ("heat above" if number > middle else "heat below"), abs(number - middle) / (furthest or 1.0)
    air = 1 if width > 8 else 0
    where = rounded({"x": x, "y": y, "width": width - air, "height": height - 1})
    tone = round(_PALEST + (1 - _PALEST) * part, 3)
    return Shape("rect", kind, {**where, "fill-opacity": tone}, tip=tip)


def _scale(low: float, high: float, middle: float | None, x: float, y: float, tall: float, unit: str) -> list[Shape]:
    """The tones beside the numbers that they mean, the highest on top."""
    numbers = np.linspace(high, low, 8)
    step = tall / len(numbers)
    found = [
        _cell(x, y + step * place, 10, step + 1, float(number), (low, high), middle)
        for place, number in enumerate(numbers)
    ]
    named = [(y + 9, high), (y + tall - 1, low)] if high > low else [(y + 9, high)]
    found += [label(x + 14, at, f"{number:.3g}", "tick") for at, number in named]
    return [*found, label(x + _SCALE - 16, y - 8, unit, "tick", "end")]
