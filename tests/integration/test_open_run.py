"""`sana.open_run`: what it reads is what was committed or told, of a folder and a bucket, and it writes nothing."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sana
from sana.artifact import Draft
from sana.counts import Counts
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.runs.records import RunEnded, RunStarted, RunStatus, StageStatus, end_key, start_key, status_key
from sana.runtime.process_id import ProcessId
from sana.store import LocalStore, Store, open_store
from tests.made_trainings import MadeTraining, losses_around, rows_of, video_bytes
from tests.s3_server import WeedServer

LOSSES = {"initial": losses_around(1.5, 0.2), "ema": losses_around(0.8, 0.2)}
CONFIG = "train: {max_steps: 40}\nroot: here\n"
RUN = "20261128-154012-3fa9c1"


def begun(store: Store) -> MadeTraining:
    """A training of 20 of 40 steps, with videos of one."""
    made = MadeTraining(store)
    made.write(0, 20, "aaaa", rows_of(0, 20))
    made.validate(20, {"bunny": video_bytes(20)})
    return made


def finished(store: Store) -> MadeTraining:
    """The same, finished, evaluated and sampled."""
    made = begun(store)
    made.write(21, 40, "bbbb", rows_of(21, 40))
    made.finish()
    made.evaluate(LOSSES, step=40)
    made.sample({"bunny": video_bytes(40)})
    return made


def told(store: Store, made: MadeTraining, *, state: str, rows: list, run_id: str = RUN, ended: bool = False) -> None:
    """Put the records of a run that trains, or has trained."""
    now = time.time()
    process = ProcessId("elsewhere", 1)
    started = RunStarted(run_id, "demo", "key", CONFIG, "elsewhere", process, now, "0.1.0")
    stages = {"train": StageStatus(state, now)} if made.trajectory else {}  # type: ignore[arg-type]
    status = RunStatus(run_id, now, stages, made.trajectory, tuple(rows))
    store.put_if_absent(start_key(run_id), started.to_json())
    store.put_if_absent(status_key(run_id, 1), status.to_json())
    if ended:
        store.put_if_absent(end_key(run_id), RunEnded(run_id, "completed", now).to_json())


def content(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key, _ in store.list("")}


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return LocalStore(str(tmp_path / "root"))
    server: WeedServer = request.getfixturevalue("s3")
    return open_store(f"s3://{server.bucket}/open-run-{request.node.name[:20]}")


def test_a_finished_training_is_read_whole_and_nothing_is_written(store: Store) -> None:
    made = finished(store)
    told(store, made, state="completed", rows=[], ended=True)
    before = content(store)
    run = sana.open_run(store.root)
    assert run.is_finished and run.root == store.root and run.trajectory == made.trajectory and len(run.name) == 16
    assert run.checkpoints() == [20, 40]
    assert run.config()["train"] == {"max_steps": 40}
    assert [(one.run_id, one.state(time.time())) for one in run.runs()] == [(RUN, "completed")]
    table = run.metrics()
    assert table["step"].to_pylist() == [*range(41)]
    assert table["train/loss"].to_pylist() == [None, *(1 + 1 / step for step in range(1, 41))]
    assert [n for n, loss in enumerate(table["eval/loss_ema"].to_pylist()) if loss is not None] == [0, 10, 20, 30, 40]
    assert [(one.step, one.prompt, one.bucket, one.made_by) for one in run.samples()] == [
        (20, "bunny", "5x64x96", "validation"),
        (40, "bunny", "5x64x96", "sample"),
    ]
    for one in run.samples():
        assert b"ftyp" in one.read()[:32] and one.uri.startswith(store.root) and one.uri.endswith(".mp4")
    losses = run.eval_table()
    for name, expected in LOSSES.items():
        rows = losses.filter(np.array(losses["weights"].to_pylist()) == name)
        assert np.mean(rows["loss"].to_numpy()) == pytest.approx(expected.mean())
        assert run.eval_loss().weights[name].mean == pytest.approx(expected.mean())
    assert content(store) == before


def test_an_unfinished_training_gives_its_checkpoint_and_then_what_its_run_tells(store: Store) -> None:
    made = begun(store)
    live = [{"step": 20, "train/loss": 99.0}, {"step": 22, "train/loss": 1.25}, {"step": 22, "eval/loss_ema": 0.5}]
    told(store, made, state="running", rows=live)
    before = content(store)
    for name in (None, made.trajectory, made.trajectory[:6], RUN):
        run = sana.open_run(store.root, name)
        assert not run.is_finished and run.name == made.trajectory
    table = run.metrics()
    assert table["step"].to_pylist() == [*range(21), 22]
    assert table["train/loss"].to_pylist()[-2:] == [1.05, 1.25]  # step 20 is the checkpoint's
    assert table["eval/loss_ema"].to_pylist()[-1] == 0.5
    assert [one.step for one in run.samples()] == [20]
    for call in (run.eval_table, run.eval_loss, run.model):
        with pytest.raises(SanaError, match="not finished"):
            call()
    made.write(21, 40, "bbbb", rows_of(21, 40))  # the same reader follows it
    assert run.metrics()["step"].to_pylist() == [*range(41)] and run.checkpoints() == [20, 40]
    assert before.items() <= content(store).items()


def test_a_step_that_was_done_twice_counts_once(tmp_path: Path) -> None:
    made = MadeTraining(LocalStore(str(tmp_path)))
    made.write(0, 4, "aaaa", [{"step": 3, "train/loss": 3.0, "train/epoch": 1.0}, {"step": 4, "train/loss": 4.0}])
    made.write(3, 5, "bbbb", [{"step": 3, "train/loss": 3.5}, {"step": 5, "time/step_s": 1.0}])
    made.finish()
    table = sana.open_run(tmp_path).metrics()
    assert table.to_pylist() == [
        {"step": 3, "time/step_s": None, "train/epoch": 1.0, "train/loss": 3.5},
        {"step": 4, "time/step_s": None, "train/epoch": None, "train/loss": 4.0},
        {"step": 5, "time/step_s": 1.0, "train/epoch": None, "train/loss": None},
    ]


def test_the_newest_is_opened_where_none_is_named(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    first = finished(store)
    second = MadeTraining(store, trajectory="beefbeefbeefbeef")
    second.write(0, 10, "cccc", rows_of(0, 10))
    assert sana.open_run(tmp_path).trajectory == first.trajectory  # no run says that the other is newer
    told(store, second, state="failed", rows=[])
    assert sana.open_run(tmp_path).name == second.trajectory
    made = second.finish(learning_rate=2e-3, weights="other")
    assert sana.open_run(tmp_path, RUN).name == second.trajectory  # as that run left it
    assert sana.open_run(tmp_path).name == made.fingerprint
    with pytest.raises(SanaError, match="not evaluated yet"):
        sana.open_run(tmp_path).eval_table()
    early = MadeTraining(store, trajectory="")
    told(store, early, state="running", rows=[], run_id="20301128-154012-000000")
    run = sana.open_run(tmp_path, "20301128-154012-000000")
    assert run.metrics().num_rows == 0 and run.samples() == [] and run.checkpoints() == [] and len(run.runs()) == 1


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("feed", "beginning of 2 names"),
        ("feedfeedfeedfeeb", "has no training or run feedfeedfeedfeeb; did you mean feedfeedfeedfeed?"),
        ("../x", "has no training or run"),
        ("", "has no training or run"),
        ("fee", "has no training or run fee"),
    ],
)
def test_a_name_that_means_none_or_several_is_an_error(tmp_path: Path, name: str, says: str) -> None:
    for trajectory in ("feedfeedfeedfeed", "feedbeefbeefbeef"):
        MadeTraining(LocalStore(str(tmp_path)), trajectory=trajectory).write(0, 4, "a", rows_of(0, 4))
    with pytest.raises(SanaError, match=says):
        sana.open_run(tmp_path, name)


def test_a_root_without_trainings_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SanaError, match="there is no folder"):
        sana.open_run(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    for root in ("", "gs://bucket/x", "s3://", "s3:///x"):
        with pytest.raises(SanaError, match="s3://bucket/prefix"):
            sana.open_run(root)
    with pytest.raises(SanaError, match="nothing was trained"):
        sana.open_run(tmp_path)


def test_the_model_is_loaded_by_diffusers(store: Store, tiny_model: Path) -> None:
    made = begun(store)
    draft = Draft(store, made.recipe())
    files = [path for path in sorted(tiny_model.rglob("*")) if path.is_file()]
    for path in files:
        name = str(path.relative_to(tiny_model))
        if name.startswith("transformer/"):
            draft.add(f"model/{name}", path.read_bytes())
        else:  # as exports share what training does not change
            store.put_if_absent(f"model/base/{name}", path.read_bytes())
            draft.refer(f"model/{name}", f"model/base/{name}", num_bytes=path.stat().st_size, digest="")
    facts = TrainFacts(made.trajectory, 20, "x", tuple(one.key for one in made.segments), "train/x/model")
    draft.commit(content={"weights": "w"}, counts=Counts.all_kept(6), facts=facts)
    run = sana.open_run(store.root)
    pipe = run.model(dtype="bfloat16")
    assert type(pipe).__name__ == "SanaVideoPipeline" and str(pipe.transformer.dtype) == "torch.bfloat16"
    assert pipe.text_encoder is not None and pipe.vae is not None
    with pytest.raises(SanaError, match="dtype half is none of float32"):
        run.model(dtype="half")
    if store.is_local:
        with pytest.raises(SanaError, match=r"cannot load .* to cuda"):
            run.model(device="cuda:99")


def test_an_adapter_without_its_base_says_how_to_load_it(tmp_path: Path) -> None:
    finished(LocalStore(str(tmp_path)))
    with pytest.raises(SanaError, match="is an adapter without its base model"):
        sana.open_run(tmp_path).model()


def test_reading_imports_no_heavy_library(tmp_path: Path) -> None:
    finished(LocalStore(str(tmp_path)))
    script = (
        "import sys, sana; assert 'pyarrow' not in sys.modules; run = sana.open_run(sys.argv[1]); run.metrics(); "
        "run.samples(); run.eval_table(); assert not {'torch', 'diffusers', 'mlflow', 'prefect'} & set(sys.modules); "
        "assert sana.RunReader is type(run); sana.nothing"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert "module 'sana' has no attribute 'nothing'" in done.stderr, done.stderr
