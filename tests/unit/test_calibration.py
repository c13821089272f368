"""Calibration: what is tried, what is chosen, and that a measurement that dies is one that does not fit."""

import os
import resource
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.cli.main import main
from sana.bucket import Bucket
from sana.config.load import load_config
from sana.config.training.offload import GroupOffload
from sana.config.training.train import TrainConfig
from sana.costs import calibration
from sana.costs.calibration import (
    Calibration,
    Rate,
    Trial,
    calibrated_settings,
    measured_activations,
    save_calibration,
    sizes_digest,
)
from sana.costs.machine import Machine, this_machine
from sana.costs.memory import GIB, training_memory
from sana.costs.rates import Rates
from sana.costs.search import MOST_TRIALS, SMALL_LAYERS, Search
from sana.costs.training import training_setting
from sana.costs.transformer import TransformerSizes
from sana.errors import SanaError
from sana.model.model_configs import sizes_of
from sana.stages.bodies.trainable_here import why_not
from sana.workers.commands.calibrate import in_process
from tests.published import TEXT_ENCODER, TRANSFORMER, VAE

SIZES, FULL = TransformerSizes.of(TRANSFORMER), Bucket(81, 480, 832)
MODEL = sizes_of({"transformer": TRANSFORMER, "vae": VAE, "text_encoder": TEXT_ENCODER}, where="model")


def search(
    capacity_gib: float, *, batch: int = 1, over: float = 1.0, gain: float = 1.0, compiled: str = "never"
) -> Search:
    """A search on a made-up card: what is not state needs `over` times what is counted; larger batches gain."""
    resources = {"compile": compiled}
    config = TrainConfig.model_validate({"max_steps": 1, "global_batch_size": batch, "resources": resources})

    def measure(kept: float, micro: int, layers: int) -> Trial:
        sizes = replace(SIZES, num_layers=layers)
        setting = training_setting(config, sizes, caption_tokens=300, on_gpu=True, kept=kept, micro_batch_size=micro)
        counted = training_memory(sizes, FULL, setting)
        peak = counted.state + round(over * (counted.peak - counted.state))
        if peak > capacity_gib * GIB:
            return Trial(layers, micro, kept, fits=False, samples_per_step=micro)
        seconds = layers * micro * (1.4 - 0.4 * kept) / (gain if micro > 1 else 1.0)
        return Trial(layers, micro, kept, True, micro, 30.0, seconds, peak)

    return Search(config, SIZES, FULL, 300, round(capacity_gib * GIB), True, measure)


@pytest.mark.parametrize(
    ("capacity", "options", "chosen"),
    [
        (400.0, {}, (1.0, 1)),
        (80.0, {}, (0.0, 1)),
        (60.0, {"batch": 4}, (0.0, 1)),  # what two layers needed says that two samples do not fit
        (400.0, {"batch": 2, "gain": 1.5}, (1.0, 1)),  # two samples are counted not to fit
        (800.0, {"batch": 2, "gain": 1.5}, (1.0, 2)),
        (40.0, {}, None),
        (80.0, {"compiled": "auto"}, (0.3, 1)),  # of compiled blocks a share is kept
        (75.0, {"over": 1.9}, (0.0, 1)),
        (58.0, {"over": 2.0}, None),  # counted to fit, and does not
        (51.0, {}, (0.0, 1)),  # predicted to need more than 0.94 of it, and tried all the same
    ],
)
def test_search_chooses_what_fits(capacity: float, options: dict[str, Any], chosen: tuple[float, int] | None) -> None:
    one = search(capacity, **options)
    found = one.run()
    small = [trial for trial in one.trials if trial.num_layers == SMALL_LAYERS]
    assert (None if found is None else (found.kept, found.micro_batch_size)) == chosen
    assert len(small) <= MOST_TRIALS
    if found is not None:
        assert found.num_layers == SIZES.num_layers
        assert [trial for trial in one.trials if trial.num_layers == SIZES.num_layers] == [found]


@pytest.mark.parametrize(("gain", "micro"), [(1.5, 4), (1.0, 1)])
def test_larger_micro_batches_are_taken_while_they_are_faster(gain: float, micro: int) -> None:
    one = search(10_000.0, batch=4, gain=gain)
    rising = one.measure
    one.measure = lambda kept, size, layers: replace(
        rising(kept, size, layers), step_s=layers * size / (gain ** (size - 1))
    )
    found = one.run()
    assert found is not None and found.micro_batch_size == micro


def record(**changed: Any) -> Calibration:
    chosen = Trial(20, 1, 0.0, True, 1, 30.0, 1.9, 45 * GIB)
    values: dict[str, Any] = {
        "machine": Machine("card", 80 * GIB, "2.13.0", is_gpu=True), "capacity_bytes": 79 * GIB,
        "model": "m", "transformer": "t",
        "settings": {"train": "bf16"}, "bucket": "81x480x832", "caption_tokens": 300, "trials": (chosen,),
        "chosen": chosen, "forward": Rate(0.5, GIB), "encode": None, "decode": Rate(2.0, GIB, fits=True),
        "captions": Rate(0.04, GIB), "seconds": 100.0,
    }  # fmt: skip
    return Calibration(**{**values, **changed})


def test_a_record_is_read_back_where_it_holds_and_nowhere_else(tmp_path: Path) -> None:
    written = record()
    path = save_calibration(written, tmp_path)
    assert Calibration.load(path) == written
    others = [
        record(machine=Machine("other card", 80 * GIB, "2.13.0", is_gpu=True)),
        record(machine=Machine("card", 80 * GIB, "2.14.0", is_gpu=True)),
        record(model="n"),
        record(settings={"train": "fp32"}),
        record(bucket="17x480x832"),
    ]
    assert len({path, *(save_calibration(other, tmp_path) for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("changed", "kept"),
    [
        ({}, 0.4),
        ({"resources": {"micro_batch_size": 2}}, None),  # more than was measured
        ({"mixed_precision": "fp32"}, None),
        ({"optimizer": {"name": "adafactor"}}, None),
        ({"max_skipped_steps": 3}, None),
    ],
)
def test_auto_keeps_what_was_measured(
    changed: dict[str, Any], kept: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Machine("card", 80 * GIB, "2.13.0", is_gpu=True)
    monkeypatch.setattr(calibration, "this_machine", lambda _: here)
    plain = {"max_steps": 1, "global_batch_size": 2}
    settings = {"train": calibration._of_training(TrainConfig.model_validate(plain))}
    chosen = Trial(20, 1, 0.4, True, 1, 30.0, 0.95, 74 * GIB)
    known = {"machine": here, "transformer": sizes_digest(SIZES), "settings": settings}
    config = TrainConfig.model_validate(plain | changed)

    def found(sizes: TransformerSizes = SIZES, bucket: Bucket = FULL) -> float | None:
        return measured_activations(config, sizes, [Bucket(17, 480, 832), bucket], work_dir=tmp_path)

    assert found() is None  # nothing was measured
    save_calibration(record(chosen=chosen, **known), tmp_path)
    save_calibration(record(chosen=None, model="m2", **known), tmp_path)  # nothing fitted
    assert found() == kept
    assert found(bucket=Bucket(161, 480, 832)) is None
    assert found(replace(SIZES, num_layers=28)) is None
    monkeypatch.setattr(calibration, "this_machine", lambda _: replace(here, device="another card"))
    assert found() is None


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("NVIDIA H200, 143771\n", ("NVIDIA H200", 143771 * 2**20)),
        ("NVIDIA A, B, 100\nNVIDIA C, 200\n", ("NVIDIA A, B", 100 * 2**20)),
        ("GRID, [N/A]\n", ("GRID", 0)),
        ("", None),
    ],
)
def test_a_gpu_is_known_without_torch(
    printed: str, expected: tuple[str, int] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text(f"#!/bin/sh\nprintf '{printed}'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = this_machine()
    assert ((found.device, found.memory_bytes) if found.is_gpu else None) == expected
    assert not this_machine("cpu").is_gpu and this_machine("cpu").memory_bytes > 0
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert not this_machine().is_gpu


def _exhaust() -> int:
    resource.setrlimit(resource.RLIMIT_DATA, (2**30, resource.RLIM_INFINITY))
    return torch.empty(2**31, dtype=torch.uint8).fill_(1).numel()


def _exhaust_gpu() -> int:
    free, _ = torch.cuda.mem_get_info()
    return torch.empty(2 * free, dtype=torch.uint8, device="cuda").numel()


def _raise(error: Exception) -> int:
    raise error


def _kill() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@pytest.mark.parametrize(
    "measurement",
    [
        _exhaust,
        _kill,
        partial(_raise, torch.OutOfMemoryError("CUDA out of memory")),
        partial(_raise, MemoryError()),
        pytest.param(_exhaust_gpu, marks=pytest.mark.gpu),
    ],
)
def test_what_runs_out_of_memory_does_not_fit(measurement: Any) -> None:
    assert in_process(measurement) is None


def test_what_fails_otherwise_is_told() -> None:
    assert in_process(partial(max, 3, 4)) == 4
    with pytest.raises(SanaError, match="no such GPU"):
        in_process(partial(_raise, SanaError("no such GPU")))
    with pytest.raises(SanaError, match="exit code 1"):
        in_process(partial(_raise, ValueError("a bug")))


def test_blocks_in_the_hosts_memory_keep_no_activations() -> None:
    one = search(10_000.0)
    one.config = TrainConfig.model_validate(
        {"max_steps": 1, "global_batch_size": 1, "resources": {"offload": {"type": "block_level"}}}
    )
    found = one.run()
    assert found is not None and {trial.kept for trial in one.trials} == {0.0}


@pytest.mark.parametrize(
    "changed",
    [
        "sample.vae_precision=bf16",
        "sample.vae_tiling=true",
        "encode_captions.max_tokens=200",
        "train.resources.offload.type=block_level",
        "train.optimizer.name=muon",
    ],
)
def test_what_changes_a_measurement_is_another_calibration(changed: str) -> None:
    common = ["train.resources.activation_memory=auto"]
    plain, other = (load_config("configs/demo.yaml", sets) for sets in (common, [*common, changed]))
    assert calibrated_settings(plain) != calibrated_settings(other)


def test_a_forward_pass_is_as_it_was_measured() -> None:
    config = load_config("configs/demo.yaml", ["encode_captions.max_tokens=100"])
    sizes, measured = MODEL, record(caption_tokens=100)
    rates = Rates(config, sizes.transformer, sizes.vae, sizes.text_encoder, measured.machine, measured)
    assert rates.forward(FULL, GroupOffload()) == measured.forward


def test_rollout_is_counted_in_a_step() -> None:
    sets = ["train.max_steps=100", "encode_captions.max_tokens=100"]
    rollout = "train.rollout={max_step_offset: 3, probability_end: 0.5, start_step: 50, sampler: heun}"
    sizes, measured = MODEL, record(caption_tokens=100)
    plain, rolled = (
        Rates(config, sizes.transformer, sizes.vae, sizes.text_encoder, measured.machine, measured).train(FULL)
        for config in (load_config("configs/demo.yaml", sets), load_config("configs/demo.yaml", [*sets, rollout]))
    )
    step = sizes.transformer.flops(FULL, caption_tokens=100)
    kept = rolled.seconds / plain.seconds - 1
    # half of the run has none; then half of the samples, 2 steps on average, of 2 passes each: one pass a sample
    assert any(kept == pytest.approx(step.forward / step.with_recompute(share), rel=1e-3) for share in (0.0, 1.0))
    assert rolled.peak_bytes == plain.peak_bytes


def test_a_sharded_rank_is_not_what_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    sets = ["train.resources.sharding=full", "train.resources.num_processes=2", "train.global_batch_size=8"]
    with pytest.raises(SystemExit):
        main(["calibrate", "configs/demo.yaml", *(part for text in sets for part in ("-s", text))])
    assert "train.resources.sharding=none measures that" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("resources", "refused"),
    [
        ({"activation_memory": 1.0}, True),
        ({"activation_memory": "auto"}, False),  # keeps no more than fits
        ({"activation_memory": "recompute_all"}, False),
        ({"activation_memory": 1.0, "micro_batch_size": 2}, True),  # needs still more
        ({"activation_memory": "recompute_all", "micro_batch_size": 2}, False),  # was not tried
    ],
)
def test_only_what_was_measured_not_to_fit_is_refused(resources: dict[str, Any], refused: bool) -> None:
    fits, not_fits = Trial(20, 1, 0.0, True, 1, 9.0, 1.9, 45 * GIB), Trial(20, 1, 1.0, False, 1)
    measured = record(trials=(not_fits, fits), chosen=fits)
    sets = [f"train.resources.{key}={value}" for key, value in resources.items()]
    config = load_config(
        "configs/demo.yaml", ["train.global_batch_size=2", "train.resources.micro_batch_size=1", *sets]
    )
    said = why_not(config, measured, MODEL)
    assert bool(said) == refused and (not said or "activation_memory=recompute_all" in said)
