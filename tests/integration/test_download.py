"""Laws of the download stage: clips in = clips out + refused for every layout, and one content for one data set."""

import csv
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.main import main
from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.data.manifest import read_table
from sana.data.source import fetched, open_sources
from sana.data.source_check import check_sources
from sana.errors import ConfigError
from sana.progress import Progress
from sana.stages import download
from sana.store import open_store
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(60)

DEMO = Path(__file__).parents[2] / "configs/demo.yaml"
# path -> captions; names with a space, a line feed, other scripts, an upper-case ending, a folder
CLIPS = {
    "a.mp4": ["a cat"],
    "b c.MOV": ["two dogs", "dogs, \u72ac \u72ac"],
    "deep/er/\u00e9t\u00e9.webm": ['he said "no", and left'],
    "deep/x.mkv": ["one", "two", "three"],
}


def make(folder: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return folder


def videos(paths: Any = CLIPS) -> dict[str, bytes | str]:
    return {path: f"bytes of {path}" for path in paths}


def context(tmp_path: Path, *datasets: dict[str, Any], workers: int = 4, report: Any = None) -> Context:
    sets = [{"id": f"d{i}", "max_refused_fraction": 1.0, **dataset} for i, dataset in enumerate(datasets)]
    places = [f"root={tmp_path}/root", f"work_dir={tmp_path}/work", f"download.resources.num_workers={workers}"]
    config = load_config(DEMO, [*places, f"download.datasets={json.dumps(sets)}"])
    more = {"report": report} if report else {}
    return Context(config, open_store(config.root), Path(config.work_dir), **more)


class Done:
    """A finished download, its tables as rows."""

    def __init__(self, context: Context) -> None:
        self.artifact: Artifact = download.run(context, {})
        self.context = context
        tables = {n: read_table(context.store, self.artifact, f"{n}.parquet") for n in ("clips", "captions", "rejects")}
        self.clips, captions, self.rejects = (tables[name].to_pylist() for name in tables)
        assert [clip["clip_id"] for clip in self.clips] == [row["clip_id"] for row in captions], "row beside row"
        assert [clip["clip_id"] for clip in self.clips] == sorted(clip["clip_id"] for clip in self.clips)
        self.captions = {c["path"]: row["captions"] for c, row in zip(self.clips, captions, strict=True)}
        self.refused = {row["path"]: (row["reason"], row["detail"]) for row in self.rejects}
        counts = self.artifact.counts
        assert counts["in"] == counts["out"] + counts["refused"] == len(self.clips) + len(self.rejects)
        assert sum(num for num, _ in self.artifact.facts["datasets"].values()) == counts["in"]


def csv_of(rows: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def jsonl_of(rows: list[dict[str, Any]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


def parquet_of(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


ROWS = [{"file_name": path, "text": text} for path, texts in CLIPS.items() for text in texts]
LISTS = [{"file_name": path, "captions": texts} for path, texts in CLIPS.items()]
MIXED = [{"file_name": path, "text": texts if len(texts) > 1 else texts[0]} for path, texts in CLIPS.items()]
SHALLOW = [row for row in ROWS if not row["file_name"].startswith("deep/")]
DEEP = [{**row, "file_name": row["file_name"][5:]} for row in ROWS if row["file_name"].startswith("deep/")]
LAYOUTS: dict[str, dict[str, bytes | str]] = {
    "textfile": {f"{path.rpartition('.')[0]}.txt": "\r\n".join(texts) for path, texts in CLIPS.items()},
    "textfile, other endings": {
        f"{path.rpartition('.')[0]}.TXT": "\ufeff" + "\n\n".join(texts) + "\n" for path, texts in CLIPS.items()
    },
    "csv": {"metadata.csv": csv_of(ROWS)},
    "csv with a mark": {"metadata.csv": "\ufeff" + csv_of(ROWS)},
    "jsonl": {"metadata.jsonl": jsonl_of(ROWS)},
    "jsonl of lists and texts": {"metadata.jsonl": jsonl_of(MIXED)},
    "parquet": {"metadata.parquet": parquet_of(ROWS)},
    "parquet of lists": {"metadata.parquet": parquet_of(LISTS)},
    "two tables": {"metadata.csv": csv_of(SHALLOW), "deep/metadata.jsonl": jsonl_of(DEEP)},
    "lines": {
        "prompts.txt": "\n".join(row["text"] for row in ROWS),
        "videos.txt": "\r\n".join(f"./{row['file_name']}" for row in ROWS) + "\r\n",
    },
}


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("wanted")
    return Done(context(folder, {"source": str(make(folder / "s", {**videos(), **LAYOUTS["textfile"]}))}))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_same_clips_in_any_layout_are_the_same_content(tmp_path: Path, layout: str, wanted: Done) -> None:
    source = make(tmp_path / "s", {**videos(), **LAYOUTS[layout]})
    done = Done(context(tmp_path, {"source": str(source)}))
    assert done.captions == CLIPS
    assert check_sources(done.context.config, work_dir=done.context.work_dir) == ([], [])
    assert (done.artifact.content, done.clips) == (wanted.artifact.content, wanted.clips)


@pytest.mark.parametrize("name", ["clips.csv", "clips.jsonl", "clips.parquet"])
def test_a_table_beside_the_videos_is_the_same_content(tmp_path: Path, name: str, wanted: Done) -> None:
    make_table = {"csv": csv_of, "jsonl": jsonl_of, "parquet": parquet_of}[name.rpartition(".")[2]]
    rows = [dict(row) for row in ROWS]
    rows[0]["file_name"] = f"{tmp_path}/s/{rows[0]['file_name']}"
    make(tmp_path / "s", {**videos(), name: make_table(rows), "not named.mp4": "x"})
    done = Done(context(tmp_path, {"source": f"{tmp_path}/s/{name}"}))
    assert check_sources(done.context.config, work_dir=done.context.work_dir) == ([], [])
    assert (done.artifact.content, done.clips) == (wanted.artifact.content, wanted.clips)


@pytest.mark.parametrize("workers", [1, 7])
def test_workers_and_chunks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    paths = [f"{i % 7}/{i}.mp4" for i in range(300)]
    rows = [{"file_name": path, "text": f"clip {path}"} for path in paths[:290]]
    make(tmp_path / "one", {**videos(paths), "metadata.csv": csv_of(rows)})
    make(tmp_path / "two", {**videos(paths), **{f"{path[:-4]}.txt": "x" for path in paths[5:]}})
    sets = ({"source": f"{tmp_path}/one"}, {"source": f"{tmp_path}/two"})
    whole = Done(context(tmp_path, *sets))
    monkeypatch.setattr("sana.data.clips.CHUNK", 50)
    monkeypatch.setattr("sana.data.listing.FILES_AT_ONCE", 11)
    seen: list[Progress] = []
    pieces = Done(context(tmp_path / "again", *sets, workers=workers, report=seen.append))
    assert (pieces.clips, pieces.rejects) == (whole.clips, whole.rejects)
    assert pieces.artifact.content == whole.artifact.content
    assert whole.artifact.facts["datasets"] == {"d0": [300, 10], "d1": [300, 5]}
    assert [p.done for p in seen] == sorted(p.done for p in seen) and (seen[-1].done, seen[-1].total) == (600, 600)


def test_rows_without_videos_and_videos_without_rows_are_refused_by_name(tmp_path: Path) -> None:
    rows = [
        {"file_name": "a.mp4", "text": "a"},
        {"file_name": "gone.mp4", "text": "b"},
        {"file_name": "gone.mp4", "text": "named twice, one clip"},
        {"file_name": "a.gif", "text": "c"},
        {"file_name": "../secret.mp4", "text": "d"},
        {"file_name": "/etc/passwd", "text": "e"},
        {"file_name": "https://host/x.mp4", "text": "f"},
        {"file_name": "s3://bucket/x.mp4", "text": "g"},
        {"file_name": "", "text": "h"},
        {"file_name": "blank.mp4", "text": " "},
    ]
    files = {**videos(["a.mp4", "blank.mp4", "unnamed.mp4"]), "metadata.csv": csv_of(rows), "a.gif": ""}
    make(tmp_path, {"secret.mp4": "s"})
    done = Done(context(tmp_path, {"source": str(make(tmp_path / "s", files))}))
    assert done.captions == {"a.mp4": ["a"]}
    assert {path: reason for path, (reason, _) in done.refused.items()} == {
        "gone.mp4": "missing",
        "a.gif": "missing",
        "../secret.mp4": "outside",
        "/etc/passwd": "outside",
        "https://host/x.mp4": "outside",
        "s3://bucket/x.mp4": "outside",
        "row 9 of metadata.csv": "missing",
        "blank.mp4": "no_caption",
        "unnamed.mp4": "no_caption",
    }
    assert done.refused["gone.mp4"][1] == "row 2 of metadata.csv: it is not there"
    assert ".mkv" in done.refused["a.gif"][1] and "'..'" in done.refused["../secret.mp4"][1]
    assert done.refused["unnamed.mp4"][1] == "no row of metadata.csv names it"


def test_what_is_no_video_file_is_refused_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", {"ok.mp4": "1", "ok.txt": "fine", "latin.mp4": "2", "latin.txt": b"caf\xe9"})
    make(folder, {os.fsdecode(b"caf\xe9.mp4"): "3", "folder.mp4/in.mp4": "4", "folder.mp4/in.txt": "inside"})
    os.mkfifo(folder / "pipe.mp4")
    (folder / "gone.mp4").symlink_to("nowhere")
    done = Done(context(tmp_path, {"source": str(folder)}))
    assert done.captions == {"ok.mp4": ["fine"], "folder.mp4/in.mp4": ["inside"]}
    reasons = {path: reason for path, (reason, _) in done.refused.items()}
    unreadable = dict.fromkeys(["caf\\xe9.mp4", "folder.mp4", "pipe.mp4", "gone.mp4"], "unreadable")
    assert reasons == {**unreadable, "latin.mp4": "no_caption"}


def test_two_videos_of_one_stem_share_their_text(tmp_path: Path) -> None:
    files = {"a.mp4": "1", "a.mov": "2", "a.txt": "both", "a.TXT": "not this one"}
    done = Done(context(tmp_path, {"source": str(make(tmp_path / "s", files))}))
    assert done.captions == {"a.mp4": ["both"], "a.mov": ["both"]}


def test_the_fallback_serves_clips_without_a_caption(tmp_path: Path) -> None:
    files = {"a.mp4": "1", "a.txt": "own", "b.mp4": "2", "c.mp4": "3", "c.txt": "\n \n", "d.mp4": "4", "d.txt": b"\xff"}
    folder = str(make(tmp_path / "s", files))
    captions = {"missing": "fallback", "fallback": "a film", "prefix": "<", "suffix": ">", "trigger": "sks"}
    done = Done(context(tmp_path, {"source": folder, "captions": captions}))
    assert done.captions == {"a.mp4": ["sks, <own>"], "b.mp4": ["sks, <a film>"], "c.mp4": ["sks, <a film>"]}
    assert list(done.refused) == ["d.mp4"], "a damaged text is not a missing one"
    nothing = Done(context(tmp_path / "2", {"source": folder, "captions": {"layout": "none", "fallback": "f"}}))
    assert set(map(tuple, nothing.captions.values())) == {("f",)} and len(nothing.captions) == 4


def test_every_column_knob_has_its_effect(tmp_path: Path) -> None:
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
    folder = make(tmp_path / "s", {**videos(["a.mp4", "b.mp4", "c.mp4"]), "metadata.parquet": parquet_of(rows)})
    done = Done(context(tmp_path, {"source": str(folder), "captions": captions}))
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
        ({}, {"metadata.csv": 'video,text\na.mp4,x,"y\n'}, "metadata.csv cannot be read"),
        ({}, {"metadata.csv": "video,text,text\na.mp4,x,y\n"}, "two columns of one name"),
        ({}, {"metadata.csv": "", "x.txt": ""}, "none of the columns"),
        ({}, {"metadata.jsonl": '{"video": "a.mp4", "text": "x"}\n{oops\n'}, "line 2 is not JSON"),
        ({}, {"metadata.jsonl": '{"video": "a.mp4", "text": {"en": "x"}}\n'}, "line 1, text holds"),
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
def test_what_cannot_be_used_is_one_config_error(tmp_path: Path, captions: dict, files: dict, says: str) -> None:
    source = str(make(tmp_path / "s", {"a.mp4": "1", **files}))
    at = context(tmp_path, {"source": source, "captions": captions})
    with pytest.raises(ConfigError, match=f"(?s)download.datasets\\[d0\\]: .*{says}") as told:
        download.run(at, {})
    assert not (tmp_path / "root/download").exists()
    (problem,), notes = check_sources(at.config, work_dir=at.work_dir)
    head = str(problem).replace("Row #2: ", "")  # Arrow counts rows only where one thread reads
    assert head == str(told.value) and not notes, "the check before a run says the same"


def test_the_check_before_a_run_names_every_data_set_that_is_wrong(tmp_path: Path) -> None:
    videos = {"a.mp4": "no video: it is not opened"}
    wrong: dict[str, dict[str, Any]] = {
        "no column 'txt'": {"files": {"metadata.csv": "video,text\na.mp4,x\n"}, "captions": {"text_columns": ["txt"]}},
        "videos.txt has 1 lines and prompts.txt has 3": {"files": {"videos.txt": "a.mp4", "prompts.txt": "x\ny\nz"}},
        "t.parquet is not there": {"table": "t.parquet"},
        "none of the columns": {"files": {"t.jsonl": '{"file": "a.mp4", "text": "x"}'}, "table": "t.jsonl"},
        "has no row": {"files": {"t.csv": "video,text\n"}, "table": "t.csv"},
        "finds nothing in any of 1": {"files": {"a.txt": "x"}, "source_pattern": "^film(.)"},
        "": {"files": {"metadata.csv": "video,text\na.mp4,x\n"}},
    }
    sets = []
    for number, case in enumerate(wrong.values()):
        folder = make(tmp_path / f"s{number}", {**videos, **case.pop("files", {})})
        sets.append({"source": f"{folder}/{case.pop('table', '')}", **case})
    at = context(tmp_path, *sets)
    problems, _ = check_sources(at.config, work_dir=at.work_dir)
    assert len(problems) == len(wrong) - 1
    for number, (says, problem) in enumerate(zip(wrong, problems, strict=False)):
        assert says in str(problem) and str(problem).startswith(f"download.datasets[d{number}]: ")


def test_validate_names_all_that_is_wrong_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "s", {"a.mp4": "1", "metadata.csv": "video,words\na.mp4,x\n"})
    sets = [{"id": "one", "source": str(folder)}, {"id": "two", "source": f"{tmp_path}/nowhere"}]
    (tmp_path / "file").write_text("")
    values = [f"download.datasets={json.dumps(sets)}", f"work_dir={tmp_path}/w", f"root={tmp_path}/file/root"]
    options = [x for value in [*values, "model.path=./missing"] for x in ("-s", value)]
    with pytest.raises(SystemExit):
        main(["validate", str(DEMO), *options])
    first, *said = capsys.readouterr().err.splitlines()
    assert first == "error: 4 problems"
    for line, says in zip(said, ("datasets[one]: metadata.csv", "datasets[two]: source", "model", "root"), strict=True):
        assert says in line


def test_a_check_reads_no_table_to_its_end(tmp_path: Path) -> None:
    rows = [{"video": f"{i}.mp4", "text": "x"} for i in range(2000)]
    torn = jsonl_of(rows) + "{torn"
    folder = make(tmp_path / "s", {"0.mp4": "1", "metadata.jsonl": torn})
    at = context(tmp_path, {"source": str(folder)})
    assert check_sources(at.config, work_dir=at.work_dir) == ([], [])
    with pytest.raises(ConfigError, match="line 2001 is not JSON"):
        download.run(at, {})


def test_a_remote_table_is_left_to_the_run_and_named(s3: WeedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/unread-{time.time_ns()}"
    store = open_store(root)
    store.put_if_absent("a.mp4", b"1")
    store.put_if_absent("metadata.csv", b"video,words\na.mp4,x\n")
    at = context(tmp_path, {"source": root})
    problems, (note,) = check_sources(at.config, work_dir=at.work_dir)
    assert not problems and note.startswith("download.datasets[d0]: metadata.csv is not read")


def test_a_pattern_names_the_source_and_one_that_finds_nothing_is_refused(tmp_path: Path) -> None:
    names = ["film1_s1.mp4", "film1_s2.mp4", "other.mp4"]
    folder = make(tmp_path / "s", {**videos(names), **{f"{name[:-4]}.txt": "x" for name in names}})
    done = Done(context(tmp_path, {"source": str(folder), "source_pattern": "^(film[0-9]+)_"}))
    sources = {clip["path"]: clip["source_id"] for clip in done.clips}
    assert sources["film1_s1.mp4"] == sources["film1_s2.mp4"] == "film1"
    assert sources["other.mp4"] == next(clip["clip_id"] for clip in done.clips if clip["path"] == "other.mp4")
    with pytest.raises(ConfigError, match="finds nothing in any of 3 file names, such as 'film1_s1'"):
        download.run(context(tmp_path, {"source": str(folder), "source_pattern": "^shot(.)"}), {})


def test_a_disabled_data_set_is_left_out_and_captions_are_part_of_the_recipe(tmp_path: Path) -> None:
    folder = str(make(tmp_path / "s", {"a.mp4": "1", "a.txt": "x", "b.csv": "y"}))
    both = ({"source": folder}, {"source": "/nowhere", "disabled": True})
    one = Done(context(tmp_path, *both))
    assert len(one.clips) == 1 and list(one.artifact.facts["datasets"]) == ["d0"]
    other = Done(context(tmp_path, {"source": folder, "captions": {"prefix": "old film: "}}))
    assert other.artifact.fingerprint != one.artifact.fingerprint
    assert other.artifact.content["videos"] == one.artifact.content["videos"]
    assert other.captions == {"a.mp4": ["old film: x"]}


def test_a_change_of_a_caption_file_reruns_and_of_another_text_does_not(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", {**videos(), **LAYOUTS["csv"]})
    at = context(tmp_path, {"source": str(folder)})
    before = download.recipe(at, {}).fingerprint
    make(folder, {"a.txt": "not what this layout reads"})
    assert download.recipe(at, {}).fingerprint == before
    make(folder, {"metadata.csv": csv_of([*ROWS, ROWS[0]])})
    assert download.recipe(at, {}).fingerprint != before


def test_a_table_in_s3_names_videos_beside_it_and_elsewhere(s3: WeedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/table-{time.time_ns()}"
    data = {path: os.urandom(1000) for path in ("set/a.mp4", "set/b/b", "elsewhere/c.mp4", "secret.mp4")}
    names = ["a.mp4", f"{root}/set/b/b", f"{root}/elsewhere/c.mp4", f"{root}/elsewhere/gone.mp4", "../secret.mp4"]
    names += [f"{root}/set/../secret.mp4", "file:///etc/passwd", "s3://bucket"]
    rows = [{"uri": name, "caption": f"caption of {name}"} for name in names]
    store = open_store(root)
    for key, value in {**data, "set/clips.parquet": parquet_of(rows)}.items():
        assert store.put_if_absent(key, value)
    at = context(tmp_path, {"source": f"{root}/set/clips.parquet"})
    done = Done(at)
    paths = {"a.mp4": "set/a.mp4", "b/b": "set/b/b", f"{root}/elsewhere/c.mp4": "elsewhere/c.mp4"}
    assert sorted(done.captions) == sorted(paths)
    reasons = {path: reason for path, (reason, _) in done.refused.items()}
    assert reasons == {names[3]: "missing", **dict.fromkeys(names[4:], "outside")}
    later = open_sources(at.config, work_dir=tmp_path / "work")  # as probe does: nothing is listed again
    for clip in done.clips:
        with later["d0"].open_video(clip["path"], digest=clip["digest"]) as path:
            assert path.read_bytes() == data[paths[clip["path"]]]
    assert fetched(later).startswith("2.9 KiB fetched, ")
    for path in ("s3://b/../x.mp4", "../x.mp4", "/x.mp4"):
        with pytest.raises(ValueError, match="inside"):
            later["d0"].open_video(path, digest="x")


def test_many_named_objects_are_found_by_a_listing(s3: WeedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/many-{time.time_ns()}"
    store = open_store(root)
    for i in range(70):
        store.put_if_absent(f"v/{i % 3}/{i}.mp4", b"%d" % i)
    rows = [{"uri": f"{root}/v/{i % 3}/{i}.mp4", "text": str(i)} for i in range(1, 71)]
    table = make(tmp_path / "t", {"clips.csv": csv_of(rows)}) / "clips.csv"
    done = Done(context(tmp_path, {"source": str(table)}))
    assert len(done.clips) == 69 and list(done.refused) == [rows[-1]["uri"]]


def test_a_table_of_nothing_or_in_another_layout_is_a_config_error(tmp_path: Path) -> None:
    folder = make(tmp_path / "s", {"empty.csv": "video,text\n", "a.mp4": "1"})
    with pytest.raises(ConfigError, match="has no row"):
        download.run(context(tmp_path, {"source": f"{folder}/empty.csv"}), {})
    with pytest.raises(ConfigError, match="textfile is for a folder"):
        download.run(context(tmp_path, {"source": f"{folder}/empty.csv", "captions": {"layout": "textfile"}}), {})
    with pytest.raises(ConfigError, match="not there"):
        download.run(context(tmp_path, {"source": f"{folder}/gone.csv"}), {})


def test_a_table_source_without_the_column_names_its_data_set(tmp_path: Path) -> None:
    good = make(tmp_path / "a", {"t.csv": "video,text\na.mp4,x\n", "a.mp4": "1"})
    bad = make(tmp_path / "b", {"t.csv": "video,words\na.mp4,x\n", "a.mp4": "2"})
    sources = ({"source": f"{folder}/t.csv"} for folder in (good, bad))
    with pytest.raises(
        ConfigError, match=r"download.datasets\[d1\]: t.csv has none of the columns text, .*has: video, w"
    ):
        download.recipe(context(tmp_path, *sources), {})
