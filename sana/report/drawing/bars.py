"""Bars that stand: of a few counts by name, and histograms."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sana.report.drawing.shapes import LEFT, RIGHT, TOP, Chart, Shape, bar_height, grid_line, label, rect
from sana.report.formatting import compact, number
from sana.report.histogram import Histogram, nice_step

_CHAR = 7.0  # width of a digit below an axis


@dataclass(frozen=True)
class _Bar:
    x: float
    width: float
    value: int
    kind: str
    tip: str


def bars(values: Sequence[tuple[str, int]], *, unit: str, width: int = 520, height: int = 190) -> Chart:
    """Draw one bar for each (label, number); there are few."""
    step = (width - LEFT - RIGHT) / len(values)
    broad = min(step * 0.72, 56)
    found, ticks = [], []
    for place, (words, value) in enumerate(values):
        x = LEFT + step * (place + 0.5)
        found.append(_Bar(x - broad / 2, broad, value, "train", f"{words}: {number(value)} {unit}"))
        ticks.append((x, words))
    return _vertical_bars(found, ticks, f"{unit} by {', '.join(words for words, _ in values)}", width, height)


def columns(hist: Histogram, *, unit: str, counted: str, width: int = 520, height: int = 190) -> Chart:
    """Draw a histogram. Its last bin, where it is open, is drawn apart and named so."""
    step = min((width - LEFT - RIGHT) / len(hist.counts), 60)
    edges = [f"{edge:g}" for edge in hist.edges]
    found = []
    for place, value in enumerate(hist.counts.tolist()):
        is_open = hist.open_end and place == len(hist.counts) - 1
        bounds = f"{edges[place]} and more" if is_open else f"{edges[place]} to {edges[place + 1]}"
        tip = f"{bounds} {unit}: {number(value)} {counted}"
        found.append(_Bar(LEFT + step * place + 0.75, step - 1.5, value, "open" if is_open else "train", tip))
    if hist.open_end:
        edges[-1] = "more"
    needed = max(40.0, _CHAR * max(len(words) for words in edges) + 10)
    every = max(1, math.ceil(needed / step - 0.05))
    ticks = [(LEFT + step * place, edges[place]) for place in range(0, len(edges), every)]
    return _vertical_bars(found, ticks, f"{counted} by {unit}", width, height)


def _vertical_bars(
    found: Sequence[_Bar], ticks: Sequence[tuple[float, str]], about: str, width: float, height: float
) -> Chart:
    """Draw bars over about three lines at round numbers, the topmost not below the tallest bar."""
    highest = max(bar.value for bar in found)
    step = nice_step(highest / 3, at_least=1.0)
    num_lines = max(1, -(-highest // step))
    floor, tall = height - 26, height - 26 - TOP
    shapes: list[Shape] = []
    for line in range(round(num_lines) + 1):
        shapes += grid_line(floor - tall * line / num_lines, compact(line * step), width - RIGHT)
    for bar in found:
        up = bar_height(bar.value, num_lines * step, tall)
        shapes.append(rect(bar.kind, bar.x, floor - up, bar.width, up, radius=1.5, tip=bar.tip))
    shapes += [label(x, height - 8, words, "tick", "middle") for x, words in ticks]
    return Chart(width, height, about, shapes)
