"""Laws of the download stage: clips in = clips out + rejected, for any number of workers and every caption setting."""

import os
import time
from pathlib import Path

import pytest

from sana.counts import DatasetCounts
from sana.data.sources.listing import SourceFile
from sana.data.sources.source import Source
from sana.data.sources.source_check import check_sources
from sana.errors import ConfigError
from sana.progress import Progress
from sana.stages import download
from tests.downloads import FinishedDownload, context, csv_of, parquet_of, videos
from tests.pipeline_runs import run_alone
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("workers", [1, 7])
def test_workers_and_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    paths = [f"{i % 7}/{i}.mp4" for i in range(300)]
    rows = [{"file_name": path, "text": f"clip {path}"} for path in paths[:290]]
    make_files(tmp_path / "one", {**videos(paths), "metadata.csv": csv_of(rows)})
    make_files(tmp_path / "two", {**videos(paths), **{f"{path[:-4]}.txt": "x" for path in paths[5:]}})
    sets = ({"source": f"{tmp_path}/one"}, {"source": f"{tmp_path}/two"})
    whole = FinishedDownload(context(tmp_path, *sets))
    monkeypatch.setattr("sana.data.sources.ingest.CHUNK_CLIPS", 50)
    monkeypatch.setattr("sana.data.sources.listing.FILES_AT_ONCE", 11)
    seen: list[Progress] = []
    pieces = FinishedDownload(context(tmp_path / "again", *sets, workers=workers, report=seen.append))
    assert (pieces.clips, pieces.rejects) == (whole.clips, whole.rejects)
    assert pieces.artifact.content == whole.artifact.content
    assert whole.artifact.counts.datasets == {"d0": DatasetCounts(300, 10), "d1": DatasetCounts(300, 5)}
    assert [p.done for p in seen] == sorted(p.done for p in seen) and (seen[-1].done, seen[-1].total) == (600, 600)


def test_large_files_are_counted_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only when the whole part of a thread is read: a part of large files takes minutes."""
    make_files(tmp_path / "one", {**videos([f"{i}.mp4" for i in range(12)]), **{f"{i}.txt": "x" for i in range(12)}})
    digest = Source.digest

    def slow(source: Source, file: SourceFile) -> str:
        time.sleep(0.03)
        return digest(source, file)

    monkeypatch.setattr("sana.runtime.threads.IDLE_S", 0.01)
    monkeypatch.setattr(Source, "digest", slow)
    seen: list[Progress] = []
    FinishedDownload(context(tmp_path, {"source": f"{tmp_path}/one"}, workers=1, report=seen.append))
    assert {p.done for p in seen} >= set(range(1, 13)) and seen[-1].done == 12


def test_rows_without_videos_and_videos_without_rows_are_rejected_by_name(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.mp4", "text": "a"},
        {"file_name": "gone.mp4", "text": "b"},
        {"file_name": "gone.mp4", "text": "named twice, one clip"},
        {"file_name": "a.webp", "text": "c"},
        {"file_name": "../secret.mp4", "text": "d"},
        {"file_name": "/etc/passwd", "text": "e"},
        {"file_name": "https://host/x.mp4", "text": "f"},
        {"file_name": "s3://bucket/x.mp4", "text": "g"},
        {"file_name": "", "text": "h"},
        {"file_name": "blank.mp4", "text": " "},
    ]
    files = {**videos(["a.mp4", "blank.mp4", "unnamed.mp4"]), "metadata.csv": csv_of(rows), "a.webp": ""}
    make_files(tmp_path, {"secret.mp4": "s"})
    done = FinishedDownload(context(tmp_path, {"source": str(make_files(tmp_path / "s", files))}))
    assert done.captions == {"a.mp4": ["a"]}
    assert {path: reason for path, (reason, _) in done.rejected.items()} == {
        "gone.mp4": "missing",
        "a.webp": "missing",
        "../secret.mp4": "outside",
        "/etc/passwd": "outside",
        "https://host/x.mp4": "outside",
        "s3://bucket/x.mp4": "outside",
        "row 9 of metadata.csv": "missing",
        "blank.mp4": "no_caption",
        "unnamed.mp4": "no_caption",
    }
    assert done.rejected["gone.mp4"][1] == "row 2 of metadata.csv: it is not there"
    assert ".mkv" in done.rejected["a.webp"][1] and "'..'" in done.rejected["../secret.mp4"][1]
    assert done.rejected["unnamed.mp4"][1] == "no row of metadata.csv names it"


def test_unreadable_videos_are_rejected_and_the_others_are_kept(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "s", {"ok.mp4": "1", "ok.txt": "fine", "latin.mp4": "2", "latin.txt": b"caf\xe9"})
    make_files(folder, {os.fsdecode(b"caf\xe9.mp4"): "3", "folder.mp4/in.mp4": "4", "folder.mp4/in.txt": "inside"})
    os.mkfifo(folder / "pipe.mp4")
    (folder / "gone.mp4").symlink_to("nowhere")
    done = FinishedDownload(context(tmp_path, {"source": str(folder)}))
    assert done.captions == {"ok.mp4": ["fine"], "folder.mp4/in.mp4": ["inside"]}
    reasons = {path: reason for path, (reason, _) in done.rejected.items()}
    unreadable = dict.fromkeys(["caf\\xe9.mp4", "folder.mp4", "pipe.mp4", "gone.mp4"], "unreadable")
    assert reasons == {**unreadable, "latin.mp4": "no_caption"}


def test_two_videos_of_one_stem_share_their_text(tmp_path: Path) -> None:
    files = {"a.mp4": "1", "a.mov": "2", "a.txt": "both", "a.TXT": "not this one"}
    done = FinishedDownload(context(tmp_path, {"source": str(make_files(tmp_path / "s", files))}))
    assert done.captions == {"a.mp4": ["both"], "a.mov": ["both"]}


def test_the_fallback_serves_clips_without_a_caption(tmp_path: Path) -> None:
    files = {"a.mp4": "1", "a.txt": "own", "b.mp4": "2", "c.mp4": "3", "c.txt": "\n \n", "d.mp4": "4", "d.txt": b"\xff"}
    folder = str(make_files(tmp_path / "s", files))
    captions = {"missing": "fallback", "fallback": "a movie", "prefix": "<", "suffix": ">", "trigger": "sks"}
    done = FinishedDownload(context(tmp_path, {"source": folder, "captions": captions}))
    assert done.captions == {"a.mp4": ["sks, <own>"], "b.mp4": ["sks, <a movie>"], "c.mp4": ["sks, <a movie>"]}
    assert list(done.rejected) == ["d.mp4"], "a damaged text is not a missing one"
    nothing = FinishedDownload(
        context(tmp_path / "2", {"source": folder, "captions": {"layout": "none", "fallback": "f"}})
    )
    assert set(map(tuple, nothing.captions.values())) == {("f",)} and len(nothing.captions) == 4


def test_every_column_setting_has_its_effect(tmp_path: Path) -> None:
    rows = [
        {"clip": "a.mp4", "long": "a long one", "short": ["s1", "", "s2"], "film": 7, "flow": 12.7},
        {"clip": "a.mp4", "long": None, "short": ["s3"], "film": None, "flow": None},
        {"clip": "b.mp4", "long": "b", "short": None, "film": 7, "flow": float("nan")},
        {"clip": "c.mp4", "long": "c", "short": [], "film": None, "flow": 30},
    ]
    captions = {
        "video_column": "clip",
        "text_columns": ["long", "short"],
        "source_column": "film",
        "motion_score_column": "flow",
    }
    folder = make_files(tmp_path / "s", {**videos(["a.mp4", "b.mp4", "c.mp4"]), "metadata.parquet": parquet_of(rows)})
    done = FinishedDownload(context(tmp_path, {"source": str(folder), "captions": captions}))
    scored = [f"{text} motion score: 12." for text in ("a long one", "s1", "s2")]
    assert done.captions == {"a.mp4": [*scored, "s3"], "b.mp4": ["b"], "c.mp4": ["c motion score: 30."]}
    sources = {clip["path"]: clip["source_id"] for clip in done.clips}
    ids = {clip["path"]: clip["clip_id"] for clip in done.clips}
    assert sources == {"a.mp4": "7", "b.mp4": "7", "c.mp4": ids["c.mp4"]}


@pytest.mark.parametrize(
    ("captions", "files", "says"),
    [
        ({"text_columns": ["captoin"]}, {"metadata.csv": "file_name,caption\na.mp4,x\n"}, "did you mean 'caption'"),
        ({"text_columns": ["CAPTON"]}, {"metadata.csv": "file_name,Caption\na.mp4,x\n"}, "did you mean 'Caption'"),
        ({"text_columns": ["label"]}, {"metadata.csv": "file_name,caption\na.mp4,x\n"}, "no column 'label'. It has: f"),
        ({"video_column": "file"}, {"metadata.csv": "file_name,caption\na.mp4,x\n"}, "did you mean 'file_name'"),
        ({}, {"metadata.csv": "name,caption\na.mp4,x\n"}, r"none of the columns file_name.*video_column.*It has: name"),
        ({}, {"metadata.csv": "video,label\na.mp4,x\n"}, "text_columns"),
        ({}, {"metadata.csv": 'video,text\na.mp4,x,"y\n'}, r"row 1 \(line 2\) opens a quote that is never"),
        ({}, {"metadata.csv": "video,text,text\na.mp4,x,y\n"}, "two columns of one name"),
        ({}, {"metadata.csv": "", "x.txt": ""}, "metadata.csv is an empty file: remove it, or set captions.layout"),
        ({}, {"metadata.csv": "\n", "x.txt": ""}, "none of the columns"),
        ({}, {"metadata.jsonl": '{"video": "a.mp4", "text": "x"}\n{oops\n'}, "line 2 is not JSON"),
        ({}, {"metadata.jsonl": '{"video": {"path": "a.mp4"}, "text": "x"}\n'}, "line 1, video holds"),
        ({}, {"metadata.parquet": b"PAR1 and more"}, "metadata.parquet cannot be read"),
        ({}, {"metadata.csv": "video,text\n", "metadata.jsonl": ""}, "both tables of one folder"),
        ({"motion_score_column": "m"}, {"metadata.csv": "video,text,m\na.mp4,x,fast\n"}, "'m' is the motion.*fast"),
        ({"motion_score_column": "m"}, {"metadata.csv": "video,text,m\na.mp4,x,inf\n"}, "infinity"),
        ({"motion_score_column": "m"}, {"a.txt": "x"}, "motion_score_column names a column, but no metadata"),
        ({"layout": "metadata"}, {"a.txt": "x"}, r"layout is metadata, but no metadata\.csv"),
        ({"layout": "lines"}, {"prompts.txt": "x"}, "layout is lines, but no prompts.txt beside a videos.txt"),
        ({}, {"prompts.txt": "x\ny\n", "videos.txt": "a.mp4\n"}, "videos.txt has 1 lines and prompts.txt has 2"),
        ({}, {"prompts.txt": "x", "prompt.txt": "y", "videos.txt": "a.mp4"}, "both pair with videos.txt"),
        ({}, {"prompts.txt": b"\xff", "videos.txt": "a.mp4"}, "not UTF-8"),
    ],
)  # fmt: skip
def test_unusable_captions_are_one_config_error(tmp_path: Path, captions: dict, files: dict, says: str) -> None:
    source = str(make_files(tmp_path / "s", {"a.mp4": "1", **files}))
    stage_context = context(tmp_path, {"source": source, "captions": captions})
    with pytest.raises(ConfigError, match=f"(?s)download.datasets\\[d0\\]: .*{says}") as caught:
        run_alone(download, stage_context, {})
    assert not (tmp_path / "root/download").exists()
    (problem,), notes = check_sources(stage_context.config, work_dir=stage_context.work_dir)
    assert str(problem) == str(caught.value) and not notes, "the check before a run gives the same message"


def test_a_source_pattern_gives_the_source_and_one_without_a_match_is_an_error(tmp_path: Path) -> None:
    names = ["film1_s1.mp4", "film1_s2.mp4", "other.mp4"]
    folder = make_files(tmp_path / "s", {**videos(names), **{f"{name[:-4]}.txt": "x" for name in names}})
    done = FinishedDownload(context(tmp_path, {"source": str(folder), "source_pattern": "^(film[0-9]+)_"}))
    sources = {clip["path"]: clip["source_id"] for clip in done.clips}
    assert sources["film1_s1.mp4"] == sources["film1_s2.mp4"] == "film1"
    assert sources["other.mp4"] == next(clip["clip_id"] for clip in done.clips if clip["path"] == "other.mp4")
    with pytest.raises(ConfigError, match="finds nothing in any of 3 file names, such as 'film1_s1'"):
        run_alone(download, context(tmp_path, {"source": str(folder), "source_pattern": "^shot(.)"}), {})


def test_a_disabled_data_set_is_left_out_and_captions_are_part_of_the_recipe(tmp_path: Path) -> None:
    folder = str(make_files(tmp_path / "s", {"a.mp4": "1", "a.txt": "x", "b.csv": "y"}))
    both = ({"source": folder}, {"source": "/nowhere", "disabled": True})
    one = FinishedDownload(context(tmp_path, *both))
    assert len(one.clips) == 1 and list(one.artifact.counts.datasets) == ["d0"]
    other = FinishedDownload(context(tmp_path, {"source": folder, "captions": {"prefix": "old movie: "}}))
    assert other.artifact.fingerprint != one.artifact.fingerprint
    assert other.artifact.content["videos"] == one.artifact.content["videos"]
    assert other.captions == {"a.mp4": ["old movie: x"]}
