"""Captions and paths of packed clips: every layout in an archive, rows of Parquet, names that come twice."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sana.data.sources.source_check import check_sources
from tests.downloads import context
from tests.packed_files import ROWS, downloaded, embedded, tar_of, zip_of
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)

WEBDATASET = {"0.mp4": b"v0", "0.json": b'{"caption": "a cat\\nasleep", "score": 1.5}', "1.mp4": b"v1", "1.json": b"[]"}


@pytest.mark.parametrize(
    ("files", "captions", "expected"),
    [
        (WEBDATASET, {}, {"0.mp4": ["a cat\nasleep"]}),
        (WEBDATASET | {"0.txt": b"a text"}, {}, {"0.mp4": ["a text"]}),
        (WEBDATASET | {"0.txt": b"a text"}, {"text_columns": ["caption"]}, {"0.mp4": ["a cat\nasleep"]}),
        (WEBDATASET | {"0.txt": b"a text"}, {"layout": "metadata"}, {"0.mp4": ["a cat\nasleep"]}),
        ({"0.mp4": b"v", "0.json": b'{"prompt": ["a", "b"]}'}, {}, {"0.mp4": ["a", "b"]}),
        ({"d/0.mp4": b"v", "d/0.json": b'{"text": "x", "file_name": "y"}'}, {}, {"d/0.mp4": ["x"]}),
        (
            {"j/0.mp4": b"0", "j/0.json": b'{"text": "x"}', "t/1.mp4": b"1", "t/1.json": b"{}", "t/1.txt": b"y"},
            {},
            {"j/0.mp4": ["x"], "t/1.mp4": ["y"]},
        ),
        ({"0.mp4": b"v", "metadata.csv": b"file_name,text\n0.mp4,a row\n"}, {}, {"0.mp4": ["a row"]}),
        ({"0.mp4": b"v", "prompts.txt": b"a line\n", "videos.txt": b"0.mp4\n"}, {}, {"0.mp4": ["a line"]}),
    ],
)
@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_captions_in_an_archive_are_read_in_every_layout(
    tmp_path: Path, pack: Any, files: dict[str, bytes], captions: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    folder = make_files(tmp_path / "s", {"00000.tar" if pack is tar_of else "0.zip": pack(files)})
    assert downloaded(tmp_path, folder, captions=captions).captions == expected


VIDEO = {"bytes": b"\x1a\x45\xdf\xa3 and so on", "path": None}


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        (ROWS, {}, {f"{i}.mp4": [f"text {i}"] for i in range(4)}),
        ([{"video": VIDEO, "text": "x"}], {}, {"train-0/000000.mkv": ["x"]}),
        ([{"file_name": "k.mp4", "video": VIDEO, "text": "x"}], {}, {"k.mp4": ["x"]}),
        ([{"__key__": "k", "mp4": b"1", "text": "x"}], {}, {"k.mp4": ["x"]}),
        ([{"video": {"bytes": b"1", "path": "/home/me/k.mp4"}, "text": "x"}], {}, {"k.mp4": ["x"]}),
        ([ROWS[0], {**ROWS[0], "caption": "other"}], {}, {"0.mp4": ["text 0", "other"]}),
        (
            [ROWS[0], {**ROWS[1], "video": {"bytes": b"other", "path": "0.mp4"}}],
            {},
            {"0.mp4": ["text 0"], "train-0/000001.mp4": ["text 1"]},
        ),
        (
            [{"clip": b"1", "video": None, "text": "x"}],
            {"captions": {"video_column": "clip"}},
            {"train-0/000000.mp4": ["x"]},
        ),
        (
            [{**ROWS[0], "words": ["a", "b"]}],
            {"captions": {"text_columns": ["words", "caption"]}},
            {"0.mp4": ["a", "b", "text 0"]},
        ),
        (
            [ROWS[0], {"video": {"bytes": None, "path": "plain.mp4"}, "caption": "y"}],
            {"archives": "read"},
            {"0.mp4": ["text 0"], "plain.mp4": ["y"]},
        ),
    ],
)
def test_rows_with_videos_are_clips(
    tmp_path: Path, rows: list[dict[str, Any]], settings: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    files: dict[str, bytes | str] = {"train-0.parquet": embedded(rows, rows_per_group=2)}
    if "plain.mp4" in expected:
        files["plain.mp4"] = "beside it"
    found = downloaded(tmp_path, make_files(tmp_path / "s", files), **settings)
    assert found.captions == expected and not found.rejected


def test_a_table_beside_an_archive_names_its_members(tmp_path: Path) -> None:
    packed = {"videos.zip": zip_of({"videos/a.mp4": b"1", "videos/b.mp4": b"2"}), "more.tar": tar_of({"c.mp4": b"3"})}
    table = b"file_name,text\nvideos/a.mp4,a cat\nc.mp4,a dog\nvideos/b.mp4,\nd.mp4,nobody\n"
    found = downloaded(tmp_path, make_files(tmp_path / "s", packed | {"metadata.csv": table}))
    assert found.captions == {"videos/a.mp4": ["a cat"], "c.mp4": ["a dog"]}
    assert {path: reason for path, (reason, _) in found.rejected.items()} == {
        "videos/b.mp4": "no_caption",
        "d.mp4": "missing",
    }


def test_archives_with_one_path_twice_are_unpacked_apart(tmp_path: Path) -> None:
    shards = {
        "s/0.tar": tar_of({"a.mp4": b"0a", "a.txt": b"zero"}),
        "s/1.tar": tar_of({"a.mp4": b"1a", "a.txt": b"one", "b.mp4": b"1b", "b.txt": b"one b"}),
        "s/2.zip": zip_of({"c.mp4": b"2c", "metadata.txt": b"no table"}),
        "s/texts.zip": zip_of({"c.txt": b"two c", "metadata.txt": b"again"}),
    }
    found = downloaded(tmp_path, make_files(tmp_path / "s", shards))
    expected = {"s/a.mp4": ["zero"], "s/1/a.mp4": ["one"], "s/1/b.mp4": ["one b"], "s/c.mp4": ["two c"]}
    assert found.captions == expected and not found.rejected


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("train-0.parquet", embedded([{"video": VIDEO, "label": 1}]), "the rows of train-0.parquet has none of"),
        (
            "0.tar",
            tar_of({"a.mp4": b"1", "a.json": b'{"label": "x"}'}),
            "the videos, such as a.json has none of",
        ),
    ],
)
def test_a_missing_column_is_one_of_the_archive(tmp_path: Path, name: str, data: bytes, says: str) -> None:
    at = context(tmp_path, {"source": str(make_files(tmp_path / "s", {name: data}))})
    [problem], _ = check_sources(at.config, work_dir=at.work_dir)
    assert says in str(problem) and "name one in captions.text_columns" in str(problem)
    assert "label" in str(problem) and "metadata." not in str(problem)


NO_BYTES = {"bytes": None, "path": "clips/0.mp4"}
# rows of a Parquet file with a column `video`, what `datasets` declares as Video, what is said of it
COLUMNS: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "one": ({"mp4": b"1", "text": "x"}, [], ""),
    "one declared": ({"mp4": b"1", "left": b"2", "text": "x"}, ["left"], ""),
    "two declared": (
        {"right": b"1", "left": b"2", "text": "x"},
        ["left", "right"],
        "of its videos the column right is read, left is not; captions.video_column names another",
    ),
    "two by name": ({"mp4": b"1", "webm": b"2", "text": "x"}, [], "the column mp4 is read, webm is not"),
    "paths alone": ({"video": NO_BYTES, "text": "x"}, [], "the rows of t.parquet name videos that are not there"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_of_videos_that_are_not_read_are_named(tmp_path: Path, case: str) -> None:
    row, declared, said = COLUMNS[case]
    table = pq.read_table(io.BytesIO(embedded([row])))
    features = {name: {"_type": "Video" if name in declared else "Value"} for name in row if name != "mp4"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "s").mkdir()
    pq.write_table(table, tmp_path / "s/t.parquet")
    at = context(tmp_path, {"source": f"{tmp_path}/s"})
    problems, notes = check_sources(at.config, work_dir=at.work_dir)
    told = [*map(str, problems), *notes]
    assert any(said in line for line in told) if said else not told, told
