"""`sana init`: a config that loads, of whatever the source is; nothing is overwritten, and nothing is left behind."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from flows.wizard import asking, interview, scratch
from flows.wizard.asking import Proposals
from flows.wizard.flags import Flags
from flows.wizard.interview import Interview
from sana.config.json_schema import config_schema, schema_line
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.config.yaml_reading import parse_yaml
from sana.data.sources.sample import SampleLimits
from sana.errors import SanaError
from sana.runtime.process_id import this_process
from tests.pipeline_runs import CLIPS
from tests.video_files import make_video
from tests.wizard_runs import CTRL_C, DOWN, ENTER, QUESTIONS, asked, init, put, refused, written

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("in_empty_folder")]
GIB = 2**30


def test_the_demo_s_clips_become_a_config_and_nothing_is_overwritten(tmp_path: Path) -> None:
    shown = init(str(CLIPS))
    assert shown.exit_code == 0, shown.output
    config = written()["clips.yaml"]
    text = Path("clips.yaml").read_text()
    assert config.download.datasets[0].source == str(CLIPS) and config.root == ".sana/store"
    assert "#     truncated 1: corrupt-00.mp4 (the file ends early" in text
    assert text.startswith(f"{schema_line('clips.yaml')}\n")
    assert not list(jsonschema.Draft7Validator(config_schema()).iter_errors(parse_yaml(text, where="clips.yaml")))
    steps = config.train.max_steps
    assert steps == 100 * 9 // 8 and f"  max_steps: {steps} # 100 epochs x 9 samples / batch 8; raise it later" in text
    assert f"train.max_steps {steps} = 100 epochs x 9 samples / batch 8" in shown.output.splitlines()
    assert "#   this machine: " in text and "max_rejected_fraction: " in text
    assert sorted(os.listdir()) == [".sana", "clips.yaml"] and not Path(".sana/store").exists()
    last = shown.output.splitlines()[-3:]
    assert [line.split()[:3] for line in last] == [["sana", name, "clips.yaml"] for name in ("plan", "run", "watch")]
    again = init(str(CLIPS), "--method", "full")
    assert again.exit_code == 0 and Path("clips.yaml").read_text() == text
    assert list(written()) == ["clips-2.yaml", "clips.yaml"]
    printed = json.loads(init(str(CLIPS), "-o", "third.yaml", "--json").stdout)
    assert printed["config"] == "third.yaml" and printed["next"][1] == "sana run third.yaml"


NAMES = {
    "control": ("a\x1b[2Jb", "b\x07", "c"),
    "quotes": ('it\'s "one"', "b", "c"),
    "yaml": ("- a: [b] # {c}", "&x *y", "!z %"),
    "newline": ("a\nb", "b", "c"),
    "spaces and unicode": (" \u00e9t\u00e9 \u732b ", "b c", "\u202ec"),
    "in folders": ("x y/a", "x y/b: #", "z/c"),
}


@pytest.mark.parametrize("case", NAMES)
def test_odd_names_are_written_so_that_they_are_read_back(tmp_path: Path, videos: list[Path], case: str) -> None:
    folder = put(tmp_path / f"my {case} 'clips': #1", videos, NAMES[case])
    held = f"{NAMES[case][0]}.mp4"
    shown = init(
        str(folder),
        "--root",
        "./a 'b' \"c\": #d",
        "--prompt",
        f'{case}: "x" #y\n- z',
        "--experiment",
        "a: b",
        "--holdout",
        held,
    )
    assert shown.exit_code == 0, shown.output
    [config] = written().values()
    assert config.download.datasets[0].source == str(folder) and config.root == "./a 'b' \"c\": #d"
    assert config.sample.prompts == {"first": f'{case}: "x" #y\n- z'} and config.tracking.experiment == "a: b"
    assert config.bucket.holdout == (held,) and not {"\x1b", "\u202e"} & set(shown.output)


def test_what_is_asked_by_flags_is_in_the_config(tmp_path: Path, videos: list[Path]) -> None:
    put(tmp_path / "clips", videos)
    shown = init(
        str(tmp_path / "clips"), "-o", "x.yaml", "--root", "r", "--work-dir", "w", "--model", "owner/name", "--method",
        "lora", "--holdout", "a.mp4", "--prompt", "one", "--prompt", "two", "--experiment", "mine",
        "-s", "train.max_steps=7", "-s", "download.datasets.clips.max_rejected_fraction=0.5",
    )  # fmt: skip
    assert shown.exit_code == 0, shown.output
    config = written()["x.yaml"]
    assert (config.root, config.work_dir, config.model.path) == ("r", "w", "owner/name")
    assert config.train.method.name == "lora" and config.train.max_steps == 7
    assert config.bucket.holdout == ("a.mp4",) and config.bucket.eval_fraction == 0.0
    assert config.sample.prompts == {"first": "one", "second": "two"} and config.tracking.experiment == "mine"
    assert config.download.datasets[0].max_rejected_fraction == 0.5
    assert "owner/name could not be looked at" in shown.output
    assert Path("w").is_dir() and not Path("r").exists()


def test_without_captions(tmp_path: Path, videos: list[Path]) -> None:
    folder = put(tmp_path / "clips", videos, captions=False)
    assert "no clip has a caption, so nothing is written: write <name>.txt beside" in refused(str(folder))
    assert "--caption is empty" in refused(str(folder), "--caption", " ")
    assert not os.listdir()
    assert init(str(folder), "--caption", "a test: picture").exit_code == 0
    captions = written()["clips.yaml"].download.datasets[0].captions
    assert (captions.missing, captions.fallback) == ("fallback", "a test: picture")


@pytest.mark.parametrize(
    ("header", "arguments", "columns"),
    [
        ("file_name,description", (), ("description",)),
        ("file_name,title,description", ("--caption-column", "description"), ("description",)),
        ("file_name,title,description", (), None),
        ("clip,caption", ("-s", "download.datasets.clips.captions.video_column=clip"), ()),
        ("file_name,caption", (), ()),
    ],
)
def test_captions_of_a_table_with_other_columns(
    tmp_path: Path, videos: list[Path], header: str, arguments: tuple[str, ...], columns: tuple[str, ...] | None
) -> None:
    folder = put(tmp_path / "clips", videos, captions=False)
    more = ["x"] * (header.count(",") - 1)
    rows = [",".join([f"{name}.mp4", *more, f"picture {name}"]) for name in "abc"]
    (folder / "metadata.csv").write_text("\n".join([header, *rows, ""]))
    if columns is None:
        said = refused(str(folder), *arguments)
        assert "name one of title, description by --caption-column" in said and not os.listdir()
        return
    assert init(str(folder), *arguments).exit_code == 0
    config = written()["clips.yaml"]
    assert config.download.datasets[0].captions.text_columns == columns
    assert config.sample.prompts["first"] == "picture a"


def test_one_broken_video_in_three(tmp_path: Path, videos: list[Path]) -> None:
    folder = put(tmp_path / "clips", videos)
    (folder / "b.mp4").write_bytes(videos[1].read_bytes()[:900])
    shown = init(str(folder))
    assert shown.exit_code == 0, shown.output
    assert written()["clips.yaml"].download.datasets[0].max_rejected_fraction >= 1 / 3
    assert "# 1 " in Path("clips.yaml").read_text() and "b.mp4" in shown.output


def test_one_video_alone_is_written_and_said_to_be_too_few(tmp_path: Path, videos: list[Path]) -> None:
    shown = init(str(put(tmp_path / "clips", videos[:1])))
    assert shown.exit_code == 1 and "1 thing would stop a run:" in shown.output
    assert "at least two sources are needed" in shown.output and list(written()) == ["clips.yaml"]


@pytest.mark.parametrize("source", ["nothing there", "empty", "only texts", "no/such", "file:///x", "http://x/y.mp4"])
def test_a_source_without_a_video_writes_nothing(tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "only texts").mkdir()
    (tmp_path / "only texts" / "a.txt").write_text("x")
    place = source if ":" in source else str(tmp_path / source)
    assert "nothing is written" in refused(place)
    assert not os.listdir()


def test_a_bucket_that_is_not_there(s3_root: str, tmp_path: Path, videos: list[Path]) -> None:
    said = refused("s3://no-such-bucket/clips")
    assert "no-such-bucket" in said and "the bucket does not exist" in said
    folder = str(put(tmp_path / "clips", videos))
    said = refused(folder, "--root", "s3://no-such-bucket/x")
    assert said.startswith("--root: s3://no-such-bucket/x") and not os.listdir()
    shown = init(folder, "--root", s3_root)
    assert shown.exit_code == 0 and written()["clips.yaml"].root == s3_root, shown.output


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("my.yaml", "my.yaml is there already, and nothing is overwritten; my-3.yaml is free"),
        ("link.yaml", "link.yaml is there already"),
        ("no/such/my.yaml", "there is no folder no/such"),
        ("my.txt", "my.txt does not end in .yaml"),
    ],
)
def test_where_no_config_can_be_written(tmp_path: Path, videos: list[Path], output: str, said: str) -> None:
    for name in ("my.yaml", "my-2.yaml"):
        Path(name).write_text("mine")
    Path("link.yaml").symlink_to("nowhere")
    folder = str(put(tmp_path / "clips", videos))
    assert said in refused(folder, "-o", output)
    assert Path("my.yaml").read_text() == "mine" and not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--root", "file"), "--root: file is a file"),
        (("--work-dir", "file/x"), "file/x is a file, or would be in one"),
        (("--model", "./no-model"), "--model: model.path ./no-model is neither a folder nor"),
        (("--holdout", "a.mp4", "--eval-fraction", "0.5"), "both say what is held out"),
        (("--holdout", "nobody.mp4"), "--holdout: bucket.holdout: 'nobody.mp4' names no file"),
        (("--eval-fraction", "0"), "nothing would be held out"),
        (("-s", "train.max_stpes=3"), "max_stpes"),
        (("-s", "root="), "root"),
    ],
)
def test_flags_that_are_wrong_write_nothing(
    tmp_path: Path, videos: list[Path], arguments: tuple[str, ...], said: str
) -> None:
    Path("file").touch()
    folder = put(tmp_path / "clips", videos)
    assert said in refused(str(folder), *arguments)
    assert os.listdir() == ["file"]


def test_a_file_that_came_to_be_meanwhile_stays(tmp_path: Path, videos: list[Path], monkeypatch: Any) -> None:
    folder = put(tmp_path / "clips", videos)
    monkeypatch.setattr(interview.config_file, "trouble_with", lambda path: "")
    Path("x.yaml").write_text("another's")
    assert "came to be meanwhile" in refused(str(folder), "-o", "x.yaml")
    assert Path("x.yaml").read_text() == "another's" and os.listdir() == ["x.yaml"]


def test_without_a_terminal_the_flags_are_named() -> None:
    with pytest.raises(SanaError, match="--yes takes what is proposed, and flags say the rest"):
        CliRunner().invoke(cli, ["init", "clips"], catch_exceptions=False)
    with pytest.raises(SanaError, match="name the SOURCE"):
        init()


@pytest.mark.parametrize("width", [0, 30, 60])
def test_enter_takes_what_is_proposed(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """In a terminal of any width: there questions break between words, and a long prompt is not edited."""
    monkeypatch.setattr(asking, "terminal_width", lambda: width)
    folder = put(tmp_path / "clips", videos)
    asked(ENTER * QUESTIONS, folder)
    init(str(folder))
    by_hand, by_flag = written()["clips.yaml"], written()["clips-2.yaml"]
    assert by_hand == by_flag


def test_answers_are_asked_again_until_they_can_be_used(tmp_path: Path, videos: list[Path]) -> None:
    folder = put(tmp_path / "clips", videos)
    Path("taken.yaml").write_text("mine")
    said: list[str] = []
    clear = "\x15"  # Ctrl-U
    keys = [ENTER, ENTER, clear, "no model", ENTER, clear, "owner/name", ENTER, DOWN, ENTER]
    keys += [DOWN, ENTER, "nobody.mp4", ENTER, clear, "a.mp4, c.mp4", ENTER]  # held out by name
    keys += [
        clear,
        "one",
        ENTER,
        "two",
        ENTER,
        ENTER,
        clear,
        "mine",
        ENTER,
        clear,
        "{nobody}",
        ENTER,
        clear,
        "{config} {date}",
        ENTER,
    ]
    keys += [clear, "taken.yaml", ENTER, clear, "good.yaml", ENTER]
    asked("".join(keys), folder, said.append)
    config = written_one("good.yaml")
    assert config.bucket.holdout == ("a.mp4", "c.mp4") and config.model.path == "owner/name"
    assert config.sample.prompts == {"first": "one", "second": "two"} and config.tracking.experiment == "mine"
    assert config.tracking.run_name == "{config} {date}"
    told = "\n".join(said)
    for wrong in (
        "{nobody}",
        "model.path no model is neither",
        "'nobody.mp4' names no file",
        "taken.yaml is there already",
    ):
        assert wrong in told


def written_one(name: str) -> Config:
    return load_config(name)


def test_captions_that_are_not_found_are_asked_for(tmp_path: Path, videos: list[Path]) -> None:
    folder = put(tmp_path / "clips", videos, captions=False)
    asked("".join([ENTER, "one caption", ENTER, ENTER * QUESTIONS]), folder)  # an empty one is asked for again
    assert written()["clips.yaml"].download.datasets[0].captions.fallback == "one caption"
    rows = "".join(f"{name}.mp4,x,picture {name}\n" for name in "abc")
    (folder / "metadata.csv").write_text(f"file_name,title,description\n{rows}")
    asked("".join([DOWN, ENTER, ENTER * QUESTIONS]), folder)
    assert written()["clips-2.yaml"].download.datasets[0].captions.text_columns == ("description",)


@pytest.mark.parametrize("answered", [0, 3, QUESTIONS - 1])
def test_ctrl_c_in_a_question_leaves_nothing(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch, answered: int
) -> None:
    folder = put(tmp_path / "clips", videos)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    with pytest.raises(KeyboardInterrupt):
        asked(ENTER * answered + CTRL_C, folder)
    assert not os.listdir() and not os.listdir(tmp_path / "temporary")


def test_of_many_videos_a_sample_is_looked_at_and_counts_are_of_all(tmp_path: Path) -> None:
    folder = tmp_path / "clips"
    names = [f"{number:02}" for number in range(12)]
    made = [
        make_video(tmp_path / f"{name}.mp4", num_frames=9, width=160, height=96, fps=10 + int(name)) for name in names
    ]
    put(folder, made, tuple(names))
    flags = Flags(str(folder), holdout=("11.mp4",), prompts=("x",))
    said: list[str] = []
    done = Interview(flags, Proposals(said.append), SampleLimits(clips=4)).run()
    assert done.is_sample and not done.stopped
    config, text = written()["clips.yaml"], done.path.read_text()
    assert "clips: 4 of 12 clips looked at in" in text and "4 of 4 clips (a sample of 12 videos) give 4 samples" in text
    assert config.train.global_batch_size == 8  # of 12 samples, not of the 4
    # 20% of the sources held out by hash at that time
    assert "train.max_steps 112 = 100 epochs x about 9 samples / batch 8" in said
    assert config.bucket.holdout == ("11.mp4",) and any("`sana check` looks for the names" in line for line in said)


def test_without_a_folder_for_caches_nothing_is_a_traceback(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch.tempfile, "mkdtemp", full)
    assert "set TMPDIR to one with room" in refused(str(put(tmp_path / "clips", videos)))


def test_what_a_killed_look_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only folders that name a process of this machine that is gone: no other's, none of a live one, no link."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    gone, alive = replace(this_process(), pid=child.pid), this_process()
    kept = {"sana-init-alive": alive, "sana-init-elsewhere": replace(gone, host="another"), "sana-other-gone": gone}
    for name, owner in {**kept, "sana-init-gone": gone}.items():
        (tmp_path / name / "work" / "cache").mkdir(parents=True)
        (tmp_path / name / "process.json").write_bytes(owner.to_json())
    (tmp_path / "sana-init-silent").mkdir()
    (tmp_path / "sana-init-damaged").mkdir()
    (tmp_path / "sana-init-damaged" / "process.json").write_text("{")
    (tmp_path / "sana-init-link").symlink_to(tmp_path / "sana-other-gone")
    (tmp_path / "sana-init-file").touch()
    with scratch.looking_in(tmp_path / "no work_dir yet") as looked_in:
        own = looked_in.folder.parent
        assert (own / "process.json").read_bytes() == alive.to_json()
    left = {path.name for path in tmp_path.glob("sana-*")}
    assert left == {*kept, "sana-init-silent", "sana-init-damaged", "sana-init-link", "sana-init-file"}
