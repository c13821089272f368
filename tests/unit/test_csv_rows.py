"""Laws of reading CSV: whatever the text and the blocks that it comes in, Arrow and the record reader give the same."""

from collections.abc import Iterator
from unittest.mock import patch

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sana.data.captions.caption_text import TextError
from sana.data.captions.csv_rows import CsvRows

pytestmark = pytest.mark.timeout(60)

COLUMNS = [0, 2]


def read(text: str, *, block_bytes: int = 1 << 20, with_arrow: bool = True) -> list[dict[str, str | None]] | str:
    """Return the rows of a table of three columns, or the error. Blocks end at line feeds."""

    def blocks() -> Iterator[bytes]:
        block = b""
        for line in f"video,fps,text\n{text}".encode().splitlines(keepends=True):
            block += line
            if len(block) >= block_bytes and block.endswith(b"\n"):
                yield block
                block = b""
        if block:
            yield block

    with patch.object(CsvRows, "_plain", CsvRows._plain if with_arrow else lambda *_: None):
        try:
            rows = CsvRows(blocks(), delimiter=",", is_header=lambda _: True)
            return pa.concat_tables(list(rows.tables(0, COLUMNS)) or [pa.table({})]).to_pylist()
        except TextError as error:
            return str(error)


ROWS = st.lists(
    st.sampled_from(
        ["a.mp4,1,x", 'a.mp4,1,"x, y"', 'b.mp4,2,"say ""hi"", he"', '"c.mp4",3,"two\nlines, of\n\ntext"', "d.mp4,4", "",
         "e.mp4,5,x,y", 'f.mp4,6,"open',
         'g.mp4,7,end"', 'h.mp4,8,"x" y', 'i.mp4,9,"a \\"b\\" c"', ",,", ",,x", "j,1,k,",
         'k.mp4,1,"one\nl.mp4,2,two"', "\u732b.mp4,1,\u732b"]
    ),
    max_size=8,
)  # fmt: skip


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.integers(1, 60))
@settings(max_examples=300, deadline=None)
def test_arrow_and_the_record_reader_give_the_same(rows: list[str], end: str, block_bytes: int) -> None:
    text = end.join(rows) + end
    by_record = read(text, with_arrow=False)
    assert read(text) == by_record
    assert read(text, block_bytes=block_bytes) == by_record


@given(st.text(alphabet='ab.,"\n\\ ', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_gives_the_same_rows_or_the_same_error(text: str) -> None:
    assert read(text) == read(text, with_arrow=False) == read(text, block_bytes=5)


def test_plain_and_many_line_rows_are_not_read_one_by_one() -> None:
    rows = "".join(f'{i}.mp4,24,"Title, {i}\n\nand, then, ""more"""\n{i}b.mp4,25,plain\n' for i in range(300))
    with patch.object(CsvRows, "_block_of_records", side_effect=AssertionError):
        found = [read(rows), read(rows, block_bytes=100)]
    assert found[0] == found[1] and len(found[0]) == 600
    assert found[0][2] == {"0": "1.mp4", "2": 'Title, 1\n\nand, then, "more"', "sana:trouble": None}
