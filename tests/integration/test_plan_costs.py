"""`sana calibrate` and then `sana plan`: what was measured here is what a plan goes by."""

import re
import shlex
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest

from flows.cli.main import main
from flows.cli.options import context_of
from flows.display.costs import costs_lines, warnings_of
from sana.artifact import Recipe
from sana.bucket import Bucket
from sana.config.load import load_config
from sana.costs.calibration import FOLDER, Calibration, save_calibration
from sana.costs.machine import Machine
from sana.costs.training import kept_activations
from sana.errors import ConfigError
from sana.facts import BucketFacts
from sana.model.model_configs import read_model_sizes
from sana.pipeline import costs
from sana.pipeline.costs import check_trainable, not_trainable, plan_costs
from sana.pipeline.plan import CACHED, PENDING, StagePlan, plan
from sana.pipeline.plan_record import PlannedStage, PlanRecord, plan_record, remedies_of
from sana.stages import train
from tests.pipeline_runs import ROOT, Place, new_place, run_stages

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    return new_place(tmp_path_factory.mktemp("costs"), tiny_model)


def _command(place: Place, *words: str) -> list[str]:
    sets = [f"model.path={place.model}", f"work_dir={place.folder / 'work'}", "train.global_batch_size=2",
            "train.resources.micro_batch_size=1", f"download.datasets.0.source={place.clips}",
            "bucket.buckets=[9x64x96,9x64x64]"]  # fmt: skip
    options = [part for text in sets for part in ("-s", text)]
    return [words[0], str(ROOT / "configs/demo.yaml"), *options, "--root", place.root, *words[1:]]


@pytest.mark.slow(group="memory")
def test_calibrate_measures_and_plan_goes_by_it(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    main(_command(place, "calibrate"))
    shown = capsys.readouterr().out
    (path,) = (place.folder / "work" / FOLDER).glob("*.json")
    measured = Calibration.load(path)
    assert measured.chosen is not None and measured.bucket == "9x64x96"
    assert 1 <= len(measured.trials) <= 5 and all(trial.fits and trial.step_s > 0 for trial in measured.trials)
    assert all((measured.forward, measured.encode, measured.decode, measured.captions))
    micro = measured.chosen.micro_batch_size
    assert f"train.resources.micro_batch_size={micro}" in shown and "chosen" in shown
    assert re.search(r"that is [\d.e-]+ TFLOP/s", shown)
    main(_command(place, "plan", "--price-per-hour", "2"))
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines[lines.index("") :] if line and ":" not in line.split()[0]}
    assert rows["train"].split()[-1] in ("measured", "scaled") and "at 2 an hour" in rows["in"]
    assert "train: at most: as if all were 9x64x96" in lines
    assert "encode_captions, encode_latents: not counted yet" in lines

    # what was measured not to fit is refused, by plan and run, with what does
    failed = replace(measured.chosen, fits=False, kept=0.0, micro_batch_size=1)
    save_calibration(replace(measured, trials=(failed, measured.chosen)), place.folder / "work")
    for command in ("plan", "run"):
        with pytest.raises(SystemExit):
            main(_command(place, command))
        said = capsys.readouterr().err
        assert "was measured to need more than" in said and f"micro_batch_size={micro}" in said
    with pytest.raises(SystemExit):
        main(_command(place, "plan", "--json"))
    shown = capsys.readouterr().out
    assert "was measured to need more than" in PlanRecord.from_json(shown, where="stdout").stops
    # so does a deployed flow, before its first stage, and a rank of torchrun, which plans nothing
    from flows.stages import run_stages as stages_of_flow

    sets = [text for flag, text in pairwise(_command(place, "run")) if flag == "-s"]
    with pytest.raises(ConfigError, match="was measured to need more than"):
        stages_of_flow(str(ROOT / "configs/demo.yaml"), sets, place.root, None, None)
    assert not Path(place.root, "download").exists()
    context = context_of(load_config(ROOT / "configs/demo.yaml", [*sets, f"root={place.root}"]))
    with pytest.raises(ConfigError, match="was measured to need more than"):
        train.spec_of(context, {}, Recipe("train", 1, {}, {}))


def test_every_key_of_the_json_is_in_the_docs() -> None:
    page = (ROOT / "docs/memory-and-speed.md").read_text()
    table = page[page.index("| `format` |") :]
    documented = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if "|" in line))
    keys = [field.name for record in (PlanRecord, PlannedStage) for field in fields(record)]
    assert sorted(documented) == sorted(["format", *keys])


def test_what_is_not_known_names_the_commands_after_which_it_is(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    main(_command(place, "plan"))
    shown = capsys.readouterr().out
    options = shlex.join(_command(place, "plan")[1:])
    commands = [f"sana run {options} --until bucket", f"sana calibrate {options}"]
    assert "time unknown" in shown and f"to count samples: {commands[0]}\n" in shown
    assert f"to measure the speed of this machine: {commands[1]}\n" in shown
    main(_command(place, "plan", "--json"))
    assert PlanRecord.from_json(capsys.readouterr().out, where="stdout").remedies == tuple(commands)


@pytest.mark.parametrize(
    ("unknown", "is_sharded", "verbs"),
    [
        (["", ""], False, []),
        (["as fast as videos decode"], False, []),
        ([costs.NO_SPEED, ""], False, ["calibrate"]),
        ([costs.NO_SPEED], True, []),  # no calibration is made of shards
        ([f"at most: {costs.UNCOUNTED}"], False, ["run"]),
        ([costs.UNCOUNTED, costs.NO_SPEED], False, ["run", "calibrate"]),
    ],
)
def test_each_thing_that_is_not_known_has_its_remedy(unknown: list[str], is_sharded: bool, verbs: list[str]) -> None:
    stages = tuple(costs.StageCost(f"stage{place}", "estimated", unknown=why) for place, why in enumerate(unknown))
    found = remedies_of(costs.PlanCosts(stages, "cpu", 0, is_calibrated=False, is_sharded=is_sharded))
    assert [command.split()[1] for command in found] == verbs


def test_plans_are_made_only_where_something_cannot_be_trained(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    states = [StagePlan("download", CACHED, ""), StagePlan("train", PENDING, "")]
    made: list[int] = []

    def plans() -> list[StagePlan]:
        made.append(1)
        return states

    context = place.context()
    assert not_trainable(context, plans) == "" and not made
    monkeypatch.setattr(costs, "why_not_trainable", lambda _: "it does not fit")
    assert not_trainable(context, plans) == "it does not fit" and made
    for done in ([], [states[0]], [states[0], StagePlan("train", CACHED, "")]):
        assert not_trainable(context, done) == ""


def test_counts_are_of_what_is_stored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a calibration of this device: estimates, which refuse nothing."""
    monkeypatch.setattr(costs, "this_machine", lambda _: Machine("NVIDIA H100", 2**20, "2.13.0", is_gpu=True))
    context = place.context("train.resources.eval_every=0", "train.resources.checkpoint_every=1000")
    run_stages(context, last="bucket")
    plans = plan(context)
    found = plan_costs(context, plans)
    by_name = {one.name: one for one in found.stages}
    assert list(by_name) == ["encode_captions", "encode_latents", "train", "evaluate", "sample"]
    assert all(one.basis == "estimated" and one.seconds for one in found.stages)
    bucketed = next(one.artifact for one in plans if one.name == "bucket")
    assert bucketed is not None
    of = {Bucket.parse(name): one for name, one in BucketFacts.of(bucketed).buckets.items()}
    assert by_name["encode_latents"].written_bytes == sum(
        bucket.latent_bytes("fp16") * one.num_samples for bucket, one in of.items()
    )
    sizes = read_model_sizes(context.config.model, work_dir=context.work_dir).transformer
    passes = sum(
        sizes.flops(bucket).with_recompute(kept_activations(context.config.train, on_gpu=False)) * one.train
        for bucket, one in of.items()
    )
    mean = passes / sum(one.train for one in of.values())
    drawn = context.config.train.max_steps * context.config.train.global_batch_size
    assert by_name["train"].seconds == pytest.approx(drawn * mean / (0.26 * 989e12), rel=0.01)
    every = place.context("train.validation.every=2", "train.validation.seeds=[0,1]", "train.validation.weights=both",
                          "train.resources.eval_every=0", "sample.bucket=5x64x96")  # fmt: skip
    (shown,) = (one for one in plan_costs(every, plans).stages if one.name == "train")
    sampled = by_name["sample"].seconds  # of one video, of the same shape
    assert shown.seconds and sampled
    assert shown.seconds - by_name["train"].seconds == pytest.approx(3 * 2 * 2 * sampled, rel=1e-6)
    check_trainable(context, plans)
    made = plan_record(plans, found, 2.0, warnings=["one"])
    assert PlanRecord.from_json(made.to_json(), where="it") == made
    (row,) = (one for one in made.stages if one.name == "encode_latents")
    seconds = by_name["encode_latents"].seconds
    assert (row.state, row.basis, row.written_bytes) == ("missing", "estimated", by_name[row.name].written_bytes)
    assert seconds and (row.hours, row.cost) == pytest.approx((seconds / 3600, seconds / 1800))
    assert (made.hours, made.cost) == pytest.approx((found.seconds / 3600, found.seconds / 1800))
    assert [one.basis for one in made.stages[:3]] == [None] * 3 and {one.state for one in made.stages[:3]} == {"cached"}
    unknown = replace(found, stages=tuple(replace(one, seconds=None) for one in found.stages))
    assert (plan_record(plans, unknown, 2.0).hours, plan_record(plans, unknown, 2.0).cost) == (None, None)
    lines = "\n".join(costs_lines(found, 1.0)).splitlines()
    assert all(len(line) <= 80 for line in lines) and "at 1 an hour" in lines[-2]
    held = by_name["train"].host_bytes  # the copy for a checkpoint alone: weights, EMA and two moments
    assert held == 16 * sizes.num_parameters
    offloaded = place.context("train.resources.offload.type=block_level", "train.resources.activation_memory=auto",
                              "train.resources.checkpoint_in_background=false")  # fmt: skip
    (train_cost,) = (one for one in plan_costs(offloaded, plans).stages if one.name == "train")
    in_blocks = sizes.num_layers * sizes.block_parameters
    assert train_cost.host_bytes == 16 * in_blocks + 4 * sizes.num_parameters
    small = warnings_of(replace(found, memory_bytes=0, host_memory_bytes=held - 1))
    assert len(small) == 1 and "train is counted to hold" in small[0] and "checkpoint_in_background=false" in small[0]
    assert not warnings_of(replace(found, memory_bytes=0, host_memory_bytes=0))
    assert warnings_of(replace(found, memory_bytes=1)) and not warnings_of(replace(found, memory_bytes=2**50))
