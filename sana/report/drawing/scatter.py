"""Points on two axes of one scale."""

from collections.abc import Sequence
from dataclasses import dataclass

from sana.report.drawing.shapes import LEFT, TOP, Chart, Shape, grid_line, label, line, rect, rounded
from sana.report.histogram import nice_step


@dataclass(frozen=True)
class Mark:
    """A point of a scatter chart, in the units of its axes; `weight`: what the area of its disc shows."""

    x: float
    y: float
    tip: str
    weight: float = 0.0


def scatter(
    discs: Sequence[Mark], squares: Sequence[Mark], *, axes: str, about: str, width: int = 520, height: int = 340
) -> Chart:
    """Draw discs, and small outlined squares over them, on two axes of one scale from 0; at least one is there."""
    floor, right = height - 40, width - 14
    marks = [*discs, *squares]
    broad, tall = right - LEFT, floor - TOP
    scale = min(broad / (1.08 * max(mark.x for mark in marks)), tall / (1.08 * max(mark.y for mark in marks)))
    shapes: list[Shape] = []
    for tick in _ticks(broad / scale):
        x = LEFT + tick * scale
        shapes += [line(x, TOP, x, floor), label(x, height - 22, f"{tick:g}", "tick", "middle")]
    for tick in _ticks(tall / scale):
        shapes += grid_line(floor - tick * scale, f"{tick:g}", right)
    shapes.append(label(LEFT + broad / 2, height - 5, axes, "tick", "middle"))
    heaviest = max((mark.weight for mark in discs), default=1.0)
    for mark in discs:
        at = {"cx": LEFT + mark.x * scale, "cy": floor - mark.y * scale, "r": 3 + 17 * (mark.weight / heaviest) ** 0.5}
        shapes.append(Shape("circle", "disc", rounded(at), tip=mark.tip))
    for mark in squares:
        x, y = LEFT + mark.x * scale - 4, floor - mark.y * scale - 4
        shapes.append(rect("shape", x, y, 8, 8, tip=mark.tip))
    return Chart(width, height, about, shapes)


def _ticks(most: float) -> list[float]:
    step = nice_step(most / 6)
    return [step * place for place in range(int(most / step) + 1)]
