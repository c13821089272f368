"""Charts of curves and maps: nothing that stands out is thinned away, no line is drawn where there is no number."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.report import charts
from sana.report.charts import Chart, Series, StepMark, columns, heat_map, lines, smoothed
from sana.report.drawing.axes import axis
from sana.report.drawing.thinning import thinned
from sana.report.histogram import histogram
from sana.report.html import environment
from tests.report_pages import Page

pytestmark = pytest.mark.timeout(60)

PARTS = environment().get_template("parts.html.j2").module
HOSTILE = """<b>"' onload=x>&amp;"""
numbers = st.one_of(st.floats(-1e6, 1e6), st.just(math.nan), st.just(math.inf), st.just(-math.inf))


def words_of(chart: Chart) -> list[str]:
    return [shape.words for shape in chart.shapes if shape.words]


def paths_of(chart: Chart, kind: str) -> list[list[tuple[float, float]]]:
    """The points of each path of a class, in pixels."""
    found = [str(shape.at["d"]) for shape in chart.shapes if shape.tag == "path" and shape.kind.startswith(kind)]
    return [[(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)] for path in found]


@given(y=st.lists(numbers, max_size=300), columns=st.integers(1, 20))
def test_thinning_keeps_the_extremes_the_ends_and_the_gaps(y: list[float], columns: int) -> None:
    x, values = np.arange(len(y), dtype=np.float64), np.array(y, np.float64)
    pieces = thinned(x, values, columns=columns)
    finite = np.isfinite(values)
    kept = [place for piece in pieces for place in piece.tolist()]
    assert kept == sorted(set(kept)) and all(finite[kept]) and bool(kept) == finite.any()
    assert len(kept) <= max(4 * columns, 0) or finite.sum() <= 4 * columns
    if kept:
        assert {kept[0], kept[-1]} == {int(np.flatnonzero(finite)[0]), int(np.flatnonzero(finite)[-1])}
        assert values[kept].min() == values[finite].min() and values[kept].max() == values[finite].max()
    joined = [pair for piece in pieces for pair in zip(piece.tolist(), piece.tolist()[1:], strict=False)]
    assert all(finite[first : last + 1].all() for first, last in joined), "a line across a gap"


def test_a_million_points_are_few_shapes_and_a_spike_is_seen() -> None:
    y = np.ones(1_000_000)
    y[123_456], y[654_321] = 9.0, -3.0
    chart = lines([Series("loss", np.arange(len(y)), y)], width=520)
    [points] = paths_of(chart, "line")
    assert len(points) < 4 * 520
    axis_of = axis(y, chart.height - 40, 12, air=0.05)
    heights = [height for _, height in points]
    assert min(heights) == pytest.approx(float(axis_of.at(9.0)), abs=0.1)
    assert max(heights) == pytest.approx(float(axis_of.at(-3.0)), abs=0.1)


def test_a_gap_is_not_joined_and_a_point_alone_is_a_disc() -> None:
    chart = lines([Series("loss", range(7), [1, 2, math.nan, 3, math.inf, 4, 5])])
    assert [len(points) for points in paths_of(chart, "line")] == [2, 2]
    assert len([shape for shape in chart.shapes if shape.tag == "circle"]) == 5
    assert any("3 at 3" in shape.tip for shape in chart.shapes)


@pytest.mark.parametrize(
    "series",
    [[], [Series("a", [], [])], [Series("a", [1, 2], [math.nan, math.inf])], [Series("a", [math.nan], [1.0])]],
    ids=["none", "empty", "not finite", "no place"],
)
@pytest.mark.parametrize("log", [False, True])
def test_without_a_number_the_chart_says_so(series: list[Series], log: bool) -> None:
    chart = lines(series, log_x=log, log_y=log)
    assert "no number yet" in words_of(chart) and "no number yet" in chart.about


@pytest.mark.parametrize("value", [0.0, 3.5, -1e-9, 1e12])
def test_one_point_stands_in_the_middle(value: float) -> None:
    chart = lines([Series("a", [5], [value], error=[abs(value) / 10])])
    [disc] = [shape for shape in chart.shapes if shape.tag == "circle"]
    x, y = (float(str(disc.at[name])) for name in ("cx", "cy"))
    assert x == pytest.approx((58 + 520 - 16) / 2, abs=1) and y == pytest.approx((12 + 220) / 2, abs=1)


def test_error_bands_are_as_high_as_the_error_and_only_where_it_is_known() -> None:
    chart = lines([Series("a", range(5), [0, 0, 0, 0, 10], error=[1, 1, math.nan, 2, 2])])
    up = axis([-2, 12], chart.height - 40, 12, air=0.05)
    first, second = paths_of(chart, "error")
    assert [height for _, height in first] == pytest.approx(up.at([1, 1, -1, -1]).tolist(), abs=0.2)
    assert [height for _, height in second] == pytest.approx(up.at([2, 12, 8, -2]).tolist(), abs=0.2)


def test_on_a_logarithmic_axis_what_is_not_above_zero_is_a_gap() -> None:
    chart = lines([Series("a", [0, 1, 10, 100], [1, -1, 1e-3, 1e3])], log_x=True, log_y=True)
    [points] = paths_of(chart, "line")
    assert len(points) == 2
    assert {"1", "10", "100"} <= set(words_of(chart))


@given(low=st.floats(-1e9, 1e9), span=st.floats(1e-6, 1e9), log=st.booleans())
def test_ticks_are_inside_in_order_and_told_apart(low: float, span: float, log: bool) -> None:
    ends = [10 ** (low / 1e9), 10 ** (low / 1e9) * (1 + span)] if log else [low, low + span]
    if ends[1] - ends[0] <= 1e-6 * abs(ends[0]):
        return
    ticks = axis(ends, 0, 100, log=log).ticks()
    assert 1 <= len(ticks) <= 20
    assert all(-1 <= pixel <= 101 for pixel, _ in ticks)
    assert [pixel for pixel, _ in ticks] == sorted(pixel for pixel, _ in ticks)


@pytest.mark.parametrize(
    ("ends", "log", "words"),
    [
        ((0, 1e-4), False, ["0", "2.5e-05", "5e-05", "7.5e-05", "0.0001"]),
        ((0.5, 1.6), False, ["0.5", "1", "1.5"]),
        ((0, 200_000), False, ["0", "50k", "100k", "150k", "200k"]),
        ((0, 3), False, ["0", "1", "2", "3"]),
        ((1, 1000), True, ["1", "10", "100", "1000"]),
        ((-2e6, 2e6), False, ["-2M", "-1M", "0", "1M", "2M"]),
    ],
)
def test_ticks_are_round_numbers(ends: tuple[float, float], log: bool, words: list[str]) -> None:
    told = [text for _, text in axis(ends, 0, 100, log=log).ticks()]
    assert [text for text in told if text in words] == words and len(told) <= 2.5 * len(words)


def test_marks_and_names_are_in_the_legend_once() -> None:
    marks = [StepMark(step, "checkpoint") for step in range(1000)] + [StepMark(3, "resumed", kind="across")]
    chart = lines([Series("a", [0, 999], [1, 2]), Series("raw", [0, 999], [1, 2], faint=True)], marks=marks)
    assert [word for word in words_of(chart) if word in ("a", "raw", "checkpoint", "resumed")] == [
        "a", "checkpoint", "resumed",
    ]  # fmt: skip
    assert len(chart.shapes) < 300


@pytest.mark.parametrize("values", [np.linspace(0.83, 0.88, 40), np.arange(9.0), np.linspace(1e-4, 9e-4, 30), [1.0]])
def test_numbers_below_a_histogram_do_not_overlap(values: list[float]) -> None:
    found = histogram(values)
    assert found is not None
    chart = columns(found, unit="", counted="samples")
    below = [shape for shape in chart.shapes if shape.at.get("y") == chart.height - 8]
    ends = [(float(s.at["x"]) - 3.5 * len(s.words), float(s.at["x"]) + 3.5 * len(s.words)) for s in below]  # type: ignore[arg-type]
    assert ends and all(left[1] <= right[0] for left, right in itertools.pairwise(ends))


def test_curves_are_told_apart_without_colours() -> None:
    chart = lines([Series("raw", [0, 9], [1, 2], faint=True), *(Series(f"s{n}", [0, 9], [n, n]) for n in range(5))])
    drawn = [shape.kind for shape in chart.shapes if shape.kind.startswith("line") and shape.tag == "path"]
    assert [kind.partition(" dash")[2] for kind in drawn] == ["", "", "1", "2", "3", "4"]
    assert len({kind.split()[1] for kind in drawn[1:]}) == 5
    in_legend = [shape.kind for shape in chart.shapes if shape.tag == "line" and shape.kind.startswith("line")]
    assert in_legend == drawn[1:]


def test_a_mean_over_the_last_numbers() -> None:
    assert smoothed([1, 3, math.nan, 5], 2).tolist() == pytest.approx([1, 2, math.nan, 5], nan_ok=True)


@given(
    values=st.lists(st.tuples(numbers, numbers), max_size=40),
    most=st.integers(1, 12),
    middle=st.one_of(st.none(), st.just(0.0)),
)
def test_a_map_has_a_cell_for_each_number_and_none_for_gaps(
    values: list[tuple[float, float]], most: int, middle: float | None
) -> None:
    found = np.array(values, np.float64).reshape(-1, 2)
    chart = heat_map(range(len(found)), ["low", "high"], found, unit="loss", middle=middle, max_columns=most)
    cells = [shape for shape in chart.shapes if shape.tag == "rect" and shape.tip]
    groups = np.array_split(np.arange(len(found)), min(most, len(found))) if len(found) else []
    assert len(cells) == sum(np.isfinite(found[group][:, row]).any() for group in groups for row in range(2))
    assert all(0 < float(str(cell.at["fill-opacity"])) <= 1 for cell in cells)
    assert ("no number yet" in words_of(chart)) == (not cells)


def test_cells_say_their_number_and_steps() -> None:
    tips = [s.tip for s in heat_map([0, 10, 20], ["0.25"], [[1], [2], [4]], unit="loss", max_columns=2).shapes if s.tip]
    assert tips == ["1.5 loss at  0.25, step 0 to 10, mean of 2", "4 loss at  0.25, step 20"]


def test_words_in_curves_and_maps_are_text() -> None:
    mark = StepMark(1, HOSTILE, HOSTILE)
    for chart in (
        lines([Series(HOSTILE, [1, 2], [1, 2])], x_unit=HOSTILE, y_unit=HOSTILE, marks=[mark]),
        charts.heat_map([1], [HOSTILE], [[1]], unit=HOSTILE, x_unit=HOSTILE, row_unit=HOSTILE),
    ):
        page = Page(str(PARTS.draw(chart)))
        assert {tag for tag, _ in page.tags} <= {"svg", "rect", "line", "path", "circle", "text", "title"}
        assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
        assert HOSTILE in page.words and HOSTILE in str(page.tags[0][1]["aria-label"])
