"""Shapes of an SVG, which `draw` of parts.html.j2 makes markup of, and the few that every chart is made of.

Colours are classes of page.css, so that they follow its light or dark scheme. Lengths are pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEAST = 1.5  # of a bar that is not zero, so that it is seen
LEFT, RIGHT, TOP = 46, 16, 12  # margins; that below differs


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


def bar_height(num: float, most: float, tall: float) -> float:
    return max(LEAST, tall * num / most) if num else 0.0


def grid_line(y: float, words: str, right: float, *, left: float = LEFT) -> list[Shape]:
    """A line of the grid, and its number at its left."""
    return [line(left, y, right, y), label(left - 7, y + 4, words, "tick", "end")]


def rect(kind: str, x: float, y: float, width: float, height: float, *, radius: float = 0, tip: str = "") -> Shape:
    return Shape("rect", kind, rounded({"x": x, "y": y, "width": width, "height": height, "rx": radius}), tip=tip)


def line(x1: float, y1: float, x2: float, y2: float) -> Shape:
    return Shape("line", "grid", rounded({"x1": x1, "y1": y1, "x2": x2, "y2": y2}))


def label(x: float, y: float, words: str, kind: str, anchor: str = "start") -> Shape:
    return Shape("text", kind, {**rounded({"x": x, "y": y}), "text-anchor": anchor}, words)


def rounded(places: Mapping[str, float]) -> dict[str, float]:
    return {name: round(float(place), 1) for name, place in places.items()}
