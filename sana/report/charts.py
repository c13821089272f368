"""Charts for every page, as the shapes of an SVG: `draw` of parts.html.j2 makes markup of them.

Colours are classes of page.css, so that they follow its light or dark scheme. Lengths are pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sana.report.flow import Step
from sana.report.formatting import compact, number, percent
from sana.report.histogram import Histogram, nice_step

_LEAST = 1.5  # of a bar that is not zero, so that it is seen
_LEFT, _RIGHT, _TOP = 46, 16, 12  # margins; that below differs


@dataclass(frozen=True)
class Shape:
    """An element of an SVG: its class, its attributes, the text that it shows or that appears over it."""

    tag: str
    kind: str
    at: Mapping[str, object]
    words: str = ""
    tip: str = ""


@dataclass(frozen=True)
class Chart:
    """Shapes on a canvas; `about`: what is seen, for those who cannot."""

    width: float
    height: float
    about: str
    shapes: Sequence[Shape]


@dataclass(frozen=True)
class Mark:
    """A point of a scatter chart, in the units of its axes; `weight`: what the area of its disc shows."""

    x: float
    y: float
    tip: str
    weight: float = 0.0


@dataclass(frozen=True)
class _Bar:
    x: float
    width: float
    value: int
    kind: str
    tip: str


def bars(values: Sequence[tuple[str, int]], *, unit: str, width: int = 520, height: int = 190) -> Chart:
    """Draw one bar for each (label, number); there are few."""
    step = (width - _LEFT - _RIGHT) / len(values)
    broad = min(step * 0.72, 56)
    found, ticks = [], []
    for place, (label, value) in enumerate(values):
        x = _LEFT + step * (place + 0.5)
        found.append(_Bar(x - broad / 2, broad, value, "train", f"{label}: {number(value)} {unit}"))
        ticks.append((x, label))
    return _vertical_bars(found, ticks, f"{unit} by {', '.join(label for label, _ in values)}", width, height)


def columns(hist: Histogram, *, unit: str, counted: str, width: int = 520, height: int = 190) -> Chart:
    """Draw a histogram. Its last bin, where it is open, is drawn apart and named so."""
    step = min((width - _LEFT - _RIGHT) / len(hist.counts), 60)
    edges = [f"{edge:g}" for edge in hist.edges]
    found = []
    for place, value in enumerate(hist.counts.tolist()):
        is_open = hist.open_end and place == len(hist.counts) - 1
        bounds = f"{edges[place]} and more" if is_open else f"{edges[place]} to {edges[place + 1]}"
        tip = f"{bounds} {unit}: {number(value)} {counted}"
        found.append(_Bar(_LEFT + step * place + 0.75, step - 1.5, value, "open" if is_open else "train", tip))
    if hist.open_end:
        edges[-1] = "more"
    every = max(1, round(len(edges) * 40 / (step * len(found) + 1)))
    ticks = [(_LEFT + step * place, edges[place]) for place in range(0, len(edges), every)]
    return _vertical_bars(found, ticks, f"{counted} by {unit}", width, height)


def _vertical_bars(
    found: Sequence[_Bar], ticks: Sequence[tuple[float, str]], about: str, width: float, height: float
) -> Chart:
    """Draw bars over about three lines at round numbers, the topmost not below the tallest bar."""
    highest = max(bar.value for bar in found)
    step = nice_step(highest / 3, at_least=1.0)
    num_lines = max(1, -(-highest // step))
    floor, tall = height - 26, height - 26 - _TOP
    shapes: list[Shape] = []
    for line in range(round(num_lines) + 1):
        shapes += _grid_line(floor - tall * line / num_lines, compact(line * step), width - _RIGHT)
    for bar in found:
        up = _height(bar.value, num_lines * step, tall)
        shapes.append(_rect(bar.kind, bar.x, floor - up, bar.width, up, radius=1.5, tip=bar.tip))
    shapes += [_label(x, height - 8, words, "tick", "middle") for x, words in ticks]
    return Chart(width, height, about, shapes)


def scatter(
    discs: Sequence[Mark], squares: Sequence[Mark], *, axes: str, about: str, width: int = 520, height: int = 340
) -> Chart:
    """Draw discs, and small outlined squares over them, on two axes of one scale from 0; at least one is there."""
    floor, right = height - 40, width - 14
    marks = [*discs, *squares]
    broad, tall = right - _LEFT, floor - _TOP
    scale = min(broad / (1.08 * max(mark.x for mark in marks)), tall / (1.08 * max(mark.y for mark in marks)))
    shapes: list[Shape] = []
    for tick in _ticks(broad / scale):
        x = _LEFT + tick * scale
        shapes += [_line(x, _TOP, x, floor), _label(x, height - 22, f"{tick:g}", "tick", "middle")]
    for tick in _ticks(tall / scale):
        shapes += _grid_line(floor - tick * scale, f"{tick:g}", right)
    shapes.append(_label(_LEFT + broad / 2, height - 5, axes, "tick", "middle"))
    heaviest = max((mark.weight for mark in discs), default=1.0)
    for mark in discs:
        at = {"cx": _LEFT + mark.x * scale, "cy": floor - mark.y * scale, "r": 3 + 17 * (mark.weight / heaviest) ** 0.5}
        shapes.append(Shape("circle", "disc", _rounded(at), tip=mark.tip))
    for mark in squares:
        x, y = _LEFT + mark.x * scale - 4, floor - mark.y * scale - 4
        shapes.append(_rect("shape", x, y, 8, 8, tip=mark.tip))
    return Chart(width, height, about, shapes)


def flow(steps: Sequence[Step], *, end: str, width: int = 1060) -> Chart:
    """Draw the stages as bars as tall as what came in: what is kept runs to the next, what is rejected bends down.

    `end`: the name of what is left after the last.
    """
    most = max(1, *(max(step.num_in, step.num_next) for step in steps))
    top, tall, node = 62, 150, 12
    gap = min(330.0, (width - 90) / len(steps))
    shapes: list[Shape] = []
    for place, step in enumerate(steps):
        x = 2 + gap * place
        shapes += [_label(x, 18, step.stage, "name"), _label(x, 38, f"{number(step.num_in)} in", "sub")]
        kept = _height(step.num_out, most, tall)
        rejected = _height(step.num_rejected, most, tall)
        if step.num_out:
            arrives = _height(step.num_next, most, tall)
            shapes.append(_band(x + node, top, kept, x + gap, arrives, f"{number(step.num_out)} kept"))
        if step.num_rejected:
            shapes.append(_rejected_band(x + node, top + kept, rejected, top + tall + 34, gap, step))
        for line, (reason, num) in enumerate(step.rejected.items()):
            shapes.append(_label(x + node + 8, top + tall + 54 + 19 * line, f"{number(num)} {reason}", "reason"))
        came_in = max(kept + rejected, _height(step.num_in, most, tall))
        shapes.append(_rect("node", x, top, node, came_in, radius=3))
    x, left = 2 + gap * len(steps), steps[-1].num_next
    shapes.append(_rect("node", x, top, node, max(_LEAST, _height(left, most, tall)), radius=3))
    shapes += [_label(x, 18, end, "name"), _label(x, 38, number(left), "sub")]
    rows = max(len(step.rejected) for step in steps)
    about = "; ".join(f"{s.stage}: {s.num_in} in, {s.num_out} out, {s.num_rejected} rejected" for s in steps)
    return Chart(width, top + tall + (44 + 19 * rows if rows else 12), about, shapes)


def _band(x: float, y: float, tall: float, end: float, end_tall: float, tip: str) -> Shape:
    middle, foot, end_foot = (x + end) / 2, y + tall, y + end_tall
    path = (
        f"M{x:.1f} {y:.1f}H{end:.1f}V{end_foot:.1f}"
        f"C{middle:.1f} {end_foot:.1f} {middle:.1f} {foot:.1f} {x:.1f} {foot:.1f}Z"
    )
    return Shape("path", "band", {"d": path}, tip=tip)


def _rejected_band(x: float, y: float, thick: float, floor: float, gap: float, step: Step) -> Shape:
    """A band that leaves to the right and bends down to the list of reasons."""
    wide = min(thick, gap * 0.4)
    left = x + 14
    path = (
        f"M{x:.1f} {y:.1f}H{left:.1f}Q{left + wide:.1f} {y:.1f} {left + wide:.1f} {y + max(wide, 8):.1f}"
        f"V{floor:.1f}H{left:.1f}V{y + thick + 4:.1f}Q{left:.1f} {y + thick:.1f} {left - 4:.1f} {y + thick:.1f}"
        f"H{x:.1f}Z"
    )
    tip = f"{number(step.num_rejected)} rejected, {percent(step.num_rejected, step.num_in)} of {number(step.num_in)}"
    return Shape("path", "rejected soft", {"d": path}, tip=tip)


def _height(num: float, most: float, tall: float) -> float:
    return max(_LEAST, tall * num / most) if num else 0.0


def _ticks(most: float) -> list[float]:
    step = nice_step(most / 6)
    return [step * place for place in range(int(most / step) + 1)]


def _grid_line(y: float, words: str, right: float) -> list[Shape]:
    """A line of the grid, and its number at its left."""
    return [_line(_LEFT, y, right, y), _label(_LEFT - 7, y + 4, words, "tick", "end")]


def _rect(kind: str, x: float, y: float, width: float, height: float, *, radius: float = 0, tip: str = "") -> Shape:
    return Shape("rect", kind, _rounded({"x": x, "y": y, "width": width, "height": height, "rx": radius}), tip=tip)


def _line(x1: float, y1: float, x2: float, y2: float) -> Shape:
    return Shape("line", "grid", _rounded({"x1": x1, "y1": y1, "x2": x2, "y2": y2}))


def _label(x: float, y: float, words: str, kind: str, anchor: str = "start") -> Shape:
    return Shape("text", kind, {**_rounded({"x": x, "y": y}), "text-anchor": anchor}, words)


def _rounded(places: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(place), 1) for name, place in places.items()}
