"""The report's arithmetic and its text: nothing that is counted is lost, nothing that is quoted becomes markup."""

import math
import tomllib
from collections import Counter
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.arrow import table_of, to_parquet
from sana.artifact import Artifact, Draft, Recipe
from sana.bucket import Bucket
from sana.data.schemas import PROBED, REJECTS, WINDOWS, Reason
from sana.data.tables import count_rejects
from sana.facts import BucketFacts
from sana.report import charts
from sana.report.buckets import buckets
from sana.report.flow import Step, datasets, read_rejects, steps
from sana.report.formatting import hours, percent, size
from sana.report.histogram import histogram
from sana.report.html import environment
from sana.report.videos import videos
from sana.store import LocalStore
from tests.report_pages import Page

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "sana/report/templates"
PARTS = environment().get_template("parts.html.j2").module
QUOTED = environment().from_string("{{ text|name }}")

numbers = st.one_of(st.integers(0, 10**7), st.floats(0, 1e7), st.just(math.nan), st.just(math.inf))


@given(values=st.lists(numbers, max_size=60), bins=st.integers(1, 40), whole=st.booleans())
def test_a_histogram_counts_every_finite_value_once(values: list[float], bins: int, whole: bool) -> None:
    finite = [value for value in values if math.isfinite(value)]
    found = histogram(values, bins=bins, whole=whole)
    assert (found is None) == (not finite)
    if found is None:
        return
    assert found.total == len(finite) and found.maximum == max(finite)
    assert (np.diff(found.edges) > 0).all() and len(found.counts) <= 2 * bins + 2
    below = found.edges[-2]
    assert found.counts[:-1].sum() == sum(value < below for value in finite), "the last bin has all that is beyond"
    shapes = charts.columns(found, unit="s", counted="clips").shapes
    assert sum(bool(shape.tip) for shape in shapes) == len(found.counts)


@given(text=st.text(max_size=400))
def test_what_is_quoted_is_text_in_one_line(text: str) -> None:
    shown = QUOTED.render(text=text)
    assert not set(shown) & set("<>\"'\n\r\0\u202e\u2028") and len(unescape(shown)) <= 10 * 310
    if text.isprintable() and len(text) <= 300:
        assert unescape(shown) == text


@given(whole=st.integers(1, 10**9), data=st.data())
def test_a_percentage_is_not_rounded_to_none_or_all(whole: int, data: st.DataObject) -> None:
    part = data.draw(st.integers(0, whole))
    assert (percent(part, whole) == "0 %") == (part == 0)
    assert (percent(part, whole) == "100 %") == (part == whole)


def test_sizes_and_bars() -> None:
    assert [size(value) for value in (0, 1023, 1024, 1536, 300 * 2**20, 2**40)] == [
        "0 B", "1023 B", "1 KiB", "1.5 KiB", "300 MiB", "1 TiB",
    ]  # fmt: skip
    assert [hours(value) for value in (0, 1, 36, 3600, 360_000, 7_200_000)] == [
        "0.00", "< 0.01", "0.01", "1.00", "100", "2,000",
    ]  # fmt: skip
    assert "width:25.000%" in PARTS.bar(4, [("train", 1, "")]) and "<i" not in PARTS.bar(4, [("train", 0, "")])


HOSTILE = """<b>"' onload=x>&amp;"""


def test_words_in_a_chart_are_text() -> None:
    step = Step(HOSTILE, 3, 1, {HOSTILE: 2}, 1)
    mark = charts.Mark(3.0, 4.0, HOSTILE, weight=2.0)
    for chart in (
        charts.bars([(HOSTILE, 3), ("b", 0)], unit=HOSTILE),
        charts.flow([step], end=HOSTILE),
        charts.scatter([mark], [mark], axes=HOSTILE, about=HOSTILE),
    ):
        page = Page(str(PARTS.draw(chart)))
        assert {tag for tag, _ in page.tags} <= {"svg", "rect", "line", "path", "circle", "text", "title"}
        assert not [key for _, attrs in page.tags for key in attrs if key.startswith("on")]
        assert HOSTILE in page.words and HOSTILE in str(page.tags[0][1]["aria-label"])


def test_templates_quote_all_but_the_own_style_and_script() -> None:
    assert environment().autoescape is True
    marked = [line for path in TEMPLATES.rglob("*.j2") for line in path.read_text().splitlines() if "|safe" in line]
    assert marked == ["{{ style|safe }}</style></head>", "</main><script>{{ script|safe }}</script></body></html>"]
    assert not [path for path in TEMPLATES.rglob("*.j2") if "autoescape" in path.read_text()]


def test_templates_are_installed_with_the_package() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["sana.report"]
    declared = {path for pattern in patterns for path in TEMPLATES.parent.glob(pattern) if path.is_file()}
    assert declared == {path for path in TEMPLATES.rglob("*") if path.is_file()}
    assert len(declared) > 10


def commit(folder: Path, stage: str, num_in: int, tables: dict, rejected: list[dict], names: list[str]) -> Artifact:
    draft = Draft(LocalStore(str(folder)), Recipe(stage, 1, {"names": names}, {}))
    for file, table in tables.items():
        draft.add(file, to_parquet(table))
    table = table_of(rejected, REJECTS)
    draft.add("rejects.parquet", to_parquet(table))
    counts = count_rejects(Counter(names), num_in - len(rejected), table)
    facts = BucketFacts({}, 1, {}, 48 * num_in, 20 * num_in, 28 * num_in) if stage == "bucket" else None
    return draft.commit(content={}, counts=counts, facts=facts)


def rejection(place: int, dataset: str, stage: str, reason: str) -> dict:
    return {"clip_id": f"{place:020x}", "dataset": dataset, "path": f"{place}.mp4", "stage": stage,
            "reason": reason, "detail": f"number {place}"}  # fmt: skip


lost = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(sorted(Reason)[:5])), max_size=40)


@given(first=lost, second=lost, num_left=st.integers(0, 3), max_rows=st.integers(10, 60))
def test_rejects_add_up_and_every_reason_is_shown(
    tmp_path_factory: pytest.TempPathFactory, first: list, second: list, num_left: int, max_rows: int
) -> None:
    folder = tmp_path_factory.mktemp("law")
    left = ["a"] * num_left
    made, names = {}, [of for of, _ in first + second] + left
    for stage, lost_here in (("download", first), ("probe", second)):
        rows = [rejection(place, of, stage, reason) for place, (of, reason) in enumerate(lost_here)]
        made[stage] = commit(folder, stage, len(names), {}, rows, names)
        names = [of for of, _ in second] + left
    store = LocalStore(str(folder))
    found = read_rejects(store, made, max_rows=max_rows)
    expected = Counter(
        (stage, of, reason) for stage, all_lost in (("download", first), ("probe", second)) for of, reason in all_lost
    )
    assert dict(found.counts) == dict(expected) and found.total == len(first) + len(second)
    assert len(found.rows) <= max_rows
    assert {(row["stage"], row["reason"]) for row in found.rows} == {(stage, reason) for stage, _, reason in expected}
    assert len(found.rows) == found.total or len(found.rows) > max_rows - 10, "no row is left out that had place"
    assert len({(row["stage"], row["clip_id"]) for row in found.rows}) == len(found.rows)
    assert all(step.adds_up for step in steps(made))
    counted = datasets(made, found)
    assert sum(one.num_in for one in counted) == len(first) + len(second) + num_left
    assert all(one.num_in == one.num_left + sum(one.rejected.values()) for one in counted)


def window(place: int, width: int, height: int, bucket: Bucket, split: str) -> dict:
    texts = {field.name: "" for field in WINDOWS if str(field.type) == "string"}
    zeros = {f.name: False if str(f.type) == "bool" else 0 for f in WINDOWS if f.name not in texts}
    facts = {"width": width, "height": height, "fps": 24.0, "duration_s": 2.0, "num_frames": 48, "codec": "h264"}
    crop = {"crop_width": width / 2, "crop_height": float(height)}
    return {**texts, **zeros, **facts, **crop, "clip_id": str(place), "bucket": str(bucket), "split": split}


def test_buckets_and_videos_count_every_row(tmp_path: Path) -> None:
    shapes = [Bucket(17, 96, 160), Bucket(9, 128, 128)]
    rows = [
        window(place, 300 + place % 250, 200 + place % 7, shapes[place % 3 == 0], "eval" if place % 5 == 0 else "train")
        for place in range(1000)
    ]
    made = commit(tmp_path, "bucket", 1000, {"clips.parquet": table_of(rows, WINDOWS)}, [], ["a"] * 1000)
    found = buckets(LocalStore(str(tmp_path)), made)
    assert (found.train, found.eval) == (800, 200)
    assert {count.bucket: count.total for count in found.counts} == {shapes[0]: 666, shapes[1]: 334}
    assert [count.crop_loss for count in found.counts] == pytest.approx([0.5, 0.5])
    assert found.crop_loss_percent is not None and found.crop_loss_percent.total == 1000
    assert found.seconds == pytest.approx((666 * 17 + 334 * 9) / 24)
    probe = commit(tmp_path, "probe", 1000, {"clips.parquet": table_of(rows, PROBED)}, [], ["a"] * 1000)
    seen = videos(LocalStore(str(tmp_path)), probe)
    assert seen.seconds == 2000.0 and seen.num_frames == 48_000
    assert sum(num for _, num in seen.rates) == sum(num for *_, num in seen.codecs) == 1000
    # of 1750 possible sizes 1000 are there: cells of a grid replace them, and lose none
    assert seen.num_sizes == 1000 and sum(of.num_clips for of in seen.sizes) == 1000
    assert len(seen.sizes) < 200
