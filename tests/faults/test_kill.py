"""kill -9 at random moments: what was committed stays, and the end is that of a run that nobody killed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sana.training.checkpoint import at_step, read_metrics
from tests.pipeline_runs import ROOT, Outcome, Place, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(400)

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


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Place, Outcome]:
    place = new_place(tmp_path_factory.mktemp("reference"), tiny_model)
    with inline_workers():
        return place, run_stages(place.context(), last="train")


def test_kills_while_encoding_latents_lose_at_most_a_part(
    reference: tuple[Place, Outcome], tmp_path: Path, tiny_model: Path
) -> None:
    place = new_place(tmp_path / "killed", tiny_model)
    overrides = ("encode_latents.resources.samples_per_part=2",)
    with inline_workers():
        run_stages(place.context(*overrides), last="encode_captions")
    parts = Path(place.root) / "encode_latents/pool"

    def committed() -> set[str]:
        return {path.name for path in parts.rglob("parts/*.parquet")}

    for number in (1, 3):
        process = start(place, "encode_latents", *overrides)
        wait_for(lambda number=number: len(committed()) >= number, process)
        time.sleep(random.Random(number).random() * 0.3)
        kill_tree(process)
        kept = committed()
        assert not list((Path(place.root) / "encode_latents").glob("*/artifact.json"))
    outcome = run_stages(place.context(*overrides), last="encode_latents")
    assert kept <= committed()
    assert outcome["encode_latents"].content == reference[1]["encode_latents"].content
    assert outcome["encode_latents"].counts["encoded"] <= 13 - 2 * len(kept) + 4  # some parts hold one sample


def test_kills_while_training_change_no_bit(reference: tuple[Place, Outcome], tmp_path: Path, tiny_model: Path) -> None:
    place = new_place(tmp_path / "killed", tiny_model)
    with inline_workers():
        run_stages(place.context(), last="encode_latents")
    checkpoints = Path(place.root) / "train"
    for step in (2, 4):
        process = start(place, "train")
        wait_for(lambda step=step: list(checkpoints.glob(f"*/checkpoints/step_{step:08d}/index.json")), process)
        kill_tree(process)
    outcome = run_stages(place.context(), last="train")
    expected = reference[1]["train"]
    assert outcome["train"].content == expected.content
    assert metrics(place, outcome) == metrics(reference[0], reference[1])
    steps = [row["step"] for row in metrics(place, outcome)]
    assert steps == sorted(set(steps)) == list(range(1, 7))


def metrics(place: Place, outcome: Outcome) -> list[dict]:
    """The metrics rows of the finished run, without those that say how long things took."""
    facts = outcome["train"].facts
    store = place.context().store
    lines = read_metrics(store, at_step(store, facts["trajectory"], facts["step"])).decode().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("time/")} for line in lines]
