"""Laws of composing a caption, and of resolving the video that a cell of a table names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sana.config.captions import CaptionsConfig
from sana.config.data import DatasetConfig
from sana.data.captions.caption_layouts import resolve_video_path
from sana.data.captions.caption_lines import lines_of
from sana.data.captions.composed import compose

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    ("settings", "score", "text"),
    [
        ({}, None, "A cat."),
        ({}, 30.0, "A cat. motion score: 30."),
        ({}, 12.99, "A cat. motion score: 12."),
        ({}, float("nan"), "A cat."),
        ({"prefix": "film: ", "suffix": " (b/w)"}, 3.0, "film: A cat. (b/w) motion score: 3."),
        ({"trigger": "sks"}, None, "sks, A cat."),
        ({"trigger": "CAT"}, None, "A cat."),
        ({"trigger": "ca"}, None, "ca, A cat."),
        ({"trigger": "a+b", "prefix": "A+B "}, None, "A+B A cat."),
    ],
)
def test_a_caption_is_composed(settings: dict[str, str], score: float | None, text: str) -> None:
    assert compose("A cat.", CaptionsConfig(**settings), score) == text


@given(st.text(), st.text(alphabet="ab, ", max_size=6), st.text(alphabet="abc", min_size=1, max_size=3))
def test_a_trigger_is_added_once(caption: str, prefix: str, trigger: str) -> None:
    config = CaptionsConfig(prefix=prefix, trigger=trigger)
    once = compose(caption, config, None)
    assert trigger in once.lower() and f"{prefix}{caption}" in once
    assert compose(once, CaptionsConfig(trigger=trigger), None) == once


@given(st.text(alphabet="ab./:s3\\\0 \n", max_size=12), st.sampled_from(["", "in", "in/deep"]), st.booleans())
def test_a_cell_never_names_a_path_outside_the_source(video: str, folder: str, is_source: bool) -> None:
    path, why = resolve_video_path(video, folder=folder, base="/data/set", is_source=is_source)
    assert bool(path) != bool(why)
    inner = path.removeprefix("s3://") if is_source else path
    assert not path or not any(part in ("", ".", "..") for part in inner.split("/"))


@pytest.mark.parametrize(
    ("video", "path"),
    [
        ("a.mp4", "in/a.mp4"),
        ("./x//a.mp4", "in/x/a.mp4"),
        ("/data/set/y/a b.mp4", "y/a b.mp4"),
        ("/data/settings/a.mp4", ""),
        ("/data/set/../a.mp4", ""),
        ("x/../a.mp4", ""),
        ("http://h/a.mp4", ""),
        (None, ""),
    ],
)
def test_cells_name_paths_beside_their_table(video: str | None, path: str) -> None:
    assert resolve_video_path(video, folder="in", base="/data/set", is_source=False)[0] == path


@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), min_size=1
    )
)
def test_lines_end_at_line_feeds_and_nowhere_else(lines: list[str]) -> None:
    """str.splitlines would cut a caption at U+2028, and move every later caption to another video."""
    assert lines_of("\n".join(lines)) == lines_of("\r\n".join(lines) + "\r\n") == lines


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"layout": "lines", "text_columns": ["a"]}, "text_columns: layout lines has no columns"),
        ({"layout": "textfile", "motion_score_column": "m"}, "motion_score_column: layout textfile"),
        ({"text_columns": ["a", "a"]}, "names a column twice"),
        ({"fallback": "x"}, "no effect"),
        ({"layout": "none"}, "needs it"),
        ({"layout": "lines", "delimiter": ";"}, "delimiter: layout lines has no table"),
        ({"layout": "metadata", "lines": "one"}, "lines: one is for layout textfile"),
        ({"delimiter": ";;"}, "delimiter"),
        ({"delimiter": "\u00a7"}, "delimiter"),
        ({"delimiter": '"'}, "delimiter"),
        ({"encoding": "klingon"}, "'klingon' is no encoding that Python knows"),
        ({"encoding": "hex"}, "'hex' is no encoding"),
    ],
)
def test_a_setting_without_effect_is_an_error(settings: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        CaptionsConfig(**settings)


def test_source_pattern_and_source_column_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="remove one"):
        DatasetConfig(id="d", source="s", source_pattern="(a)", captions=CaptionsConfig(source_column="film"))
