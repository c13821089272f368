"""Curves over steps or time: several series, bands of error, marks of what happened, axes with units and a legend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from sana.report.drawing.axes import Axis, Floats, axis
from sana.report.drawing.shapes import RIGHT, TOP, Chart, Shape, grid_line, label, line, rounded
from sana.report.drawing.thinning import thinned
from sana.report.formatting import name as one_line

COLOURS = ("train", "eval", "good", "rejected", "magenta", "teal", "node")  # in the order in which series take them
_LEFT = 58  # margin: numbers of any size stand in it
_DASHES = 5  # ways to dash a line: of the second curve, the third ..., so that colours alone tell nothing
_KEY = 28  # width of a line in the legend: a whole dash of each kind
_FEW = 60  # points of a series, up to which each is a disc that tells its numbers
_CHAR = 7.2  # width of a legend's character; less than what any font needs would let names overlap
_BROAD, _BROAD_CHAR = 800, 8.6  # a chart that is broader has larger letters on a small screen
_MAX_STEP_MARKS = 200
_MAX_NAME_CHARS = 48


@dataclass(frozen=True)
class Series:
    """One curve. `error`: half the height of the band around it, such as a standard error; not finite, there is none.

    `colour`: one of COLOURS, or "" for the next that no other has; `faint`: behind the others, such as unsmoothed
    numbers, and not in the legend. `y` that is not finite is a gap.
    """

    name: str
    x: ArrayLike
    y: ArrayLike
    error: ArrayLike | None = None
    colour: str = ""
    faint: bool = False


@dataclass(frozen=True)
class StepMark:
    """Something that happened at an x. `kind`: a tick at the bottom, a line across, or a line that means trouble."""

    x: float
    name: str  # of all of its kind, in the legend
    tip: str = ""
    kind: Literal["tick", "across", "trouble"] = "tick"


@dataclass(frozen=True)
class _Curve:
    """A series as numbers in the order of x, which is finite; its name is one line; `dash`: "" or the class of one."""

    name: str
    x: Floats
    y: Floats
    error: Floats
    colour: str
    faint: bool
    dash: str


def lines(
    series: Sequence[Series],
    *,
    x_unit: str = "step",
    y_unit: str = "",
    marks: Sequence[StepMark] = (),
    log_x: bool = False,
    log_y: bool = False,
    from_zero: bool = False,
    width: int = 520,
    height: int = 260,
) -> Chart:
    """Draw curves on one pair of axes, thinned to what this width shows: lowest and highest numbers stay.

    On a logarithmic axis what is not above 0 has no place. `from_zero`: the vertical axis begins at 0.
    """
    curves = _curves(series)
    legend, top = _legend(curves, marks, width)
    top += 16 if y_unit else 0
    floor, right = height - 40, width - RIGHT
    across = axis(_joined([curve.x for curve in curves]), _LEFT + 6, right - 6, log=log_x)
    up = _vertical(curves, floor, top, log=log_y, from_zero=from_zero)
    shapes: list[Shape] = list(legend)
    if y_unit:
        shapes.append(label(2, top - 8, y_unit, "tick"))
    for y, words in up.ticks():
        shapes += grid_line(y, words, right, left=_LEFT)
    for x, words in across.ticks(max(2, width // 90)):
        shapes += [line(x, floor, x, floor + 4), label(x, floor + 17, words, "tick", "middle")]
    shapes.append(label((_LEFT + right) / 2, height - 6, x_unit, "tick", "middle"))
    shapes += _step_marks(marks, across, top, floor)
    drawn = [shape for curve in curves for shape in _drawn(curve, across, up, width)]
    if not drawn:
        shapes.append(label((_LEFT + right) / 2, (top + floor) / 2, "no number yet", "sub", "middle"))
    shapes += sorted(drawn, key=lambda shape: shape.tag == "circle")  # over all lines: the discs that tell numbers
    return Chart(width, height, _about(curves, x_unit, y_unit), shapes)


def smoothed(y: ArrayLike, window: int) -> Floats:
    """Return the mean of the finite ones of the last `window` numbers; NaN where the number itself is not finite."""
    values = np.asarray(y, np.float64)
    finite = np.isfinite(values)
    totals, counts = np.cumsum(np.where(finite, values, 0.0)), np.cumsum(finite)
    before = np.arange(len(values)) - max(1, window)
    early = np.where(before >= 0, totals[before], 0.0), np.where(before >= 0, counts[before], 0)
    return np.where(finite, (totals - early[0]) / np.maximum(1, counts - early[1]), np.nan)


def _curves(series: Sequence[Series]) -> list[_Curve]:
    free = [colour for colour in COLOURS if colour not in {one.colour for one in series}] or list(COLOURS)
    found: list[_Curve] = []
    for one in series:
        colour = one.colour or free[sum(not before.colour for before in series[: len(found)]) % len(free)]
        x, y = (np.asarray(values, np.float64).reshape(-1) for values in (one.x, one.y))
        error = np.full(len(y), np.nan) if one.error is None else np.asarray(one.error, np.float64).reshape(-1)
        order = np.argsort(x, kind="stable")
        order = order[np.isfinite(x[order])]
        text = one_line(one.name, _MAX_NAME_CHARS)
        named = sum(not before.faint for before in found)
        dash = f" dash{(named - 1) % _DASHES + 1}" if named and not one.faint else ""
        found.append(_Curve(text, x[order], y[order], error[order], colour, one.faint, dash))
    return sorted(found, key=lambda curve: not curve.faint)


def _joined(numbers: Sequence[Floats]) -> Floats:
    return np.concatenate([np.zeros(0), *numbers])


def _vertical(curves: Sequence[_Curve], floor: float, top: float, *, log: bool, from_zero: bool) -> Axis:
    bands = [np.nan_to_num(curve.error, nan=0.0, posinf=0.0) for curve in curves]
    ends = [curve.y + sign * band for curve, band in zip(curves, bands, strict=True) for sign in (-1, 1)]
    found = axis(_joined([*ends, *(curve.y for curve in curves)]), floor, top, log=log, air=0.05)
    return Axis(0.0, found.high, floor, top) if from_zero and not log and found.high > 0 else found


def _drawn(curve: _Curve, across: Axis, up: Axis, width: int) -> list[Shape]:
    """The band and the line of one curve, in pieces where it has gaps; a point by itself is a disc."""
    if not len(curve.x):
        return []
    x, y = across.at(curve.x), up.at(curve.y)
    seen = np.isfinite(x)
    pieces = thinned(x[seen], y[seen], columns=max(1, width - _LEFT - RIGHT))
    of = np.flatnonzero(seen)
    tone = f"{curve.colour} faint" if curve.faint else curve.colour
    few = sum(len(piece) for piece in pieces) <= _FEW and not curve.faint
    found: list[Shape] = []
    for kept in pieces:
        at = of[kept]
        low, high = up.at(curve.y[at] - curve.error[at]), up.at(curve.y[at] + curve.error[at])
        if up.log:
            low = np.where(np.isnan(low) & np.isfinite(high), up.start, low)  # down to 0, which is below the axis
        if np.isfinite(low).any():
            found += _band(x[at], low, high, curve.colour)
        if len(at) > 1:
            path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in zip(x[at], y[at], strict=True))
            found.append(Shape("path", f"line {tone}{curve.dash}", {"d": path}, tip=curve.name))
        for place in at if few or len(at) == 1 else ():
            spread = f" \u00b1 {curve.error[place]:.3g}" if np.isfinite(curve.error[place]) else ""
            tip = f"{curve.name}: {curve.y[place]:.5g}{spread} at {curve.x[place]:g}"
            where = rounded({"cx": x[place], "cy": y[place], "r": 3})
            found.append(Shape("circle", f"dot {tone}", where, tip=tip))
    return found


def _band(x: Floats, low: Floats, high: Floats, colour: str) -> list[Shape]:
    """The band of a piece wherever it has an error; a bar where a neighbour has none."""
    known = np.isfinite(low) & np.isfinite(high)
    found = []
    for run in np.split(np.arange(len(x)), np.flatnonzero(np.diff(known)) + 1):
        if not known[run[0]]:
            continue
        if len(run) == 1:
            px = x[run[0]]
            path = f"M{px:.1f} {low[run[0]]:.1f}V{high[run[0]]:.1f}"
            found.append(Shape("path", f"line {colour}", {"d": path}))
            continue
        there = [f"{px:.1f} {py:.1f}" for px, py in zip(x[run], high[run], strict=True)]
        back = [f"{px:.1f} {py:.1f}" for px, py in zip(x[run][::-1], low[run][::-1], strict=True)]
        found.append(Shape("path", f"error {colour}", {"d": "M" + "L".join([*there, *back]) + "Z"}))
    return found


def _step_marks(marks: Sequence[StepMark], across: Axis, top: float, floor: float) -> list[Shape]:
    every = -(-len(marks) // _MAX_STEP_MARKS) or 1
    found = []
    for mark in marks[::every]:
        x = float(across.at(mark.x))
        if np.isfinite(x) and across.start <= x <= across.end:
            y = floor - 7 if mark.kind == "tick" else top
            ends = rounded({"x1": x, "y1": y, "x2": x, "y2": floor})
            found.append(Shape("line", f"mark {mark.kind}", ends, tip=mark.tip or f"{mark.name} at {mark.x:g}"))
    return found


def _legend(curves: Sequence[_Curve], marks: Sequence[StepMark], width: int) -> tuple[list[Shape], float]:
    """The names with their colours, in as many rows as they need; none for one curve without marks. Its height."""
    named = [(curve.name, f"line {curve.colour}{curve.dash}") for curve in curves if not curve.faint]
    named += list({mark.name: (one_line(mark.name, _MAX_NAME_CHARS), f"mark {mark.kind}") for mark in marks}.values())
    if len(named) < 2:
        return [], TOP
    x, y, found = float(_LEFT), 12.0, list[Shape]()
    char = _BROAD_CHAR if width > _BROAD else _CHAR
    for words, kind in named:
        key = 16 if kind.startswith("mark") else _KEY
        needed = key + 6 + char * len(words)
        if x + needed > width and x > _LEFT:
            x, y = float(_LEFT), y + 17
        ends = {"x1": x, "y1": y, "x2": x + key, "y2": y}
        if kind.startswith("mark"):
            ends = {"x1": x + 8, "y1": y - 6, "x2": x + 8, "y2": y + 6}
        found += [Shape("line", kind, rounded(ends)), label(x + key + 6, y + 4, words, "legend")]
        x += needed + 16
    return found, y + 8 + TOP


def _about(curves: Sequence[_Curve], x_unit: str, y_unit: str) -> str:
    told = []
    for curve in curves:
        finite = curve.y[np.isfinite(curve.y)]
        if len(finite) and not curve.faint:
            told.append(f"{curve.name} from {finite[0]:.4g} to {finite[-1]:.4g}, lowest {finite.min():.4g}")
    return f"{y_unit or 'value'} by {x_unit}: {'; '.join(told) or 'no number yet'}"
