"""Names that are not spelled as the files are mean the only file that fits; several layouts in one folder are told."""

import re
from pathlib import Path
from typing import Any

import pytest

from sana.data.sources.source_check import check_sources
from sana.errors import ConfigError
from sana.stages import download
from tests.downloads import FinishedDownload, context, csv_of
from tests.pipeline_runs import run_alone
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)

NFC, NFD = "caf\u00e9", "cafe\u0301"
TEXTS: dict[str, tuple[list[str], list[str], dict[str, str]]] = {
    # videos, texts, and by video the text that it has, or a part of the reason why none
    "decomposed": ([f"{NFD}.mp4"], [f"{NFC}.txt"], {f"{NFD}.mp4": f"{NFC}.txt"}),
    "composed, in a folder": ([f"{NFC}/a.mp4"], [f"{NFD}/a.txt"], {f"{NFC}/a.mp4": f"{NFD}/a.txt"}),
    "both are there": (
        [f"{NFC}.mp4", f"{NFD}.mp4"], [f"{NFC}.txt", f"{NFD}.txt"],
        {f"{NFC}.mp4": f"{NFC}.txt", f"{NFD}.mp4": f"{NFD}.txt"},
    ),
    "two videos for one text": (
        [f"{NFD}.mp4", f"{NFC} .mp4"], [f"{NFC}.txt"],
        {f"{NFD}.mp4": f'"{NFC}.txt" is near', f"{NFC} .mp4": f'"{NFC}.txt" is near'},
    ),
    "blanks": (["a.mp4", " b.mp4"], ["a .txt", "b\u00a0.txt"], {"a.mp4": "a .txt", " b.mp4": "b\u00a0.txt"}),
    "an encoded blank": (["a b.mp4"], ["a%20b.txt"], {"a b.mp4": "a%20b.txt"}),
    "a per cent sign": (["50%25.mp4", "50%.mp4"], ["50%.txt"], {"50%25.mp4": "there is no", "50%.mp4": "50%.txt"}),
    "case": (["Clip.MP4"], ["clip.txt"], {"Clip.MP4": "clip.txt"}),
    "case, where both are there": (["A.mp4", "a.mp4"], ["a.txt"], {"A.mp4": "there is no A.txt", "a.mp4": "a.txt"}),
    "case, of two": (["aB.mp4"], ["AB.txt", "ab.txt"], {"aB.mp4": 'there is no aB.txt; "AB.txt" is near'}),
    "the video's ending too": (["a.mp4"], ["a.mp4.txt"], {"a.mp4": "a.mp4.txt"}),
    "an accent": (["caf\u00e9.mp4", "b.mp4"], ["cafe.txt"],
                  {"caf\u00e9.mp4": 'there is no caf\u00e9.txt; "cafe.txt" is near', "b.mp4": "there is no b.txt"}),
    "a folder of texts": (["v/a.mp4"], ["texts/a.txt"], {"v/a.mp4": 'there is no v/a.txt; "texts/a.txt" is near'}),
    "two folders of texts": (["v/a.mp4"], ["x/a.txt", "y/a.txt"], {"v/a.mp4": "there is no v/a.txt"}),
    "a dash": (["clip-01.mp4"], ["clip_01.txt"], {"clip-01.mp4": '"clip_01.txt" is near'}),
    "another folder": (["v/a.mp4", "v/b.mp4"], ["t/a.txt", "t/b.txt", "u/b.txt"],
                       {"v/a.mp4": 'there is no v/a.txt; "t/a.txt" is near', "v/b.mp4": "there is no v/b.txt"}),
}  # fmt: skip


@pytest.mark.parametrize("case", TEXTS)
def test_a_text_belongs_to_the_only_video_that_its_name_fits(tmp_path: Path, case: str) -> None:
    videos, texts, expected = TEXTS[case]
    files = {**{name: f"bytes of {name}" for name in videos}, **{name: f"text {name}" for name in texts}}
    done = FinishedDownload(context(tmp_path, {"source": str(make_files(tmp_path / "s", files))}))
    assert done.captions == {video: [f"text {text}"] for video, text in expected.items() if text in texts}
    for video, (reason, detail) in done.rejected.items():
        assert reason == "no_caption" and expected[video] in detail


CELLS: dict[str, tuple[list[str], str, str]] = {  # videos, what a row names, and the video, or part of why none
    "backslashes": (["clips/a1.mp4"], "clips\\a1.mp4", "clips/a1.mp4"),
    "backslashes after a dot": (["clips/a1.mp4"], ".\\clips\\a1.mp4", "clips/a1.mp4"),
    "a literal backslash": (["a\\b.mp4", "a/b.mp4"], "a\\b.mp4", "a\\b.mp4"),
    "decomposed": ([f"{NFD}.mp4"], f"{NFC}.mp4", f"{NFD}.mp4"),
    "composed": ([f"{NFC}.mp4"], f"{NFD}.mp4", f"{NFC}.mp4"),
    "blanks": (["a.mp4"], " a.mp4\u00a0", "a.mp4"),
    "blanks of the file": ([" a .mp4"], "a.mp4", " a .mp4"),
    "an encoded name": (["a b/c\u00e9.mp4"], "a%20b/c%C3%A9.mp4", "a b/c\u00e9.mp4"),
    "an encoded name that is there": (["a%20b.mp4", "a b.mp4"], "a%20b.mp4", "a%20b.mp4"),
    "a leading dot": (["a.mp4"], "././a.mp4", "a.mp4"),
    "the ending in capitals": (["a.mp4"], "a.MP4", "a.mp4"),
    "the ending in capitals, of two": (["a.mp4", "a.Mp4"], "a.MP4", "is not there"),
    "no ending": (["a.mp4"], "a", "a.mp4"),
    "no ending, a dot in the name": (["v1.2.mov"], "v1.2", "v1.2.mov"),
    "no ending, of two": (["a.mp4", "a.mov"], "a", "is not there"),
    "case": (["Clips/A.mp4"], "clips/a.MP4", "Clips/A.mp4"),
    "case, of two": (["Clips/A.mp4", "clips/A.mp4"], "clips/a.MP4", '; "Clips/A.mp4" is near'),
    "case, no ending": (["A.mp4"], "a", "A.mp4"),
    "an accent": (["caf\u00e9.mp4"], "cafe.mp4", 'row 1 of metadata.csv: it is not there; "caf\u00e9.mp4" is near'),
    "another ending": (["a.mp4"], "a.mov", 'it is not there; "a.mp4" is near'),
    "a plus for a blank": (["a b.mp4"], "a+b.mp4", 'it is not there; "a b.mp4" is near'),
    "a folder too many": (["b/a.mp4"], "data/clips/a.mp4", 'it is not there; "b/a.mp4" is near'),
    "a folder too many, of two": (["b/a.mp4", "c/a.mp4"], "data/a.mp4", "is not there"),
    "an address near a file": (["b/a.mp4"], "https://host/v/a.mp4?dl=1", 'not read from here;.*; "b/a.mp4" is near'),
    "an absolute path near a file": (["a.mp4"], "/home/me/A.mov", 'is not below .*; "a.mp4" is near'),
    "a path of Windows near a file": (["a.mp4"], "D:\\v\\a.mp4", 'of Windows; .*; "a.mp4" is near'),
    "single quotes": (["b/a.mp4"], "'a.mp4'", 'is not there.*; "b/a.mp4" is near'),
    "no letter": (["a.mp4", "....mp4"], "d/???.mp4", "is not there$"),
    "another folder": (["v/a.mp4"], "clips/a.mp4", 'it is not there; "v/a.mp4" is near'),
    "a path of another machine": (["v/a.mp4"], "C:\\old\\a.mp4", "is an absolute path of Windows"),
    "up and out": (["secret.mp4"], "..\\secret.mp4", "is not there"),
    "a path of Windows": (["a.mp4"], "C:\\data\\a.mp4", "is an absolute path of Windows"),
    "a share of Windows": (["a.mp4"], "\\\\host\\data\\a.mp4", "is an absolute path of Windows"),
}  # fmt: skip


# beside a table that is the source nothing is listed: only other spellings of the name itself are looked for
SPELLINGS = [
    case
    for case, (_, _, expected) in CELLS.items()
    if not any(word in case for word in ("case", "in capitals", "of the file")) and "near" not in expected
]


@pytest.mark.parametrize(
    ("case", "is_source"), [*((case, False) for case in CELLS), *((case, True) for case in SPELLINGS)]
)
def test_a_row_means_the_only_video_that_its_name_fits(tmp_path: Path, case: str, is_source: bool) -> None:
    videos, cell, expected = CELLS[case]
    files = {**{name: f"bytes of {name}" for name in videos}, "metadata.csv": csv_of([{"video": cell, "text": "x"}])}
    folder = make_files(tmp_path / "s", files)
    done = FinishedDownload(context(tmp_path, {"source": f"{folder}/metadata.csv" if is_source else str(folder)}))
    found = [video for video in videos if video == expected]
    assert done.captions == dict.fromkeys(found, ["x"])
    details = [detail for reason, detail in done.rejected.values() if reason in ("missing", "outside")]
    assert len(details) == 1 - len(found) and all(re.search(expected, detail) for detail in details)


def test_two_rows_share_a_video_only_where_both_surely_mean_it(tmp_path: Path) -> None:
    names = ["clips/a.mp4", "clips\\a.mp4", "b.mp4", "B.mp4", "c", "C"]
    files = {name: f"bytes of {name}" for name in ("clips/a.mp4", "b.mp4", "c.mp4")}
    table = csv_of([{"video": name, "text": f"text {name}"} for name in names])
    folder = make_files(tmp_path / "s", {**files, "metadata.csv": table})
    done = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert done.captions == {"clips/a.mp4": [f"text {name}" for name in names[:2]], "b.mp4": ["text b.mp4"],
                             "c.mp4": ["text c"]}  # fmt: skip
    assert {name: reason for name, (reason, _) in done.rejected.items()} == {"B.mp4": "missing", "C": "missing"}


TABLE = "file_name,text\n"
LAYOUTS: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, str] | str]] = {
    # files beside the videos, settings, and by video its caption ("": rejected), or the error
    "a stray table": ({"old/metadata.csv": f"{TABLE}gone.mp4,g\n"}, {}, {"a.mp4": "text a", "b.mp4": "text b"}),
    "a stray table of other columns": ({"old/metadata.csv": "x,y\n1,2\n"}, {}, {"a.mp4": "text a", "b.mp4": "text b"}),
    "a stray list": (
        {"old/prompts.txt": "x\ny", "old/videos.txt": "gone.mp4"}, {}, {"a.mp4": "text a", "b.mp4": "text b"},
    ),
    "a table for its folder": (
        {"in/c.mp4": "", "in/deep/d.mp4": "", "in/c.txt": "not this", "in/metadata.csv": f"{TABLE}c.mp4,row c\n"}, {},
        {"a.mp4": "text a", "b.mp4": "text b", "in/c.mp4": "row c", "in/deep/d.mp4": ""},
    ),
    "a list for its folder": (
        {"in/c.mp4": "", "in/prompts.txt": "row c", "in/videos.txt": "c.mp4"}, {},
        {"a.mp4": "text a", "b.mp4": "text b", "in/c.mp4": "row c"},
    ),
    "a table for one folder and a list for another": (
        {"in/c.mp4": "", "in/metadata.csv": f"{TABLE}c.mp4,row c\n", "on/d.mp4": "", "on/prompts.txt": "row d",
         "on/videos.txt": "d.mp4"}, {},
        {"a.mp4": "text a", "b.mp4": "text b", "in/c.mp4": "row c", "on/d.mp4": "row d"},
    ),
    "a table of all": (
        {"metadata.csv": f"{TABLE}a.mp4,row a\nb.mp4,row b\n"}, {}, {"a.mp4": "row a", "b.mp4": "row b"}
    ),
    "a table of all, some without a text and with lone quotes": (
        {"c.mp4": "", "metadata.csv": f'{TABLE}c.mp4\na.mp4,5" row a\nb.mp4,row b'}, {},
        {"a.mp4": '5" row a', "b.mp4": "row b", "c.mp4": ""},
    ),
    "a table of most": (
        {"c.mp4": "", "metadata.csv": f"{TABLE}a.mp4,row a\nc.mp4,row c\n"}, {},
        {"a.mp4": "row a", "b.mp4": "", "c.mp4": "row c"},
    ),
    "a table of none": (
        {"metadata.csv": f"{TABLE}gone.mp4,g\n"}, {}, "metadata.csv names 0 of 2 videos, and 2 of the others have",
    ),
    "a table of few": (
        {"c.mp4": "", "metadata.csv": f"{TABLE}c.mp4,row c\n"}, {}, "names 1 of 3 .*captions.layout: textfile takes",
    ),
    "a table of none, chosen": (
        {"metadata.csv": f"{TABLE}gone.mp4,g\n"}, {"layout": "metadata"}, {"a.mp4": "", "b.mp4": ""}
    ),
    "texts, chosen": (
        {"metadata.csv": f"{TABLE}gone.mp4,g\n"}, {"layout": "textfile"}, {"a.mp4": "text a", "b.mp4": "text b"}
    ),
    "a table in a sub-folder, chosen": (
        {"in/c.mp4": "", "in/metadata.csv": f"{TABLE}c.mp4,row c\n"}, {"layout": "metadata"},
        {"a.mp4": "", "b.mp4": "", "in/c.mp4": "row c"},
    ),
    "a column chooses the table": (
        {"in/c.mp4": "", "in/metadata.csv": f"{TABLE}c.mp4,row c\n"}, {"text_columns": ["text"]},
        {"a.mp4": "", "b.mp4": "", "in/c.mp4": "row c"},
    ),
    "a list for all and a table for a part": (
        {"in/c.mp4": "", "in/metadata.csv": f"{TABLE}c.mp4,x\n", "prompts.txt": "x", "videos.txt": "a.mp4"}, {},
        "two caption layouts are there: videos.txt is for the whole folder, and in/metadata.csv for a part",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_a_table_speaks_for_its_folder_and_two_layouts_are_told(tmp_path: Path, case: str) -> None:
    files, captions, expected = LAYOUTS[case]
    beside = {"a.mp4": "", "b.mp4": "", "a.txt": "text a", "b.txt": "text b"}
    every = {name: text or f"bytes of {name}" for name, text in {**beside, **files}.items()}
    at = context(tmp_path, {"source": str(make_files(tmp_path / "s", every)), "captions": captions})
    if isinstance(expected, str):
        with pytest.raises(ConfigError, match=rf"^download.datasets\[d0\]: .*{expected}") as caught:
            run_alone(download, at, {})
        (problem,), _ = check_sources(at.config, work_dir=at.work_dir)
        assert str(problem) == str(caught.value), "the check before a run says the same"
        return
    assert not check_sources(at.config, work_dir=at.work_dir)[0]
    done = FinishedDownload(at)
    assert done.captions == {video: [text] for video, text in expected.items() if text}
    assert {path for path, (reason, _) in done.rejected.items() if reason == "no_caption"} == {
        video for video, text in expected.items() if not text
    }


def test_a_table_without_videos_in_its_folder_is_read_where_no_text_is_there(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"v/a.mp4": "1", "v/b.mp4": "2"})
    make_files(folder, {"meta/metadata.csv": f"{TABLE}{folder}/v/a.mp4,one\n{folder}/v/b.mp4,two\n"})
    done = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert done.captions == {"v/a.mp4": ["one"], "v/b.mp4": ["two"]}


@pytest.mark.parametrize(
    ("texts", "captions", "says"),
    [
        (["one\n\ntwo", "one\ntwo", "one"], {}, "2 of 3 texts .* several lines.*captions.lines: one"),
        (["one\n\u200b\n", "one\ntwo", "one"], {}, None),
        (["one\n\ntwo", "one\ntwo", "one"], {"lines": "alternatives"}, None),
        (["one\n\ntwo", "one\ntwo", "one"], {"lines": "one"}, None),
        ([b"\xff", "one\ntwo"], {}, "1 of 1 texts"),
    ],
)
def test_texts_of_several_lines_are_told_before_a_run(tmp_path: Path, texts: list, captions: dict, says: str) -> None:
    files = {f"{at}.{end}": text for at, text in enumerate(texts) for end, text in (("mp4", f"{at}"), ("txt", text))}
    at = context(tmp_path, {"source": str(make_files(tmp_path / "s", files)), "captions": captions})
    problems, notes = check_sources(at.config, work_dir=at.work_dir)
    assert not problems and len(notes) == (says is not None)
    if says:
        assert notes[0].startswith("download.datasets[d0]: ") and re.search(says, notes[0])
