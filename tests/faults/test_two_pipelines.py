"""Two pipelines at once on one root: both end well, with one committed artifact and no damage; and gc beside them."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sana.artifact import Artifact
from sana.maintenance.gc import delete_objects, find_orphaned_objects
from sana.maintenance.object_graph import kind_of, read_object_graph
from sana.maintenance.verify import verify
from sana.store import LocalStore
from tests import forked
from tests.faults.test_kill import kill_tree, start
from tests.pipeline_runs import ROOT, Place, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(900)


def prepare_together(place: Place, work: Path, other: Path) -> None:
    """Run up to bucket, from the moment on when the other process is as far as this one."""
    context = place.context(f"work_dir={work}", "probe.resources.clips_per_part=1")
    (work / "ready").touch()
    while not (other / "ready").exists():
        time.sleep(0.001)
    with inline_workers():
        run_stages(context, last="bucket")


def committed(store: LocalStore) -> dict[str, Artifact]:
    """The artifacts of a root by stage; each stage has exactly one, committed once."""
    artifacts: dict[str, Artifact] = {}
    for key, _ in store.list(""):
        if kind_of(key) == "artifact":
            artifact = Artifact.from_json(store.read(key), where=key)
            assert artifact.stage not in artifacts, f"{key} is a second one"
            artifacts[artifact.stage] = artifact
    return artifacts


def test_two_at_once_commit_one_artifact(tmp_path: Path, tiny_model: Path) -> None:
    place = new_place(tmp_path, tiny_model)
    work = [tmp_path / "one", tmp_path / "two"]
    for folder in work:
        folder.mkdir()
    processes = [forked.start(prepare_together, place, *pair) for pair in (work, work[::-1])]
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert set(committed(LocalStore(place.root))) == {"download", "probe", "bucket"}
    assert verify(LocalStore(place.root), deep=True).problems == []


@pytest.mark.slow(group="two_runs")
@pytest.mark.parametrize("last", ["encode_latents", "sample"])
def test_two_commands_at_once_on_one_root(tmp_path: Path, tiny_model: Path, last: str) -> None:
    """The real command, twice; a trainer that finds the other at work leaves with a message, and is run again."""
    root = str(tmp_path / "root")
    processes = []
    for name in ("one", "two"):
        command = [sys.executable, "-m", "flows.cli.main", "run", "configs/demo.yaml", "--root", root, "--until", last]
        for override in (f"work_dir={tmp_path / name}", f"model.path={tiny_model}", "train.max_steps=4"):
            command += ["-s", override]
        (tmp_path / name).mkdir()
        with (tmp_path / f"{name}.log").open("wb") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            processes.append((subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log), command))
    codes = [process.wait(800) for process, _ in processes]
    logs = [(tmp_path / f"{name}.log").read_text()[-2000:] for name in ("one", "two")]
    if last == "encode_latents":
        assert codes == [0, 0], logs
    else:
        assert 0 in codes, logs
        for code, (_, command), log in zip(codes, processes, logs, strict=True):
            if code:
                assert "train" in log and "wait for it" in log
                subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=300)
    store = LocalStore(root)
    assert last in committed(store)
    assert verify(store, deep=True).problems == []


@pytest.mark.slow(group="stores")
def test_gc_in_a_loop_beside_a_killed_encode_takes_nothing_needed(tmp_path: Path, tiny_model: Path) -> None:
    """Grace 0 when nothing runs, 20 s while something does: what was committed stays, and the end is whole."""
    reference, place = new_place(tmp_path / "reference", tiny_model), new_place(tmp_path / "killed", tiny_model)
    overrides = ("encode_latents.resources.samples_per_part=2",)
    with inline_workers():
        expected = run_stages(reference.context(*overrides), last="encode_latents")
        run_stages(place.context(*overrides), last="encode_captions")
    store = LocalStore(place.root)

    def parts(place: Place) -> set[str]:
        return {path.name for path in Path(place.root, "encode_latents/pool").rglob("parts/*.parquet")}

    def collect(grace_s: float) -> None:
        found = read_object_graph(store)
        delete_objects(store, found, find_orphaned_objects(found, grace_s=grace_s))

    for number in (1, 3):
        process = start(place, "encode_latents", *overrides)
        deadline = time.monotonic() + 240
        while len(parts(place)) < number and time.monotonic() < deadline:
            assert process.poll() is None
            collect(20.0)
        time.sleep(random.Random(number).random() * 0.3)
        kill_tree(process)
        kept = parts(place)
        collect(0.0)
        assert parts(place) == kept and verify(store, deep=True).problems == []
    process = start(place, "encode_latents", *overrides)
    while process.poll() is None:
        collect(20.0)
    assert process.returncode == 0
    collect(0.0)
    found = run_stages(place.context(*overrides), last="encode_latents")
    assert found.ran == [] and found["encode_latents"].content == expected["encode_latents"].content
    health = verify(store, deep=True)
    assert health.problems == [] and sum(stage.num_orphaned for stage in health.stages.values()) == 0
