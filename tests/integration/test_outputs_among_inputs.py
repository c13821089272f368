"""A source whose listing would hold what the pipeline writes is refused before anything runs, in one line."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from sana.config.delivery.publish import PublishConfig
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.convert.simpletuner import convert
from sana.convert.yaml_text import yaml_text
from sana.data.sources.outputs import Output, Outputs
from sana.data.sources.source_check import check_sources
from sana.pipeline.graph import STAGES
from sana.store import open_store
from tests.downloads import DEMO
from tests.plugin_s3 import WeedServer
from tests.source_files import make_files

QUICKSTART = Path(__file__).parents[1] / "quickstart"
pytestmark = pytest.mark.timeout(60)


def config_of(
    source: str, *, root: str, work_dir: str = "/nowhere/work", model: str = "/nowhere/model", **more: Any
) -> Config:
    data = json.dumps([{"id": "d", "source": source, "captions": {"layout": "none", "fallback": "x"}, **more}])
    return load_config(
        DEMO, [f"download.datasets={data}", f"root={root}", f"work_dir={work_dir}", f"model.path={model}"]
    )


def problem_of(config: Config) -> str:
    """The one problem of the config's source, or "" if there is none."""
    problems, _ = check_sources(config, work_dir=Path(config.work_dir).absolute(), read_only=True)
    assert len(problems) <= 1
    return str(problems[0]) if problems else ""


# (source, root, work_dir, model.path), relative to a folder with data/a.mp4 and the links below -> what is refused
PLACES = {
    "root in the source": ("data", "data/store", "w", "m", "root {}/data/store"),
    "root deep in the source": ("data", "data/a/b/c", "w", "m", "root"),
    "root is the source": ("data", "data", "w", "m", "root {}/data"),
    "root is the source, with a slash": ("data/", "data/", "w", "m", "root"),
    "root by dots": ("data", "other/../data/store", "w", "m", "root"),
    "root as an address": ("data", "file://{}/data/store", "w", "m", "root"),
    "root by a link": ("data", "link_to_data/store", "w", "m", "root"),
    "source by a link": ("link_to_data", "data/store", "w", "m", "root"),
    "root behind a link in the source": ("linked", "store", "w", "m", "root {}/store, through the link {}/linked/out"),
    "a link to a root that is not there yet": ("early", "later/root", "w", "m", "root"),
    "a link to a folder above the root": ("upward", "store", "w", "m", "root"),
    "a hidden root behind a link that is not": ("to_hidden", ".hidden/store", "w", "m", "root"),
    "source in a stage's folder": ("store/sample/0123", "store", "w", "m", "root is {}/store"),
    "source is a stage's folder": ("store/sample", "store", "w", "m", "root"),
    "a link into a stage's folder": ("into", "store", "w", "m", "through the link {}/into/p.mp4"),
    "source in a stage's folder of a linked root": ("store/sample", "link_to_store", "w", "m", "root"),
    "work_dir in the source": ("data", "store", "data/work", "m", "work_dir {}/data/work"),
    "work_dir is the source": ("data", "store", "data", "m", "work_dir"),
    "source in the cache": ("w/cache/videos", "store", "w", "m", "work_dir"),
    "source among MLflow's copies": ("w/mlflow-artifacts", "store", "w", "m", "work_dir"),
    "a model in the source": ("data", "store", "w", "data/model", "model.path {}/data/model"),
    "root above the source": ("store/videos", "store", "w", "m", ""),
    "root above the source, whose folder has a stage's name": ("store/videos/sample", "store", "w", "m", ""),
    "root beside the source, of nearly its name": ("data", "data2", "data-work", "m", ""),
    "hidden root and work_dir in the source": (".", ".sana/store", ".sana", ".sana/tiny", ""),
    "hidden deeper": ("data", "data/a/.sana/store", "data/a/.sana", "data/.m", ""),
    "work_dir above the source": ("w/clips", "store", "w", "m", ""),
    "a model above the source": ("m/clips", "store", "w", "m", ""),
}  # fmt: skip


def make_places(folder: Path) -> None:
    make_files(folder, {f"{name}/a.mp4": "1" for name in (
        "data", "linked", "early", "upward/sub", "to_hidden", "into", "store/sample/0123", "store/videos/sample",
        "w/clips", "w/cache/videos", "w/mlflow-artifacts", "m/clips", ".sana/tiny", "other", "data/model", "data/.m",
        ".hidden/store/sample",
    )})  # fmt: skip
    for link, target in {
        "link_to_data": "data", "link_to_store": "store", "linked/out": "../store", "early/soon": "../later/root",
        "upward/sub/up": "../..", "to_hidden/shown": "../.hidden", "into/p.mp4": "../store/sample/0123/a.mp4",
    }.items():  # fmt: skip
        (folder / link).symlink_to(target)


@pytest.mark.parametrize("name", PLACES)
def test_a_listing_that_would_hold_an_output_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source, root, work_dir, model, says = PLACES[name]
    make_places(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if name == "hidden root and work_dir in the source":
        make_files(tmp_path, {"ok/.keep": ""})
        monkeypatch.chdir(tmp_path / "data/.m")  # a folder without the other cases' links
        make_files(Path.cwd(), {".sana/tiny/x": "1"})
    tilde = {"~": f"~/{root}", "": root} if "://" not in root else {"": root.format(tmp_path)}
    for spelled in tilde.values():
        problem = (
            problem_of(config_of(source, root=spelled, work_dir=work_dir, model=model))
            if says or spelled == root
            else ""
        )
        assert problem.startswith("download.datasets[d]: source ") == bool(says), problem
        assert says.format(tmp_path, tmp_path) in problem and "\n" not in problem
        assert not says or "Set " in problem or "Copy the videos" in problem


def test_commands_refuse_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.local_run.LocalPrefect.start", lambda self: None)
    folder = make_files(tmp_path / "data", {"a.mp4": "1", "a.txt": "x"})
    sets = json.dumps([{"id": "d", "source": str(folder)}])
    places = [f"download.datasets={sets}", f"root={folder}/store", f"work_dir={tmp_path}/w"]
    for command in ("validate", "plan", "run", "check"):
        with pytest.raises(SystemExit):
            main([command, str(DEMO), *(x for value in places for x in ("-s", value))])
        said = capsys.readouterr()
        (line,) = [line for line in f"{said.out}{said.err}".splitlines() if "datasets[d]" in line]
        assert f"{folder} holds root {folder}/store" in line
    assert not any(path.is_file() for path in (folder / "store").rglob("*")) and not (tmp_path / "w/mlflow.db").exists()


def test_a_converted_config_keeps_what_it_writes_from_the_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = make_files(tmp_path / "data", {"a.mp4": "1", "a.txt": "x", "cache/vae/0.pt": "2", "cache/text/0.pt": "3"})
    theirs = json.loads((QUICKSTART / "config.json").read_text())
    backends = json.loads((QUICKSTART / "multidatabackend.json").read_text())
    for backend in backends:
        if "instance_data_dir" in backend:
            backend["instance_data_dir"] = "data"
    make_files(tmp_path, {"backends.json": json.dumps(backends)})
    for output_dir in ("data/output", "output"):
        make_files(tmp_path, {"config.json": json.dumps({**theirs, "output_dir": output_dir})})
        conversion = convert(tmp_path / "config.json", tmp_path / "backends.json")
        (tmp_path / "my.yaml").write_text(yaml_text(conversion, title="theirs"))
        assert not problem_of(load_config(tmp_path / "my.yaml")), "the converter keeps them apart, or they are so"
        inside = load_config(tmp_path / "my.yaml", ["root=data/output/store"])
        assert f"holds root {data}/output/store" in problem_of(inside)


@pytest.mark.parametrize(
    ("command", "out", "is_refused"),
    [
        (["generate", "a hill"], "data/new.mp4", True),
        (["generate", "a hill"], "data", True),  # the current folder, where the file goes by default
        (["generate", "a hill"], "linked/sub/new.mp4", True),
        (["generate", "a hill"], "data/.out/new.mp4", False),
        (["generate", "a hill"], "database/new.mp4", False),
        (["inspect", "a.mp4"], "data/looked", True),
        (["inspect", "a.mp4"], "looked", False),
    ],
)
def test_what_a_command_writes_is_kept_out_of_the_sources(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    command: list[str], out: str, is_refused: bool,
) -> None:  # fmt: skip
    data = make_files(tmp_path / "data", {"a.mp4": "1", "a.txt": "x", "sub/b.mp4": "2", ".out/x": ""})
    make_files(tmp_path, {"database/x": ""})
    (tmp_path / "linked").symlink_to("data")
    sets = json.dumps([{"id": "d", "source": str(data)}])
    values = [f"download.datasets={sets}", f"root={tmp_path}/root", f"work_dir={tmp_path}/w"]
    monkeypatch.chdir(data)
    named = [] if out == "data" else ["--out", f"{tmp_path}/{out}"]
    with pytest.raises(SystemExit):  # or else nothing is trained yet
        main([command[0], str(DEMO), command[1], *named, *(x for value in values for x in ("-s", value))])
    said = capsys.readouterr().err
    assert ("lies in the source of download.datasets[d]" in said) == is_refused, said
    assert sorted(path.name for path in data.iterdir()) == [".out", "a.mp4", "a.txt", "sub"]


def test_artifacts_that_another_root_left_in_the_source_are_refused(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "data", {"a.mp4": "1", "old/sample/0123456789abcdef/artifact.json": "{}"})
    problem = problem_of(config_of(str(folder), root=f"{tmp_path}/store"))
    assert "old/sample/0123456789abcdef/artifact.json" in problem and "Move old out of the source" in problem
    fine = make_files(tmp_path / "fine", {"a.mp4": "1", "x/artifact.json": "{}", "sample/notes/artifact.json": "{}"})
    assert not problem_of(config_of(str(fine), root=f"{tmp_path}/store"))


def test_a_table_that_names_outputs_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, {"store/sample/1/p.mp4": "1", "store/t.csv": "video,text\nsample/1/p.mp4,x\n", "b.mp4": "2"})
    make_files(
        tmp_path, {"t.csv": "video,text\nb.mp4,y\nstore/sample/1/p.mp4,x\n", "good.csv": "video,text\nb.mp4,y\n"}
    )
    (tmp_path / "link.mp4").symlink_to("store/sample/1/p.mp4")
    make_files(tmp_path, {"linked.csv": "video,text\nlink.mp4,x\n"})
    for table in ("t.csv", "store/t.csv", "linked.csv"):
        problem = problem_of(config_of(f"{tmp_path}/{table}", root=f"{tmp_path}/store", captions={}))
        assert f"reads {tmp_path}/store/sample/1/p.mp4" in problem
    good = config_of(f"{tmp_path}/good.csv", root=f"{tmp_path}/store", captions={})
    assert not problem_of(good), "the rest of its folder is not read"


def test_in_s3_the_same_holds(s3: WeedServer) -> None:
    name = f"among-{time.time_ns()}"
    bucket, at = f"s3://{s3.bucket}", f"s3://{s3.bucket}/{name}"
    store = open_store(at)
    for key in ("data/a.mp4", "store/sample/1/p.mp4", "store/videos/a.mp4", "database/a.mp4"):
        store.put_if_absent(key, b"1")
    rows = f"video,text\ns3://{s3.bucket}/{name}/store/sample/1/p.mp4,x\n"
    store.put_if_absent("t.csv", rows.encode())
    refused = {
        (f"{at}/data", f"{at}/data/store"): f"root {at}/data/store",
        (f"{at}/data/", f"{at}/data"): f"root {at}/data",
        (bucket, f"{at}/anywhere"): f"root {at}/anywhere",
        (f"{at}/store/sample", f"{at}/store/"): f"reads {at}/store/sample",
        (f"{at}/t.csv", f"{at}/store"): f"reads {at}/store/sample/1/p.mp4",
    }
    for (source, root), says in refused.items():
        assert says in problem_of(config_of(source, root=root)), (source, root)
    for source, root in (
        (f"{at}/data", f"{at}/database"),
        (f"{at}/store/videos", f"{at}/store"),
        (f"{at}/data", f"{at}/data/.s"),
    ):
        assert not problem_of(config_of(source, root=root)), (source, root)


def test_stages_are_known_by_their_modules_and_a_file_store_of_mlflow_is_an_output(tmp_path: Path) -> None:
    root = Output("root", "/r")
    assert [name for name in (*STAGES, "videos", "a-b", "") if root.writes(f"{name}/x")] == list(STAGES)
    config = config_of("data", root="/r", model="owner/name")
    tracked = config.model_copy(
        update={"tracking": config.tracking.model_copy(update={"uri": f"file://{tmp_path}/runs"})}
    )
    published = tracked.model_copy(update={"publish": PublishConfig(to=f"{tmp_path}/out")})
    (folder,) = set(Outputs.of(published, tmp_path / "w").places) - set(Outputs.of(tracked, tmp_path / "w").places)
    assert (folder.setting, folder.path) == ("publish.to", f"{tmp_path}/out")
    assert folder.writes("step-00000002-0123abcd/samples/a.mp4") and not folder.writes("videos/a.mp4")
    places = Outputs.of(tracked, tmp_path / "w").places
    assert [(place.setting, place.path) for place in places] == [
        ("root", "/r"), ("work_dir", f"{tmp_path}/w"), ("tracking.uri", f"{tmp_path}/runs")
    ]  # fmt: skip
