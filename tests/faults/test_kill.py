"""kill -9 at random moments: what was committed stays, and the end is that of a run that nobody killed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from sana.arrow import read_parquet
from sana.artifact import Artifact, find
from sana.data.shards.shard import Location, read_tensor
from sana.facts import TrainFacts
from sana.pipeline import graph
from sana.pipeline.plan import inputs_of
from sana.progress import Progress
from sana.runtime.job import Job
from sana.store import Store, open_store
from sana.training.checkpoints.checkpoint import read_checkpoint, read_metrics
from tests import forked
from tests.pipeline_runs import ROOT, Outcome, Place, inline_workers, new_place, run_stages
from tests.training_lab import NOT_COMPARED

pytestmark = pytest.mark.timeout(400)
NUM_SAMPLES = 13  # of the demo

SCRIPT = """
import sys
from pathlib import Path
from tests.pipeline_runs import Place, run_stages
folder, model, last = sys.argv[1:4]
run_stages(Place(Path(folder), Path(model), folder + "/root").context(*sys.argv[4:]), last=last)
"""


def start(place: Place, last: str, *overrides: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(place.folder), str(place.model), last, *overrides],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def kill_tree(process: subprocess.Popen) -> None:
    """SIGKILL the process and every descendant, as a machine that loses power would."""
    import psutil

    parent = psutil.Process(process.pid)
    for member in [parent, *parent.children(recursive=True)]:
        try:
            os.kill(member.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def wait_for(condition, process: subprocess.Popen, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)
    assert condition()


@dataclass(frozen=True)
class Victim:
    """A stage to kill, what it needs, how long it takes, and what an uninterrupted run of it made."""

    name: str
    before: str  # the last stage that is run before
    prepared: Place
    overrides: tuple[str, ...]
    seconds: float
    content: Mapping[str, str]


STAGES = {
    # every part is small, so that there are many moments between two commits
    "probe": ("download", ("probe.resources.clips_per_part=3",)),
    "bucket": ("probe", ()),
    "encode_latents": (
        "bucket",
        ("encode_latents.resources.samples_per_part=2", "encode_latents.resources.shard_mib=1"),
    ),
    "s3": ("bucket", ("encode_latents.resources.samples_per_part=2",)),
}
KILLS = 20


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, request: pytest.FixtureRequest):
    """Give the Victim of each name of STAGES; made once, when it is asked for first."""
    made: dict[str, Victim] = {}

    def victim(name: str) -> Victim:
        if name not in made:
            before, overrides = STAGES[name]
            place = new_place(tmp_path_factory.mktemp(name), tiny_model)
            with inline_workers():
                run_stages(place.context(), last=before)
            stage = "encode_latents" if name == "s3" else name
            whole = copied(place, place.folder / "whole", name, request)
            seconds, _ = run_forked(whole, stage, overrides)
            content = committed(whole, stage, overrides).content
            made[name] = Victim(stage, before, place, overrides, seconds, content)
        return made[name]

    return victim


def copied(prepared: Place, folder: Path, name: str, request: pytest.FixtureRequest) -> Place:
    """Return a place of its own with the objects of the prepared one: in a folder, or in the bucket of the server."""
    root = str(folder / "root")
    if name == "s3":
        server = request.getfixturevalue("s3")
        root = f"s3://{server.bucket}/kills/{folder.name}-{uuid.uuid4().hex[:6]}"
    store, source = open_store(root), open_store(prepared.root)
    for key, _ in source.list(""):
        store.put_if_absent(key, source.read(key))
    (folder / "work").mkdir(parents=True)
    (folder / "clips").symlink_to(prepared.clips)
    return Place(folder, prepared.model, root)


def run_forked(place: Place, stage: str, overrides: tuple[str, ...], *, kill_after_s: float | None = None):
    """Run a stage in a process of its own; returns its seconds, and whether it was killed before its end."""
    marker = place.folder / f"began-{uuid.uuid4().hex[:6]}"
    process = forked.start(forked.one_stage, place, stage, marker, *place_overrides(place), *overrides)
    while not marker.exists():
        assert process.exitcode is None, "it ended before it began"
        time.sleep(0.001)
    began = time.monotonic()
    process.join(kill_after_s)
    process.kill()
    process.join()
    assert process.exitcode in ((0,) if kill_after_s is None else (0, -signal.SIGKILL))
    return time.monotonic() - began, process.exitcode != 0


def place_overrides(place: Place) -> tuple[str, ...]:
    # the digest cache knows files by their path: the prepared place's
    return (f"download.datasets.0.source={place.clips.resolve()}",)


def committed(place: Place, stage: str, overrides: tuple[str, ...]) -> Artifact:
    context = place.context(*place_overrides(place), *overrides)
    found = find(context.store, graph.stage(stage).recipe(context, inputs_of(context, stage)))
    assert found is not None
    return found


def assert_whole(store: Store) -> set[str]:
    """Every object that is visible is complete, and every commit refers to what is there; returns the samples' keys."""
    sizes = dict(store.list(""))
    keys: set[str] = set()
    for key in sizes:
        data = store.read(key)
        if key.rpartition("/")[2].startswith("artifact"):
            for file in Artifact.from_json(data, where=key).files.values():
                assert hashlib.blake2b(store.read(file.key), digest_size=16).hexdigest() == file.digest
        elif key.endswith(".parquet"):
            table = read_parquet(data)
            if "/parts/" in key and "shard" in table.column_names:
                keys |= {row["sample_key"] for row in table.to_pylist()}
                for row in table.to_pylist():
                    read_tensor(store, Location.of(row))
        elif key.endswith(".safetensors"):
            assert safetensors.torch.load(data)
    return keys


def num_encoded(place: Place) -> int:
    """How many samples the only worker of a place says it has encoded."""
    [path] = place.folder.glob("work/jobs/*.progress.jsonl")
    lines = path.read_text().splitlines()
    return max((json.loads(line)["done"] for line in lines), default=0)


def kill_and_run_again(victim: Victim, name: str, number: int, folder: Path, request: pytest.FixtureRequest) -> bool:
    """One moment: kill, look at what is left, run again, compare; tells if the kill came before the end."""
    place = copied(victim.prepared, folder, name, request)
    moment_s = random.Random(f"{name}-{number}").random() * victim.seconds
    _, killed = run_forked(place, victim.name, victim.overrides, kill_after_s=moment_s)
    store = open_store(place.root)
    keys = assert_whole(store)
    parts = {key for key, _ in store.list(victim.name) if "/parts/" in key}
    is_committed = any(key.endswith("/artifact.json") for key, _ in store.list(victim.name))  # the kill came just after
    if victim.name == "encode_latents" and list(place.folder.glob("work/jobs/*.progress.jsonl")):
        assert num_encoded(place) - len(keys) <= 2, "more than a part was lost"
    run_forked(place, victim.name, victim.overrides)
    assert parts <= {key for key, _ in store.list(victim.name)}
    assert committed(place, victim.name, victim.overrides).content == victim.content
    if victim.name == "encode_latents":
        assert len(assert_whole(store)) == NUM_SAMPLES
        if killed and not is_committed:
            found = committed(place, victim.name, victim.overrides)
            assert found.counts.extra["encoded"] == NUM_SAMPLES - len(keys)
    return killed


@pytest.mark.parametrize("name", STAGES)
def test_a_kill_at_a_random_moment(
    name: str, victims: Callable[[str], Victim], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kill_and_run_again(victims(name), name, 0, tmp_path / "killed", request)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name",
    [
        *(pytest.param(name, marks=pytest.mark.slow(group="kills")) for name in ("probe", "bucket", "encode_latents")),
        pytest.param("s3", marks=pytest.mark.slow(group="kills_s3")),
    ],
)
def test_kills_at_twenty_random_moments(
    name: str, victims: Callable[[str], Victim], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    victim = victims(name)
    killed = [
        kill_and_run_again(victim, name, number, tmp_path / f"killed-{number}", request) for number in range(KILLS)
    ]
    print(f"{name}: {sum(killed)} of {KILLS} kills came before the end; a whole run takes {victim.seconds:.2f} s")
    assert sum(killed) >= KILLS // 3  # the rest came after the end, on a machine that is faster than at first


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    place = new_place(tmp_path_factory.mktemp("encoded"), tiny_model)
    with inline_workers():
        run_stages(place.context(), last="encode_latents")
    return place


@pytest.fixture(scope="module")
def reference(
    encoded: Place, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Place, Outcome]:
    place = copied(encoded, tmp_path_factory.mktemp("reference") / "place", "train", request)
    with inline_workers():
        return place, run_stages(place.context(*place_overrides(place)), last="train")


def has_checkpoint(place: Place, step: int) -> bool:
    return bool(list(Path(place.root).glob(f"train/*/checkpoints/step_{step:08d}/index.json")))


def train_until_killed(place: Place, step: int, delay_s: float, marker: Path, *overrides: str) -> None:
    """Run the train stage in this process, which is killed so long after the step that follows a checkpoint's."""
    report = Job.report

    def report_and_die(job: Job[Any], progress: Progress) -> None:
        report(job, progress)
        if progress.done == step + 1:
            while not has_checkpoint(place, step):  # it is written behind training, which waits here
                time.sleep(0.001)
            threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL)).start()

    Job.report = report_and_die  # this process ends with it
    forked.one_stage(place, "train", marker, *overrides, "train.resources.log_every=1")


@pytest.mark.parametrize("what", ["the process", pytest.param("its tree", marks=pytest.mark.slow(group="kills_s3"))])
def test_kills_while_training_change_no_bit(
    what: str, encoded: Place, reference: tuple[Place, Outcome], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = copied(encoded, tmp_path / "killed", "train", request)
    overrides = place_overrides(place)
    for step in (2, 4):
        if what == "the process":
            delay_s = random.Random(step).random() * 0.02  # a step takes longer
            process = forked.start(train_until_killed, place, step, delay_s, tmp_path / "began", *overrides)
            process.join()
            assert process.exitcode == -signal.SIGKILL and has_checkpoint(place, step)
        else:
            tree = start(place, "train", *overrides)
            wait_for(partial(has_checkpoint, place, step), tree)
            kill_tree(tree)
    assert not has_checkpoint(place, 6)
    outcome = run_stages(place.context(*overrides), last="train")  # in a worker process, as in life
    expected = reference[1]["train"]
    assert outcome["train"].content == expected.content
    assert metrics(place, outcome) == metrics(reference[0], reference[1])
    steps = [row["step"] for row in metrics(place, outcome)]
    assert steps == sorted(set(steps)) == list(range(1, 7))


def metrics(place: Place, outcome: Outcome) -> list[dict]:
    """The metrics rows of the finished run, without those that say how long things took."""
    facts = TrainFacts.of(outcome["train"])
    store = place.context().store
    lines = read_metrics(store, read_checkpoint(store, facts.trajectory, facts.step)).decode().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(NOT_COMPARED)} for line in lines]
