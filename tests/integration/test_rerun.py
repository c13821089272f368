"""What runs again: exactly what changed and what is below it; nothing else is done twice."""

import dataclasses
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sana.artifact import config_diff, find, latest
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.facts import EncodeLatentsFacts
from sana.maintenance.verify import invalidate, verify
from sana.pipeline.graph import stage, stages_of
from sana.pipeline.plan import plan
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_alone, run_stages

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", autouse=True)
def _inline() -> Iterator[None]:
    with inline_workers():
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Place, Outcome]:
    """The demo, run once to the end."""
    place = new_place(tmp_path_factory.mktemp("rerun"), tiny_model)
    return place, run_stages(place.context())


@pytest.fixture
def place(done: tuple[Place, Outcome], tmp_path: Path) -> Place:
    """A copy of the finished run that a test may change."""
    shutil.copytree(done[0].folder, tmp_path / "copy", copy_function=shutil.copy2)
    return Place(tmp_path / "copy", done[0].model, str(tmp_path / "copy/root"))


def states(place: Place, *overrides: str) -> dict[str, str]:
    return {p.name: p.state for p in plan(place.context(*overrides))}


def test_clips_in_are_clips_out_plus_rejected(done: tuple[Place, Outcome]) -> None:
    _, outcome = done
    assert outcome.ran == list(stages_of(done[0].config()))
    files = len([p for p in done[0].clips.iterdir() if p.suffix == ".mp4"])
    assert outcome["download"].counts.num_in == files == 16
    for above, below in (("download", "probe"), ("probe", "bucket"), ("bucket", "encode_latents")):
        assert outcome[above].counts.num_out == outcome[below].counts.num_in
    stages = ("download", "probe", "bucket")
    rejected = {r["path"]: r["reason"] for name in stages for r in rejects(done[0], outcome, name)}
    assert rejected == {"nocaption-00.mp4": "no_caption", "corrupt-00.mp4": "truncated", "short-00.mp4": "too_short"}


def rejects(place: Place, outcome: Outcome, name: str) -> list[dict]:
    return read_table(place.context().store, outcome[name], "rejects.parquet").to_pylist()


def test_a_second_run_does_nothing(place: Place) -> None:
    before = sorted(p for p in Path(place.root).rglob("*"))
    assert run_stages(place.context()).ran == []
    assert set(states(place).values()) == {"cached"}
    assert sorted(p for p in Path(place.root).rglob("*")) == before


def test_a_plan_writes_nothing_and_imports_no_torch(place: Place) -> None:
    before = {p: p.stat().st_mtime_ns for p in place.folder.rglob("*") if p.is_file()}
    plan(place.context("train.learning_rate=1e-4"))
    assert {p: p.stat().st_mtime_ns for p in place.folder.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("override", "stale", "pending"),
    [
        ("train.learning_rate=1e-3", {"train"}, {"evaluate", "sample"}),
        ("train.text_padding=fixed", {"train"}, {"evaluate", "sample"}),
        ("evaluate.num_sigmas=4", {"evaluate"}, set()),
        ("sample.seed=5", {"sample"}, set()),
        ("encode_captions.template=none", {"encode_captions"}, {"train", "evaluate", "sample"}),
        ("encode_latents.dtype=bf16", {"encode_latents"}, {"train", "evaluate"}),
        ("bucket.window=middle", {"bucket"}, {"encode_captions", "encode_latents", "train", "evaluate"}),
        ("encode_latents.resources.samples_per_part=2", set(), set()),
        ("train.resources.checkpoint_every=3", set(), set()),
        ("probe.resources.num_workers=3", set(), set()),
    ],
)
def test_one_changed_value_changes_the_stages_that_read_it(
    place: Place, override: str, stale: set[str], pending: set[str]
) -> None:
    found = states(place, override)
    assert {name for name, state in found.items() if state == "stale"} == stale
    assert pending <= {name for name, state in found.items() if state == "pending"}
    assert all(found[name] == "cached" for name in found if name not in stale and found[name] != "pending")


def test_a_stale_stage_names_the_key_that_changed(place: Place) -> None:
    detail = {p.name: p.detail for p in plan(place.context("train.learning_rate=1e-3"))}["train"]
    assert "learning_rate 0.003 -> 0.001" in detail
    # under the name and value that the config has, which the hash has not
    detail = {p.name: p.detail for p in plan(place.context("encode_latents.vae_precision=fp32"))}["encode_latents"]
    assert detail.startswith("vae_precision tf32 -> fp32; ")


def test_every_changed_value_is_named_though_what_is_above_runs_again(place: Place) -> None:
    changed = ("bucket.window=middle", "train.learning_rate=1e-3", "train.max_steps=9", "sample.seed=5")
    detail = {p.name: p.detail for p in plan(place.context(*changed))}
    maybe = "cached if the same content comes out, else run"
    waits = "on encode_captions, encode_latents: "
    assert "window " in detail["bucket"] and detail["encode_captions"] == f"on bucket: {maybe}"
    assert detail["train"] == f"{waits}learning_rate 0.003 -> 0.001; max_steps 6 -> 9; will run"
    assert detail["evaluate"] == f"{waits.removesuffix(': ')}, train: {maybe}"
    assert detail["sample"] == "on encode_captions, encode_latents, train: seed 0 -> 5; will run"
    moved = {p.name: p.detail for p in plan(place.context("bucket.window=middle", f"model.path={other_vae(place)}"))}
    assert moved["encode_latents"] == "on bucket: input vae changed; will run"
    forced = {p.name: p.detail for p in plan(place.context("bucket.window=middle"), force=["train"])}
    assert forced["train"] == f"{waits}forced, will run"


def other_vae(place: Place) -> Path:
    """A copy of the model with another VAE."""
    copy = shutil.copytree(place.model, place.folder / "other-model")
    weights = next((copy / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    return copy


def test_a_value_that_an_earlier_run_had_is_named_and_may_be_cached(place: Place) -> None:
    run_stages(place.context("sample.seed=5"))
    detail = {p.name: p.detail for p in plan(place.context("train.learning_rate=1e-3"))}["sample"]
    assert detail.startswith("on train: seed 5 -> 0, as in an earlier run; cached if")


def test_a_bucket_reruns_from_bucket_on(place: Place) -> None:
    """Captions are read of the clips that are left: with the same clips left, none is encoded again."""
    outcome = run_stages(
        place.context("bucket.buckets=[17x32x64,17x48x48,17x64x32,9x32x64,9x48x48,9x64x32]"), last="encode_latents"
    )
    assert outcome.ran == ["bucket", "encode_latents"]
    assert states(place, "bucket.buckets=[17x32x64,17x48x48,17x64x32,9x32x64,9x48x48,9x64x32]")["train"] == "stale"
    squares = sum(row["bucket"].endswith("48x48") for row in read_rows(place, outcome, "encode_latents"))
    assert outcome["encode_latents"].counts.extra["encoded"] == squares > 0


def read_rows(place: Place, outcome: Outcome, name: str) -> list[dict]:
    return read_table(place.context().store, outcome[name], "index.parquet").to_pylist()


def test_a_prompt_template_encodes_captions_and_no_video(place: Place) -> None:
    outcome = run_stages(place.context("encode_captions.template=none"), last="encode_latents")
    assert outcome.ran == ["encode_captions"]


def test_a_new_prompt_costs_its_embedding_and_the_sample(place: Place) -> None:
    outcome = run_stages(place.context("sample.prompts.night=a city at night"), last="evaluate")
    assert outcome.ran == ["encode_captions"]
    assert outcome["encode_captions"].counts.extra["encoded"] == 1
    assert states(place, "sample.prompts.night=a city at night")["sample"] == "stale"


def test_an_edited_caption_decodes_no_video(place: Place) -> None:
    (place.clips / "towers-00.txt").write_text("a tower of glass\n")
    outcome = run_stages(place.context(), last="encode_latents")
    assert outcome.ran == ["download", "encode_captions"]
    assert outcome["encode_captions"].counts.extra["encoded"] == 1
    assert states(place)["train"] == "stale"  # it reads the captions of its clips


def test_a_touch_reruns_only_the_listing(place: Place) -> None:
    os.utime(place.clips / "towers-00.mp4", (1, 1))
    assert run_stages(place.context()).ran == ["download"]


def test_one_clip_more_is_one_video_opened_one_sample_and_one_caption(
    place: Place, done: tuple[Place, Outcome]
) -> None:
    shutil.copy(place.clips / "nocaption-00.mp4", place.clips / "towers-09.mp4")
    (place.clips / "towers-09.txt").write_text("a caption nobody has seen\n")
    outcome = run_stages(place.context(), last="encode_latents")
    assert outcome.ran == ["download", "probe", "bucket", "encode_captions", "encode_latents"]
    assert outcome["probe"].counts.extra["opened"] == 1
    assert outcome["encode_latents"].counts.extra["encoded"] == 1
    assert outcome["encode_captions"].counts.extra["encoded"] == 1
    before = {row["sample_id"]: row["digest"] for row in read_rows(place, done[1], "encode_latents")}
    after = {row["sample_id"]: row["digest"] for row in read_rows(place, outcome, "encode_latents")}
    assert before.items() < after.items()


def test_a_clip_replaced_in_place_gets_a_new_latent(place: Place, done: tuple[Place, Outcome]) -> None:
    shutil.copy(place.clips / "skyline-00.mp4", place.clips / "towers-00.mp4")
    outcome = run_stages(place.context("probe.duplicates=keep"), last="encode_latents")
    assert outcome["probe"].counts.extra["opened"] == 0  # that content was opened under its other name
    rows = {row["clip_id"]: row for row in read_rows(place, outcome, "encode_latents")}
    old = {row["clip_id"]: row for row in read_rows(place, done[1], "encode_latents")}
    paths = {
        r["path"]: r["clip_id"]
        for r in read_table(place.context().store, outcome["probe"], "clips.parquet").to_pylist()
    }
    towers, skyline = paths["towers-00.mp4"], paths["skyline-00.mp4"]
    assert rows[towers]["digest"] == rows[skyline]["digest"] != old[towers]["digest"]


def test_more_steps_go_on_from_where_it_stands(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    context = place.context("train.max_steps=8")
    train_plan = {p.name: p for p in plan(context)}["train"]
    assert train_plan.detail == "max_steps 6 -> 8; 2 of 8 steps to do"
    outcome = run_stages(context, last="train")
    assert outcome.ran == ["train"]
    # the tiny model's 41,000 parameters, and the EMA and two moments of each, float32
    loaded = re.search(r"resuming from step 6: loaded (\S+) KiB in \S+ s, \S+ .iB/s \((.*)\)", caplog.text)
    assert loaded is not None and re.sub(r"\S+ KiB", "", loaded[2]) == "weights , ema , optimizer , ledger "
    sizes = [float(size) for size in re.findall(r"(\S+) KiB", loaded[2])]
    assert sum(sizes) == pytest.approx(float(loaded[1]), abs=0.2) and sizes[2] == pytest.approx(2 * sizes[0], abs=0.2)


@pytest.mark.parametrize("name", ["probe", "encode_captions", "encode_latents", "train", "evaluate", "sample"])
def test_force_does_the_work_again_and_gives_the_same_content(
    place: Place, done: tuple[Place, Outcome], name: str
) -> None:
    forced = dataclasses.replace(place.context(), salt="again")
    again = run_alone(stage(name), forced, done[1].tables)
    assert again.reproduced
    assert again.content == done[1][name].content
    assert find(forced.store, stage(name).recipe(forced, done[1].tables)) == dataclasses.replace(
        again, reproduced=False
    )
    folders = [path.name for path in Path(place.root, name).rglob("*-again")]
    assert folders or name in ("evaluate", "sample")  # the work went to places of its own: nothing was found


def test_a_damaged_shard_is_noticed_and_its_remedy_heals_the_store_for_good(place: Place) -> None:
    """Also for runs with other clips, which read the same pool."""
    for shard in Path(place.root, "encode_latents").rglob("*.safetensors"):
        data = bytearray(shard.read_bytes())
        data[-1] ^= 1
        shard.write_bytes(data)
    with pytest.raises(SanaError, match=r"damaged; make it again: sana verify CONFIG --deep --invalidate"):
        run_stages(place.context("train.seed=9"), last="train")
    store = place.context().store
    invalidate(store, verify(store, deep=True).problems)
    assert run_stages(place.context("train.seed=9"), last="train").ran == ["encode_latents", "train"]
    for name in ("skyline-01.mp4", "skyline-01.txt"):
        shutil.copy2(place.clips / name, place.clips / f"skyline-9{Path(name).suffix}")
    assert "encode_latents" in run_stages(place.context("probe.duplicates=keep"), last="encode_latents").ran
    assert not verify(store, deep=True).problems


def test_force_heals_what_is_read_now(place: Place) -> None:
    for shard in Path(place.root, "encode_latents").rglob("*.safetensors"):
        shard.unlink()
    inputs = run_stages(place.context(), last="bucket").tables
    healed = run_alone(stage("encode_latents"), dataclasses.replace(place.context(), salt="heal"), inputs)
    assert healed.reproduced
    assert run_stages(place.context("train.seed=9"), last="train").ran == ["train"]


def test_a_lost_history_or_pool_of_hints_changes_no_decision(place: Place) -> None:
    """history/ only serves messages; pools only save work."""
    for folder in Path(place.root).glob("*/history"):
        shutil.rmtree(folder)
    assert set(states(place).values()) == {"cached"}
    assert latest(place.context().store, "train") is None
    shutil.rmtree(Path(place.root) / "probe/pool")
    assert set(states(place).values()) == {"cached"}


def test_a_weight_trains_again_and_does_nothing_else(place: Place, done: tuple[Place, Outcome]) -> None:
    found = states(place, "download.datasets.0.sampling_weight=0.5")
    assert found.pop("train") == "stale"
    assert {name for name, state in found.items() if state == "pending"} == {"evaluate", "sample"}
    assert {state for name, state in found.items() if name not in ("evaluate", "sample")} == {"cached"}
    # so many repeats at so little weight are one pass: the run that was
    assert set(states(place, "download.datasets.0.sampling_weight=0.5", "download.datasets.0.repeats=1").values()) == {
        "cached"
    }
    tables, name = done[1].tables, place.config().download.datasets[0].id
    weighted = stage("train").recipe(place.context("download.datasets.0.repeats=2"), tables)
    assert weighted.config["draws_per_epoch"] == {name: 3.0}
    assert config_diff(weighted, latest(place.context().store, "train")) == [f"draws_per_epoch.{name} (not set) -> 3.0"]
    # a data set without train samples has no say
    elsewhere = dataclasses.replace(tables["latents"], facts=EncodeLatentsFacts(0, {"other": 3}).to_value())
    plain = stage("train").recipe(place.context("download.datasets.0.repeats=2"), {**tables, "latents": elsewhere})
    assert "draws_per_epoch" not in plain.config
    assert EncodeLatentsFacts.of(tables["latents"]).train_samples == {name: done[1]["train"].counts.num_in}


def test_the_conditions_of_a_data_set_train_again_and_do_nothing_else(
    place: Place, done: tuple[Place, Outcome]
) -> None:
    mine = "download.datasets.0.conditions=[{name: image_to_video, probability: 0.5}]"
    found = states(place, mine)
    assert found.pop("train") == "stale"
    assert {state for name, state in found.items() if name not in ("evaluate", "sample")} == {"cached"}
    tables, name = done[1].tables, place.config().download.datasets[0].id
    recipe = stage("train").recipe(place.context(mine), tables)
    assert recipe.config["conditions_of"] == {name: [{"name": "image_to_video", "probability": 0.5}]}
    # those that are those of all are no others
    for same in (["download.datasets.0.conditions=[]"], [mine, mine.replace("download.datasets.0.", "train.")]):
        assert "conditions_of" not in stage("train").recipe(place.context(*same), tables).config
    elsewhere = dataclasses.replace(tables["latents"], facts=EncodeLatentsFacts(0, {"other": 3}).to_value())
    assert "conditions_of" not in stage("train").recipe(place.context(mine), {**tables, "latents": elsewhere}).config


def test_causes_follow_the_latest_artifact(place: Place, done: tuple[Place, Outcome]) -> None:
    context = place.context("train.timestep_sampling.shift=1", "train.seed=3")
    recipe = stage("train").recipe(context, done[1].tables)
    assert config_diff(recipe, latest(context.store, "train")) == ["seed 0 -> 3", "timestep_sampling.shift 3.0 -> 1.0"]
