"""The charts of all pages, under one name for templates; `draw` of parts.html.j2 makes SVG of their shapes."""

from sana.report.drawing.bars import bars, columns
from sana.report.drawing.flow import flow
from sana.report.drawing.heat_map import heat_map
from sana.report.drawing.lines import Series, StepMark, lines, smoothed
from sana.report.drawing.scatter import Mark, scatter
from sana.report.drawing.shapes import Chart, Shape

__all__ = [
    "Chart",
    "Mark",
    "Series",
    "Shape",
    "StepMark",
    "bars",
    "columns",
    "flow",
    "heat_map",
    "lines",
    "scatter",
    "smoothed",
]
