"""Validation while training: videos are made, and training is the same to the bit, whatever happens to them."""

import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sana.errors import RankLostError
from sana.maintenance.gc import find_orphaned_objects, outdated_records
from sana.maintenance.object_graph import read_object_graph
from sana.maintenance.verify import invalidate, verify
from sana.progress import Progress, ValidationDone
from sana.runtime.job import Job, read_job
from sana.runtime.launcher import EXIT_TRY_AGAIN, error_path
from sana.runtime.specs import TrainSpec
from sana.store import open_store
from sana.training.checkpoints.checkpoint import Checkpoint, checkpoint_steps
from sana.training.validation import maker as making
from sana.training.validation import record as kept
from sana.training.validation.record import ValidationRecord
from sana.workers.train import train
from tests.rank_pair import RankError, RankPair
from tests.training_lab import Lab
from tests.training_store import build_encoded, reports_to

pytestmark = pytest.mark.timeout(240)

SETTINGS: dict[str, Any] = {"max_steps": 4, "checkpoint_every": 4, "log_every": 2}
VALIDATION: dict[str, Any] = {
    "every": 2, "buckets": ["5x64x96", "1x48x80"], "num_inference_steps": 2, "weights": "both", "timeout_s": 60,
}  # fmt: skip


@pytest.fixture(scope="module")
def store_with_prompts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_encoded(tmp_path_factory.mktemp("validation") / "store", prompts=("a", "b"))


@pytest.fixture
def lab(own_sigterm: None, store_with_prompts: Any, tmp_path: Path, tiny_model: Path) -> Lab:
    return Lab(store_with_prompts, tmp_path, tiny_model)


@pytest.fixture(scope="module")
def plain(store_with_prompts: Any, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Checkpoint:
    """The last checkpoint of a run without validation."""
    return Lab(store_with_prompts, tmp_path_factory.mktemp("plain"), tiny_model).train("plain", **SETTINGS)


def job_of(lab: Lab, trajectory: str, *, steps: dict[str, Any] | None = None, **validation: Any) -> Job[TrainSpec]:
    return lab.job(trajectory, **{**SETTINGS, **(steps or {}), "validation": {**VALIDATION, **validation}})


def heard(job: Job[TrainSpec]) -> tuple[Job[TrainSpec], list[ValidationDone], list[str]]:
    events: list[ValidationDone] = []
    phases: list[str] = []

    def listen(progress: Progress) -> None:
        events.extend(what for what in progress.happened if isinstance(what, ValidationDone))
        phases.append(progress.phase)

    return reports_to(job, listen), events, phases


def assert_unharmed(lab: Lab, plain: Checkpoint, trajectory: str) -> None:
    """The run ended with the bits of the one without: weights, EMA and optimizer, and every loss."""
    last = lab.at(trajectory, 4)
    assert {name: info.digest for name, info in last.files.items()} == {n: i.digest for n, i in plain.files.items()}
    rows = [{k: v for k, v in row.items() if not k.startswith("validation/")} for row in lab.rows(last)]
    assert [row for row in rows if len(row) > 1] == lab.rows(plain)


def test_videos_are_made_and_training_does_not_know(lab: Lab, plain: Checkpoint) -> None:
    job, events, phases = heard(job_of(lab, "valid", at_start=True))
    train(job)
    assert_unharmed(lab, plain, "valid")
    records = list(kept.records(lab.store, lab.key("valid")))
    assert [record.step for record in records] == [0, 2, 4] and not any(record.failed for record in records)
    # before the first step EMA and live weights are the same: once
    assert [[video.weights for video in record.videos] for record in records] == [
        ["live"] * 4, ["live"] * 4 + ["ema"] * 4, ["live"] * 4 + ["ema"] * 4,
    ]  # fmt: skip
    last = records[-1]
    assert [(video.prompt, video.bucket) for video in last.videos[:4]] == [
        ("a", "5x64x96"), ("b", "5x64x96"), ("a", "1x48x80"), ("b", "1x48x80"),
    ]  # fmt: skip
    assert len({video.digest for video in last.videos}) == 8, "other prompts, shapes and weights: other videos"
    for info in last.files.values():
        assert len(lab.store.read(info.key)) == info.num_bytes
    assert set(last.sheets) == {f"{bucket}-{which}" for bucket in VALIDATION["buckets"] for which in ("live", "ema")}
    with Image.open(lab.path(last.files[last.sheets["5x64x96-ema"]].key)) as sheet:
        assert sheet.size == (6 * (96 + 6) + 6, 2 * (64 + 26 + 6) + 6)
    assert [(event.step, event.weights, event.error) for event in events] == [
        (0, "live", ""), (2, "live", ""), (2, "ema", ""), (4, "live", ""), (4, "ema", ""),
    ]  # fmt: skip
    assert events[-1].record == last.key and set(events[-1].videos) == {
        f"{name} {bucket} seed 0" for name in "ab" for bucket in VALIDATION["buckets"]
    }
    assert any("validating" in phase for phase in phases)


def test_a_checkpoint_is_complete_before_a_validation_begins(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[list[int]] = []
    sample = making.sample_latents

    def look(*args: Any, **named: Any) -> Any:
        saved.append(checkpoint_steps(lab.store, lab.key("before")))
        return sample(*args, **named)

    monkeypatch.setattr(making, "sample_latents", look)
    train(job_of(lab, "before", weights="ema", prompts=["a"], buckets=["5x64x96"]))
    assert saved == [[2], [2, 4]]


def test_what_a_sampler_does_to_random_numbers_and_modes_stays_with_it(
    lab: Lab, plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = making.sample_latents

    def draw(pipe: Any, **named: Any) -> Any:
        assert not pipe.transformer.training
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002
        return sample(pipe, **named)

    monkeypatch.setattr(making, "sample_latents", draw)
    states = []
    for name, validation in (("draws-not", {"every": 0}), ("draws", {"weights": "ema", "buckets": ["5x64x96"]})):
        torch.manual_seed(5), random.seed(5), np.random.seed(5)  # noqa: NPY002
        train(job_of(lab, name, **validation))
        states.append((torch.rand(2).tolist(), random.random(), np.random.rand()))  # noqa: NPY002
    assert states[0] == states[1], "libraries that draw from the process's generators go on as without"
    assert_unharmed(lab, plain, "draws")


def fail_in(monkeypatch: Any, where: str, error: BaseException, *, at_call: int = 2) -> None:
    """Let a function that validation calls raise, at its n-th call in each validation and all that follow."""
    real, calls = getattr(making, where), []

    def failing(*args: Any, **named: Any) -> Any:
        calls.append(where)
        if len(calls) >= at_call:
            raise error
        return real(*args, **named)

    monkeypatch.setattr(making, where, failing)


@pytest.mark.parametrize(
    ("where", "error", "at_call", "told"),
    [
        # with EMA weights exchanged for the live ones: they are put back
        (
            "sample_latents",
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"),
            5,
            "CUDA out of",
        ),
        ("sample_latents", FloatingPointError("3 of 9 latents are not finite"), 1, "3 of 9 latents are not finite"),
        ("load_vae", OSError("no vae/config.json"), 1, "OSError: no vae/config.json"),
        ("to_video", KeyError("decoder"), 2, "KeyError: 'decoder'"),
        ("write_mp4", MemoryError(), 1, "MemoryError"),
    ],
)
def test_a_sampler_that_fails_is_told_of_and_training_is_unharmed(
    lab: Lab,
    plain: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    error: BaseException,
    at_call: int,
    told: str,
) -> None:
    fail_in(monkeypatch, where, error, at_call=at_call)
    name = f"{where}-{at_call}"
    job, events, _ = heard(job_of(lab, name))
    train(job)
    assert_unharmed(lab, plain, name)
    records = list(kept.records(lab.store, lab.key(name)))
    assert [record.step for record in records] == [2, 4] and all(told in record.failed for record in records)
    assert [event.step for event in events] == [2, 4] and all(told in event.error for event in events)
    [row] = [row for row in lab.rows(lab.at(name, 4)) if "validation/failed" in row]
    assert (row["step"], row["validation/failed"]) == (2, 1.0)


def test_a_video_that_does_not_fit_is_decoded_in_tiles(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = making.to_video

    def whole_has_no_room(vae: Any, latents: torch.Tensor, **named: Any) -> Any:
        if not vae.use_tiling:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return real(vae, latents, **named)

    one = {"prompts": ["a"], "buckets": ["5x64x288"], "weights": "live", "every": 4}
    for name, settings in (("whole", {"vae_tiling": "never"}), ("tiles", {"vae_tiling": "always"})):
        train(job_of(lab, name, **one, **settings))
    monkeypatch.setattr(making, "to_video", whole_has_no_room)
    train(job_of(lab, "auto", **one))
    [whole], [tiles], [auto] = (
        next(kept.records(lab.store, lab.key(name))).videos for name in ("whole", "tiles", "auto")
    )
    assert (whole.tiled, tiles.tiled, auto.tiled) == (False, True, True)
    assert auto.digest == tiles.digest != whole.digest


def hang(job: Job[TrainSpec]) -> None:
    """Train with a sampler that hangs, in a process of its own."""
    making.sample_latents = lambda *_, **__: time.sleep(600)  # type: ignore[assignment]
    train(job)


def test_a_validation_that_hangs_ends_the_trainer_which_resumes_without_it(lab: Lab, plain: Checkpoint) -> None:
    job = job_of(lab, "hangs", timeout_s=1.0)
    [process] = lab.start(job, hang)
    process.join(150)
    assert process.exitcode == EXIT_TRY_AGAIN
    message = error_path(job.path).read_text()
    assert "the validation of step 2 hangs: it took longer than train.validation.timeout_s, 1 s" in message
    assert checkpoint_steps(lab.store, lab.key("hangs")) == [2]
    [record] = kept.records(lab.store, lab.key("hangs"))
    assert record.step == 2 and "timeout_s" in record.failed
    lines = [Progress.from_line(line, where="test") for line in job.progress_path.read_text().splitlines()]
    assert [what.error for line in lines for what in line.happened if isinstance(what, ValidationDone)] == [
        record.failed
    ]
    # the run that follows tells of it again, does not try it, and makes the next
    resumed, events, _ = heard(job_of(lab, "hangs"))
    train(resumed)
    assert [(event.step, bool(event.error)) for event in events] == [(2, True), (4, False), (4, False)]
    assert_unharmed(lab, plain, "hangs")


def test_validations_that_hang_again_and_again_are_left_out(
    lab: Lab, plain: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flow starts a trainer a few times: it must not fail because every validation hangs."""
    for step in (0, 2):
        record = ValidationRecord(lab.key("again"), step, "0123456789ab", 9.0, failed="hung", ended_trainer=True)
        kept.end(lab.store, replace(record, timeout_s=60.0 if step else 80.0))
    one = {"prompts": ["a"], "buckets": ["1x48x80"], "weights": "live"}
    job, events, _ = heard(job_of(lab, "again", **one))
    train(job)
    assert_unharmed(lab, plain, "again")
    assert [event.step for event in events] == [2, 4] and all("no more are made" in event.error for event in events)
    job, events, _ = heard(job_of(lab, "again", steps={"max_steps": 6}, **{**one, "timeout_s": 61.0}))
    train(job)  # a longer time is another try
    assert [(event.step, event.error) for event in events] == [(4, ""), (6, "")]


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it."""


@pytest.mark.parametrize("times", [1, 2])
def test_a_trainer_that_dies_while_it_validates_tries_again_once(
    lab: Lab, plain: Checkpoint, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """A kill is chance, and the checkpoint has its weights; what kills twice is left out, and so are others."""
    one, name = {"prompts": ["a"], "buckets": ["1x48x80"], "weights": "live"}, f"killed-{times}"
    for attempt in range(1, times + 1):
        with monkeypatch.context() as patch:
            fail_in(patch, "sample_latents", Killed(), at_call=0)
            with pytest.raises(Killed):
                train(job_of(lab, name, **one))
        [(key, _)] = lab.store.list(kept.all_of(lab.key(name)))
        assert key.endswith(kept.BEGUN) and kept.read(lab.store, key).attempts == attempt
    job, events, _ = heard(job_of(lab, name, **one))
    train(job)
    records = {record.step: record for record in kept.records(lab.store, lab.key(name))}
    if times == 1:
        assert [(event.step, event.error) for event in events] == [(2, ""), (4, "")]
        assert [bool(record.videos) for record in records.values()] == [True, True]
        alone = job_of(lab, f"{name}-alone", **one)
        train(alone)  # the same videos as of a trainer that was not killed
        told = [[video.digest for video in one.videos] for one in kept.records(lab.store, lab.key(f"{name}-alone"))]
        assert told == [[video.digest for video in one.videos] for one in records.values()]
    else:
        why = "the trainer ended twice while it was made; sana sample CONFIG --step 2 makes it"
        assert list(records) == [2] and records[2].failed == why and records[2].attempts == 2
        assert events[0].error == why and "that of step 2 ended the trainer twice, so no more" in events[1].error
    assert not [key for key, _ in lab.store.list(kept.all_of(lab.key(name))) if key.endswith(kept.BEGUN)]
    assert_unharmed(lab, plain, name)


def test_a_damaged_note_of_a_beginning_is_no_reason_to_try_for_ever(tmp_path: Path) -> None:
    store, name = open_store(str(tmp_path)), ("train", 2, "0123456789ab")
    assert kept.attempts_of(store, *name) == 0 and kept.begin(store, *name) == 1
    assert kept.begin(store, *name) == 2 == kept.attempts_of(store, *name)
    (tmp_path / kept.folder_of(*name) / kept.BEGUN).write_bytes(b"{")
    assert kept.attempts_of(store, *name) == kept.MAX_ATTEMPTS


def test_a_trainer_that_is_stopped_while_it_validates_makes_it_when_it_resumes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any, on_step: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        on_step(1, 2)
        raise AssertionError("it went on")

    with monkeypatch.context() as patch:
        patch.setattr(making, "sample_latents", stop)
        with pytest.raises(SystemExit):
            train(job_of(lab, "stopped"))
    assert not list(lab.store.list(kept.all_of(lab.key("stopped"))))
    train(job_of(lab, "stopped"))
    assert [record.failed for record in kept.records(lab.store, lab.key("stopped"))] == ["", ""]


def test_a_video_that_begins_with_a_picture_is_made_by_the_image_to_video_pipeline(
    lab: Lab, plain: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(np.full((64, 96, 3), (200, 30, 60), np.uint8)).save(tmp_path / "red.png")
    given: list[Any] = []
    sample = making.sample_latents

    def look(pipe: Any, **named: Any) -> Any:
        latents = sample(pipe, **named)
        given.append((named["shape"].num_frames, named["first_latents"], latents))
        return latents

    monkeypatch.setattr(making, "sample_latents", look)
    job = job_of(lab, "images", every=4, weights="ema", prompts=["a"])
    config = job.config.model_copy(
        update={"sample": job.config.sample.model_copy(update={"images": {"a": str(tmp_path / "red.png")}})}
    )
    train(replace(job, config=config))
    assert_unharmed(lab, plain, "images")
    [record] = kept.records(lab.store, lab.key("images"))
    assert not record.failed and [frames for frames, *_ in given] == [5, 1]
    (_, first, latents), (_, no_first, _) = given
    assert torch.equal(latents[:, :, :1], first.to(latents)) and no_first is None, "a still has no first frame"


def test_only_the_newest_validations_stay_and_maintenance_knows_them(lab: Lab) -> None:
    one = {"prompts": ["a"], "buckets": ["1x48x80"], "weights": "live", "every": 1, "max_kept": 2}
    train(job_of(lab, "kept", **one))
    records = list(kept.records(lab.store, lab.key("kept")))
    assert [record.step for record in records] == [3, 4]
    keys = {key for key, _ in lab.store.list(kept.all_of(lab.key("kept")))}
    assert len(keys) == 2 * 3, "a record, a video and a sheet each"
    graph = read_object_graph(lab.store)
    assert {key for key in graph.references if key in keys} == keys
    orphans = {thing.key for thing in find_orphaned_objects(graph, grace_s=0.0)}
    assert not keys & orphans
    lab.store.delete(records[0].key)  # half removed: what it had is left
    graph = read_object_graph(lab.store)
    assert keys & {thing.key for thing in find_orphaned_objects(graph, grace_s=0.0)} == {
        file.key for file in records[0].files.values()
    }
    outdated = {thing.key: thing.why for thing in outdated_records(graph, before=time.time() + 60)}
    assert outdated[records[1].key] == "a validation of a training that is out of use"
    video = next(file.key for name, file in records[1].files.items() if name.endswith(".mp4"))
    lab.path(video).write_bytes(b"x")
    problems = [problem for problem in verify(lab.store).problems if problem.key == video]
    assert [problem.by for problem in problems] == [records[1].key]
    assert invalidate(lab.store, problems) == [records[1].key]


SLOW = pytest.mark.slow(group="validation")
ADAPTER = {"name": "lora", "rank": 2}


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"method": ADAPTER}, id="lora"),
        pytest.param({"offload": {"type": "block_level"}, "activation_memory": "recompute_all"}, id="offload"),
        pytest.param({"ema_device": "cpu", "objective": {"name": "huber"}}, id="ema_cpu", marks=SLOW),
        pytest.param(
            {"weights_dtype": "bf16", "mixed_precision": "bf16", "optimizer": {"name": "adamw_bf16"}},
            id="bf16",
            marks=SLOW,
        ),
        pytest.param(
            {"fused_backward": True, "gradient_clipping": "none", "global_batch_size": 2, "activation_memory": 0.0},
            id="fused",
            marks=SLOW,
        ),
        *(
            pytest.param({"method": ADAPTER, "base_weights": kind}, id=kind, marks=SLOW)
            for kind in ("int8", "fp8", "fp8_cast")
        ),
    ],
)
def test_however_a_model_trains_it_is_sampled_and_stays_as_it_was(lab: Lab, settings: dict[str, Any]) -> None:
    one = {"prompts": ["a"], "buckets": ["5x64x96"], "weights": "both"}
    train(job_of(lab, "without", steps=settings, every=0))
    train(job_of(lab, "with", steps=settings, **one))
    records = list(kept.records(lab.store, lab.key("with")))
    assert [(record.step, record.failed, len(record.videos)) for record in records] == [(2, "", 2), (4, "", 2)]
    assert len({video.digest for record in records for video in record.videos}) == 4
    without, last = lab.at("without", 4), lab.at("with", 4)
    assert [info.digest for info in last.files.values()] == [info.digest for info in without.files.values()]


def test_what_was_made_before_training_resumed_is_not_made_or_told_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"prompts": ["a"], "buckets": ["1x48x80"], "weights": "live"}
    train(job_of(lab, "raised", **one))
    monkeypatch.setattr(making, "load_vae", lambda *_, **__: pytest.fail("made again"))
    job, events, _ = heard(job_of(lab, "raised", steps={"max_steps": 5}, **one))
    train(job)
    assert not events
    assert [row["step"] for row in lab.rows(lab.at("raised", 5)) if "validation/failed" in row] == [2, 4]


def _train_on_two(job_path: Path, fault: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if os.environ["RANK"] == "1" and fault:
            fail_in(patch, fault, torch.cuda.OutOfMemoryError("CUDA out of memory"), at_call=1)
        train(read_job(job_path, TrainSpec))


@pytest.mark.parametrize("sharding", ["none", pytest.param("full", marks=SLOW)])
def test_ranks_share_the_videos_and_agree_on_what_fails(
    pair: RankPair, lab: Lab, plain: Checkpoint, sharding: str
) -> None:
    two = {"num_processes": 2, "sharding": sharding}
    validation = {"every": 4, "prompts": ["a", "b"], "buckets": ["5x64x96"], "seeds": [0, 1, 2]}
    pair.run(_train_on_two, job_of(lab, "two-off", steps=two, every=0).path, "")
    without = lab.at("two-off", 4)
    pair.run(_train_on_two, job_of(lab, "two", steps=two, **validation).path, "")
    [record] = kept.records(lab.store, lab.key("two"))
    assert not record.failed and len(record.videos) == 12
    pair.run(_train_on_two, job_of(lab, "two-failed", steps=two, **validation).path, "to_video")
    [failed] = kept.records(lab.store, lab.key("two-failed"))
    assert failed.failed == "rank 1: OutOfMemoryError: CUDA out of memory"
    for name in ("two", "two-failed"):
        assert [i.digest for i in lab.at(name, 4).files.values()] == [i.digest for i in without.files.values()]
    if sharding == "none":
        pair.run(_train_on_two, job_of(lab, "two-none", steps=two, **validation).path, "sample_latents")
        [failed] = kept.records(lab.store, lab.key("two-none"))
        assert failed.failed == "rank 1: OutOfMemoryError: CUDA out of memory"
        return
    # in a forward pass of sharded weights the others wait: this rank ends, and all are started again
    job = job_of(lab, "two-sharded", steps=two, **validation)
    with pytest.raises(RankError, match="rank 1 failed") as caught:
        pair.run(_train_on_two, job.path, "sample_latents")
    assert isinstance(caught.value.__cause__, RankLostError)
    assert checkpoint_steps(lab.store, lab.key("two-sharded")) == [4]
    pair.run(_train_on_two, job.path, "sample_latents")
    [failed] = kept.records(lab.store, lab.key("two-sharded"))
    assert failed.failed == "rank 1: OutOfMemoryError: CUDA out of memory"
