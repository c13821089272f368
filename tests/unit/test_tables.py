"""Tables of clips: digests of rows, counts that add up, rejections within limits."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.arrow import read_parquet, table_of, to_parquet
from sana.counts import DatasetCounts
from sana.data.schemas import REJECTS
from sana.data.tables import clip_id_of, content_digest, count_rejects
from sana.errors import SanaError

SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("size", pa.int64()),
        ("ratio", pa.float64()),
        ("good", pa.bool_()),
        ("texts", pa.list_(pa.string())),
    ]
)
row = st.fixed_dictionaries(
    {
        "key": st.text(max_size=5),
        "size": st.integers(-(2**40), 2**40),
        "ratio": st.floats(allow_nan=False),
        "good": st.booleans(),
        "texts": st.lists(st.text(max_size=3), max_size=3),
    }
)
rows = st.lists(row, max_size=6, unique_by=lambda r: r["key"])


def digest(values: list) -> str:
    return content_digest(table_of(values, SCHEMA), SCHEMA.names)


@given(values=rows, random=st.randoms())
def test_a_digest_does_not_depend_on_row_order_or_file_layout(values: list, random) -> None:
    shuffled = values[:]
    random.shuffle(shuffled)
    assert digest(values) == digest(shuffled)
    halves = [table_of(shuffled[:2], SCHEMA), table_of(shuffled[2:], SCHEMA)]
    assert content_digest(pa.concat_tables(halves), SCHEMA.names) == digest(values)
    assert content_digest(read_parquet(to_parquet(table_of(values, SCHEMA))), SCHEMA.names) == digest(values)


@given(left=rows, right=rows)
def test_different_rows_have_different_digests(left: list, right: list) -> None:
    def canonical(values: list) -> list:
        return sorted((r["key"], r["size"], str(float(r["ratio"])), r["good"], r["texts"]) for r in values)

    assert (digest(left) == digest(right)) == (canonical(left) == canonical(right))


def test_only_the_named_columns_enter_a_digest() -> None:
    one = table_of([{"key": "a", "size": 1, "ratio": 0.5, "good": True, "texts": []}], SCHEMA)
    two = table_of([{"key": "a", "size": 2, "ratio": 0.5, "good": True, "texts": []}], SCHEMA)
    assert content_digest(one, ["key"]) == content_digest(two, ["key"])
    assert content_digest(one, ["key", "size"]) != content_digest(two, ["key", "size"])


def rejects(*pairs: tuple[str, str]) -> pa.Table:
    return table_of(
        [
            {"clip_id": str(i), "dataset": d, "path": "p", "stage": "probe", "reason": r, "detail": ""}
            for i, (d, r) in enumerate(pairs)
        ],
        REJECTS,
    )


def test_counts_that_do_not_add_up_are_a_bug() -> None:
    table = rejects(("a", "empty"), ("a", "empty"), ("b", "truncated"))
    counts = count_rejects({"b": 1, "a": 4}, 2, table)
    assert (counts.num_in, counts.num_out, counts.num_rejected) == (5, 2, 3)
    assert counts.top_reasons() == [("empty", 2), ("truncated", 1)]
    assert counts.datasets == {"a": DatasetCounts(4, 2), "b": DatasetCounts(1, 1)}
    for num_in in ({"a": 4, "b": 2}, {"a": 5}):
        with pytest.raises(AssertionError, match="disappeared"):
            count_rejects(num_in, 2, table)


def test_clip_ids_are_of_data_set_and_path() -> None:
    assert clip_id_of("a", "b/c.mp4") != clip_id_of("a/b", "c.mp4")
    assert clip_id_of("a", "b") == clip_id_of("a", "b")


def test_a_damaged_page_of_a_table_is_a_one_line_error() -> None:
    rows = {"key": "a", "size": 1, "ratio": 1.0, "good": True, "texts": ["b"]}
    data = b"xxxxxxxx" + to_parquet(table_of([rows] * 9, SCHEMA))[8:]  # the footer is whole
    with pytest.raises(SanaError, match=f"a table of {len(data)} bytes is damaged: .+") as caught:
        read_parquet(data)
    assert "\n" not in str(caught.value)
