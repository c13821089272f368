"""Captions that are no text are rejected by name, and tables are read as people write them or refused by line."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sana.data.sources.source_check import check_sources
from sana.errors import ConfigError
from sana.facts import CaptionCounts, DownloadFacts
from sana.report import captions as report
from sana.report.page import data_report
from sana.report.states import StageState
from sana.stages import download
from tests.downloads import FinishedDownload, context, videos
from tests.pipeline_runs import run_alone
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)

NO_TEXT: dict[str, tuple[bytes | str, str]] = {  # a.txt, and why it is no caption
    "NUL": ("a cat\0 and nul", "a.txt holds NUL characters, is it UTF-16?"),
    "UTF-16 without a mark": ("utf16 no bom".encode("utf-16-le"), "captions.encoding: utf-16-le"),
    "UTF-16, big end first": ("a cat\nand a dog\n".encode("utf-16-be"), "captions.encoding: utf-16-be"),
    "UTF-32 without a mark": ("a cat".encode("utf-32-le"), "holds NUL characters"),
    "a NUL in one of its lines": ("fine\na\0b", "holds NUL characters"),
    "zero width space": ("\u200b\n", "a.txt is empty: it holds only invisible characters (U+200B)"),
    "byte order marks": ("\ufeff\ufeff", "invisible characters (U+FEFF)"),
    "direction marks": ("\u202a \u200e\u2069", "invisible characters (U+0020, U+200E, U+202A)"),
    "a variation selector": ("\ufe0f", "(U+FE0F)"),
    "a blank of braille": ("\u2800\u3164", "(U+2800, U+3164)"),
    "no-break spaces": ("\u00a0\u3000\t\n", "a.txt is empty"),
    "nothing": ("", "a.txt is empty"),
    "a bell": ("a cat\x07", "a.txt holds the control character U+0007"),
    "an escape sequence": ("\x1b[31ma cat\x1b[0m", "the control character U+001B"),
    "a C1 control, as of cp1252 read as latin-1": ("a cat\x93", "the control character U+0093"),
    "latin-1": (b"a caf\xe9", "a.txt is not UTF-8: in line 1, byte 6 is 0xe9; save it as UTF-8, or name its encoding"),
    "a lone surrogate": (b"one\ntwo \xed\xa0\x80", "in line 2, byte 5 is 0xed"),
    "UTF-16 with a mark, cut": ("\ufeffcat".encode("utf-16-le")[:-1], "a.txt is not UTF-16-LE: in line 1, byte 5"),
}  # fmt: skip


@pytest.mark.parametrize("case", NO_TEXT)
def test_a_caption_that_is_no_text_is_rejected_with_the_reason(tmp_path: Path, case: str) -> None:
    text, says = NO_TEXT[case]
    files = {**videos(["a.mp4", "b.mp4"]), "a.txt": text, "b.txt": "a good one"}
    done = FinishedDownload(context(tmp_path, {"source": str(make_files(tmp_path / "s", files))}))
    assert done.captions == {"b.mp4": ["a good one"]}
    reason, detail = done.rejected["a.mp4"]
    assert reason == "no_caption" and says in detail


TEXTS: dict[str, tuple[bytes | str, list[str], dict[str, Any]]] = {  # a.txt, its captions, settings
    "UTF-8 with a mark": (b"\xef\xbb\xbfa cat", ["a cat"], {}),
    "UTF-16 with a mark": ("\ufeffune caf\u00e9\nzwei".encode("utf-16-le"), ["une caf\u00e9", "zwei"], {}),
    "UTF-16, big end first": ("\ufeff\u732b".encode("utf-16-be"), ["\u732b"], {}),
    "UTF-32 with a mark": ("\ufeffa cat".encode("utf-32-le"), ["a cat"], {}),
    "cp1252, named": ("a caf\u00e9 \u2013 noir".encode("cp1252"), ["a caf\u00e9 \u2013 noir"], {"encoding": "cp1252"}),
    "gbk, named": ("\u732b\u5728\u96e8\u4e2d".encode("gbk"), ["\u732b\u5728\u96e8\u4e2d"], {"encoding": "GBK"}),
    "UTF-16 without a mark, named": ("a cat".encode("utf-16-le"), ["a cat"], {"encoding": "utf-16-le"}),
    "a mark goes before the name": (b"\xef\xbb\xbfcaf\xc3\xa9", ["caf\u00e9"], {"encoding": "cp1252"}),
    "marks within a text": ("a\u200bb \u200fc", ["a\u200bb \u200fc"], {}),
    "emoji": ("\U0001f431\u200d\u2b1b", ["\U0001f431\u200d\u2b1b"], {}),
    "null words are words in a text": ("None\nnan", ["None", "nan"], {}),
    "tabs": ("a\tcat", ["a\tcat"], {}),
    "invisible lines": ("one\n\u200b\n \ntwo", ["one", "two"], {}),
    "one of three is no text": ("one\ntwo\x07\nthree", ["one", "three"], {}),
    "U+FFFD": ("caf\ufffd", ["caf\ufffd"], {}),
    "one": ("A title.\r\n\r\nFirst paragraph.\n\n", ["A title.\n\nFirst paragraph."], {"lines": "one"}),
    "alternatives": ("A title.\r\n\r\nFirst paragraph.\n\n", ["A title.", "First paragraph."], {}),
}  # fmt: skip


def test_what_is_text_is_a_caption(tmp_path: Path) -> None:
    sets = []
    for at, (text, _, captions) in enumerate(TEXTS.values()):
        folder = make_files(tmp_path / f"s{at}", {**videos([f"{at}.mp4"]), f"{at}.txt": text})
        sets.append({"source": str(folder), "captions": captions})
    done = FinishedDownload(context(tmp_path, *sets))
    assert done.captions == {f"{at}.mp4": found for at, (_, found, _) in enumerate(TEXTS.values())}
    facts = DownloadFacts.of(done.artifact).captions
    names = list(TEXTS)
    for at, name in enumerate(names):
        num = len(TEXTS[name][1])
        dropped, damaged = name == "one of three is no text", name == "U+FFFD"
        assert facts[f"d{at}"] == CaptionCounts(num, num > 1, dropped, damaged), name
    several = sum(len(found) > 1 for _, found, _ in TEXTS.values())
    assert done.artifact.counts.extra == {
        "with_alternatives": several,
        "captions_dropped": 1,
    }


def test_the_report_counts_alternatives_and_what_was_lost(tmp_path: Path) -> None:
    files = {
        **videos(["a.mp4", "b.mp4", "c.mp4"]),
        "a.txt": "one\ntwo\nth\x07ree",
        "b.txt": "x\ny",
        "c.txt": "caf\ufffd",
    }
    done = FinishedDownload(context(tmp_path, {"source": str(make_files(tmp_path / "s", files))}))
    found = report.captions(done.context.store, done.artifact)
    assert (found.num_with_alternatives, found.num_dropped, found.num_damaged) == (2, 1, 1)
    page = data_report(done.context, "demo", [StageState("download", "completed", done.artifact, "")], now=0.0)
    words = " ".join(page.split())
    for says in (
        "captions.lines: one a file is one caption",
        "no text: 1 of the alternatives",
        "before: 1 of the captions",
    ):
        assert says in words


NONE = "no_caption"
MANY = "A1, a2.\nSecond line, of the same.\n\nThird."
TABLES: dict[str, tuple[str, bytes | str, dict[str, Any], dict[str, list[str] | str]]] = {
    # name of the table, what it holds, settings, and by video its captions or a part of its reason
    "null words": (
        "csv",
        "file_name,text\na.mp4,nan\nb.mp4,NULL\nc.mp4, n/a \nd.mp4,none of them\n",
        {},
        {"a.mp4": "its caption is 'nan', one of captions.null_words", "b.mp4": "'NULL'", "c.mp4": "'n/a'",
         "d.mp4": ["none of them"]},
    ),
    "null words as captions": (
        "csv", "file_name,text\na.mp4,nan\nb.mp4,None\n", {"null_words": []}, {"a.mp4": ["nan"], "b.mp4": ["None"]},
    ),
    "other null words": (
        "csv", "file_name,text\na.mp4,nan\nb.mp4,TODO\n", {"null_words": ["todo"]},
        {"a.mp4": ["nan"], "b.mp4": "'TODO'"},
    ),
    "JSON that is no text": (
        "jsonl",
        '{"video": "a.mp4", "text": NaN}\n{"video": "b.mp4", "text": true}\n{"video": "c.mp4", "text": 3.5}\n'
        '{"video": "d.mp4", "text": ["x", false, null, "y"]}\n{"video": "e.mp4", "text": "null"}\n',
        {},
        {"a.mp4": "metadata.jsonl line 1, text: NaN", "b.mp4": "line 2, text: true, which is no text",
         "c.mp4": "line 3, text: 3.5, which is no text", "d.mp4": ["x", "y"], "e.mp4": "'null'"},
    ),
    "an object in JSON": (
        "jsonl",
        '{"video": "a.mp4", "text": {"en": "x"}}\n{"video": "b.mp4", "text": "y"}\n'
        '{"video": "c.mp4", "text": [{"role": "user"}, "z"]}\n',
        {},
        {"a.mp4": 'metadata.jsonl line 1, text: {"en": "x"}, an object, which is no text', "b.mp4": ["y"],
         "c.mp4": ["z"]},
    ),
    "a lone surrogate in JSON": (
        "jsonl", '{"video": "a.mp4", "text": "x \\ud83d"}\n{"video": "b.mp4", "text": "\\ud83d\\udc31"}\n', {},
        {"a.mp4": "line 1, text: half of a surrogate pair (\\ud83d)", "b.mp4": ["\U0001f431"]},
    ),
    "NUL in JSON": ("jsonl", '{"video": "a.mp4", "text": "x\\u0000"}\n', {}, {"a.mp4": "its caption holds NUL"}),
    "a cell of several lines": (
        "csv", f'file_name,text\na.mp4,"{MANY}"\nb.mp4,"x ""y"""\n', {}, {"a.mp4": [MANY], "b.mp4": ['x "y"']},
    ),
    "escaped quotes": (
        "csv",
        'file_name,text\na.mp4,"he said \\"hi, you\\", and left"\nb.mp4,"ends with \\"one\\""\nc.mp4,"C:\\dir\\"\n'
        'd.mp4,"two \\"lines\\"\nin one"\n',
        {},
        {"a.mp4": ['he said "hi, you", and left'], "b.mp4": ['ends with "one"'], "c.mp4": ["C:\\dir\\"],
         "d.mp4": ['two "lines"\nin one']},
    ),
    "rows of another length": (
        "csv",
        "file_name,text,fps\na.mp4,A mouse, steering,24\nb.mp4,x,24\nc.mp4,short\nd.mp4,trailing,24,,\n\n",
        {},
        {"a.mp4": "metadata.csv row 1 (line 2) has 4 cells, and the first line names 3 columns; quote a cell",
         "b.mp4": ["x"], "c.mp4": "row 3 (line 4) has 2 cells", "d.mp4": ["trailing"]},
    ),
    "a row of another length beside a good one": (
        "csv", "file_name,text\na.mp4,one\na.mp4,two, three\n", {}, {"a.mp4": ["one"]},
    ),
    "text after a quote": (
        "csv", 'file_name,text\na.mp4,"one" two\nb.mp4,5" screen\n', {},
        {"a.mp4": "row 1 (line 2) has text after the end of a quote", "b.mp4": ['5" screen']},
    ),
    "an escaped quote in an open one": (
        "csv", 'file_name,text\na.mp4,"one \\"two\\" three\nb.mp4,x\n', {},
        {"a.mp4": "row 1 (line 2) has text after the end of a quote", "b.mp4": ["x"]},
    ),
    "semicolons": ("csv", "file_name;text\na.mp4;one, two\n", {}, {"a.mp4": ["one, two"]}),
    "tabs": ("csv", "file_name\ttext\na.mp4\tone, two; three\n", {}, {"a.mp4": ["one, two; three"]}),
    "bars": ("csv", "file_name|text\na.mp4|one\n", {}, {"a.mp4": ["one"]}),
    "colons, named": ("csv", "file_name:text\na.mp4:one\n", {"delimiter": ":"}, {"a.mp4": ["one"]}),
    "a tab, named": ("csv", "file_name\ttext\na.mp4\tone\n", {"delimiter": "tab"}, {"a.mp4": ["one"]}),
    "what a spreadsheet writes first": ("csv", "sep=;\r\nfile_name;text\r\na.mp4;one\r\n", {}, {"a.mp4": ["one"]}),
    "spaces after commas": ("csv", 'file_name, text\na.mp4, "one, two"\n', {}, {"a.mp4": ["one, two"]}),
    "names in other case": ("csv", "File_Name,Caption \na.mp4,one\n", {}, {"a.mp4": ["one"]}),
    "a named column in other case": (
        "csv", "video,Prompt\na.mp4,one\n", {"text_columns": ["prompt"]}, {"a.mp4": ["one"]}
    ),
    "empty names": ("csv", "file_name,text,,\na.mp4,one,,\n,,,\n", {}, {"a.mp4": ["one"]}),
    "carriage returns alone": ("csv", "file_name,text\ra.mp4,one\rb.mp4,two", {}, {"a.mp4": ["one"], "b.mp4": ["two"]}),
    "UTF-16 with a mark": (
        "csv", "\ufefffile_name\ttext\na.mp4\t\u732b\n".encode("utf-16-le"), {}, {"a.mp4": ["\u732b"]}
    ),
    "UTF-16 JSON": ("jsonl", '\ufeff{"video": "a.mp4", "text": "x"}\n'.encode("utf-16-be"), {}, {"a.mp4": ["x"]}),
    "cp1252, named": (
        "csv", "file_name,text\na.mp4,caf\u00e9\n".encode("cp1252"), {"encoding": "cp1252"}, {"a.mp4": ["caf\u00e9"]}
    ),
    "a fallback is not for damage": (
        "jsonl", '{"video": "a.mp4", "text": NaN}\n{"video": "b.mp4", "text": true}\n',
        {"missing": "fallback", "fallback": "f"}, {"a.mp4": ["f"], "b.mp4": "which is no text"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLES)
@pytest.mark.parametrize("block_bytes", [1 << 20, 7])
def test_tables_are_read_as_people_write_them(
    tmp_path: Path, case: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sana.data.captions.metadata_readers.BLOCK_BYTES", block_bytes)
    suffix, table, captions, expected = TABLES[case]
    folder = make_files(tmp_path / "s", {**videos(expected), f"metadata.{suffix}": table})
    at = context(tmp_path, {"source": str(folder), "captions": captions})
    assert check_sources(at.config, work_dir=at.work_dir) == ([], [])
    done = FinishedDownload(at)
    assert done.captions == {path: found for path, found in expected.items() if isinstance(found, list)}
    assert done.rejected.keys() == expected.keys() - done.captions.keys()
    for path, (reason, detail) in done.rejected.items():
        assert reason == NONE and str(expected[path]) in detail


def test_a_parquet_table_of_missing_captions_rejects_them(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    video = [{"path": path, "bytes": None} for path in ("a.mp4", "b.mp4")]  # as `datasets` writes them
    rows = {"video": video, "text": pa.array([float("nan"), None], pa.float64())}
    pq.write_table(pa.table(rows), tmp_path / "s/metadata.parquet")
    folder = make_files(tmp_path / "s", videos(["a.mp4", "b.mp4"]))
    done = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert set(done.rejected.values()) == {(NONE, "its caption is empty")}


@pytest.mark.parametrize("column", ["file_name", "text"])
def test_a_parquet_table_of_bytes_that_are_no_text_is_one_error(tmp_path: Path, column: str) -> None:
    """Arrow reads and writes them without a word."""
    offsets, data = (pa.py_buffer(np.array([0, 1, 3], np.int32).tobytes()), pa.py_buffer(b"x\xff\xfe"))
    broken = pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])
    (tmp_path / "s").mkdir()
    good = {"file_name": ["a.mp4", "b.mp4"], "text": ["x", "y"]}
    pq.write_table(pa.table({**good, column: broken}), tmp_path / "s/metadata.parquet")
    folder = make_files(tmp_path / "s", videos(["a.mp4", "b.mp4"]))
    at = context(tmp_path, {"source": str(folder)})
    with pytest.raises(ConfigError, match=f"metadata.parquet cannot be read: column '{column}': .*UTF8.* index 1"):
        run_alone(download, at, {})
    assert len(check_sources(at.config, work_dir=at.work_dir)[0]) == 1


def test_null_words_are_no_source_and_no_motion_score(tmp_path: Path) -> None:
    table = "file_name,text,source_id,motion\na.mp4,x,nan,None\nb.mp4,y,NULL,12\nc.mp4,z,film,n/a\n"
    folder = make_files(tmp_path / "s", {**videos(["a.mp4", "b.mp4", "c.mp4"]), "metadata.csv": table})
    done = FinishedDownload(context(tmp_path, {"source": str(folder), "captions": {"motion_score_column": "motion"}}))
    assert done.captions == {"a.mp4": ["x"], "b.mp4": ["y motion score: 12."], "c.mp4": ["z"]}
    own = {clip["path"]: clip["clip_id"] for clip in done.clips}
    assert {clip["path"]: clip["source_id"] for clip in done.clips} == {**own, "c.mp4": "film"}


def test_a_row_that_names_no_video_and_cannot_be_read_is_a_reject_of_its_own(tmp_path: Path) -> None:
    table = "text,file_name\nA mouse, steering,a.mp4\none,b.mp4\n"
    folder = make_files(tmp_path / "s", {**videos(["a.mp4", "b.mp4"]), "metadata.csv": table})
    done = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert done.captions == {"b.mp4": ["one"]}
    reason, detail = done.rejected["row 1 of metadata.csv"]
    assert reason == "bad_row" and detail.startswith("metadata.csv row 1 (line 2) has 3 cells")
    assert done.rejected["a.mp4"][0] == NONE


ERRORS: dict[str, tuple[str, bytes | str, str]] = {
    "never closed": ("csv", 'file_name,text\na.mp4,"one\nb.mp4,two\n', r"row 1 \(line 2\) opens a quote that is never"),
    "closed in a later row": (
        "csv", 'file_name,text\na.mp4,x\nb.mp4,"one\nc.mp4,two\nd.mp4,three"\n',
        r"row 2 \(line 3\) opens a quote that closes only in line 5, and line 4 looks like a row of its own: 'c.mp4,",
    ),
    "closed in the middle of a later row": (
        "csv", 'file_name,text\na.mp4,"one\nb.mp4,"two"\n', r"row 1 \(line 2\) opens .* only in line 3, in the middle",
    ),
    "rows without endings": (
        "csv", 'file_name,text\nclip_1,"one\nclip_2,two\nclip_3,three"\n', r"line 3 looks like a row of its own",
    ),
    "in the first line": ("csv", '"file_name,text\na.mp4,one\n', "line 1 opens a quote that is never closed"),
    "latin-1": ("csv", b"file_name,text\na.mp4,x\nb.mp4,caf\xe9\n", "is not UTF-8: in line 3, byte 4 .*is 0xe9"),
    "a lone surrogate": ("csv", b"file_name,text\na.mp4,\xed\xa0\x80\n", "not UTF-8: in line 2.*captions.encoding"),
    "JSON in latin-1": ("jsonl", b'{"video": "a.mp4", "text": "x"}\n{"video": "\xe9"}\n', "in line 2, byte 12 is 0xe9"),
    "JSON that is cut": ("jsonl", '{"video": "a.mp4", "text": "x"}\n{"video": "b', "line 2 is not.*was the file cut"),
    "a JSON list": ("jsonl", '[\n{"video": "a.mp4"}\n]\n', "line 1 is not JSON.*each line is an object of its own"),
    "a JSON list in a line": ("jsonl", '[{"video": "a.mp4"}]\n', "line 1 is no object in braces.*object of its own"),
    "a comma after each object": (
        "jsonl", '{"video": "a.mp4", "text": "x"},\n{"video": "b.mp4", "text": "y"}\n',
        "line 1 is not JSON: it ends with a comma; in JSON lines each line is an object of its own",
    ),
    "a comment in JSON": ("jsonl", '{"video": "a.mp4"}\n// b\n', "line 2 is not JSON: .* at character 1, '// b'"),
    "an object over several lines": (
        "jsonl", '{\n"video": "a.mp4"\n}\n', "line 1 is not JSON: .* at its end; in JSON lines each line",
    ),
    "another delimiter": ("csv", "file_name~text\na.mp4~x\n", "separated by ',' here; if it is '~', set captions.deli"),
    "UTF-16 without a mark": ("csv", "file_name,text\na.mp4,x\n".encode("utf-16-le"), "encoding: utf-16-le"),
    "no first line, semicolons": ("csv", "a.mp4;x, y\n", "It has: a.mp4;x, y.*its first line must name the columns"),
    "no first line": ("csv", "a.mp4,one\nb.mp4,two\n", "none of the columns.*its first line must name the columns"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_a_table_that_cannot_be_read_is_one_error_with_file_and_line(tmp_path: Path, case: str) -> None:
    suffix, table, says = ERRORS[case]
    folder = make_files(tmp_path / "s", {**videos(["a.mp4"]), f"metadata.{suffix}": table})
    at = context(tmp_path, {"source": str(folder)})
    with pytest.raises(ConfigError, match=rf"^download.datasets\[d0\]: metadata.{suffix} (?s:.*){says}") as caught:
        run_alone(download, at, {})
    (problem,), _ = check_sources(at.config, work_dir=at.work_dir)
    assert str(problem) == str(caught.value), "the check before a run says the same"
