"""Config: closed, bounded, cross-checked, with every mistake reported at once."""

import json
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import yaml

from flows.display.config_reference import lines, settings
from sana.bucket import OFFICIAL_480P
from sana.config.load import check, load_config
from sana.config.pipeline import Config
from sana.config.section import Section, union_members
from sana.errors import ConfigError
from tests.config_keys import dotted

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/demo.yaml"
BOUNDS = (("ge", "gt"), ("le", "lt"))


def raw() -> dict:
    return load_config(DEMO).model_dump(mode="json")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configs_are_valid(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_the_480p_config_sets_every_value() -> None:
    """The real run is complete: nothing that changes bytes is left to a default."""
    given = yaml.safe_load((ROOT / "configs/sana_video_480p.yaml").read_text())

    def missing_settings(section: type[Section], values: dict, prefix: str = "") -> list[str]:
        missing = []
        for name, field in section.model_fields.items():
            union = union_members(field.annotation)
            listed = get_origin(field.annotation) is tuple  # sections of a list, which may be empty
            given = values.get(name)
            kind = union[given["name"]] if union and given and not listed else field.annotation
            if isinstance(kind, type) and issubclass(kind, Section):
                if name != "resources":
                    missing += missing_settings(kind, values.get(name) or {}, f"{prefix}{name}.")
            elif name not in values:
                missing.append(f"{prefix}{name}")
        return missing

    assert set(missing_settings(Config, given)) <= {"tracking.uri"}
    config = load_config(ROOT / "configs/sana_video_480p.yaml")
    assert {(b.height, b.width) for b in config.bucket.shapes} == set(OFFICIAL_480P)


def test_all_mistakes_come_at_once_with_path_and_nearest_key() -> None:
    values = raw()
    values["train"]["learning_rte"] = 1e-4
    values["train"]["max_steps"] = "many"
    values["train"]["max_grad_norm"] = -1
    values["buckets"] = []
    values["download"]["datasets"][0]["source_pattern"] = "["
    values["work_dir"] = "s3://bucket/work"
    with pytest.raises(ConfigError) as caught:
        check(values, where="here.yaml")
    message = str(caught.value)
    assert message.startswith("here.yaml: 6 mistakes")
    assert "work_dir: s3://bucket/work must be a local folder" in message
    assert "train.learning_rte: unknown key; did you mean learning_rate?" in message
    nearest = "bucket.buckets or train.validation.buckets or download.datasets.0.bucket.buckets"
    assert f"buckets: unknown key; did you mean {nearest}?" in message
    assert "train.max_steps: " in message and "'many'" in message
    assert "train.max_grad_norm: must be above 0 (got -1)" in message
    assert "download.datasets.0.source_pattern: '[' is not a regular expression" in message


def test_a_conflict_shows_beside_a_plain_mistake() -> None:
    """Checks across fields run even when another field of the section is wrong."""
    values = raw()
    values["train"]["global_batch_size"] = 6
    values["train"]["max_grad_norm"] = 0
    with pytest.raises(ConfigError, match=r"2 mistakes") as caught:
        check(values, where="x")
    assert "global_batch_size 6 is not a multiple of num_processes x micro_batch_size = 1 x 4; use 8" in str(
        caught.value
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rate", "is not key=value"),
        ("train.lerning_rate=1", "did you mean learning_rate"),
        ("train.max_steps.x=1", "it has no keys below it"),
        ("download.datasets.7.id=x", "not a position in a list of 1, nor one of its ids: demo"),
        ("download.datasets.dmeo.repeats=2", "'dmeo' is not a position in a list of 1, nor one of its ids: demo"),
        ("bucket.buckets.x=17x96x160", "'x' is not a position in a list of"),
        ("bucket.holdout=" + "[" * 3000, "nested too deep"),
        (
            "train.lr_schedule.name=step",
            "train.lr_schedule.name: there is no step; known here: constant, cosine, linear",
        ),
        ("train.lr_schedule.name=cosin", "train.lr_schedule.name: there is no cosin; known here: constant, cosine"),
        ("train.lr_schedule=cosine", "train.lr_schedule: a section of keys is needed, such as train.lr_schedule.name="),
        ("train.lr_schedule.warmup_step=5", "train.lr_schedule.warmup_step: unknown key; did you mean warmup_steps?"),
        ("train.lr_schedule.warmup_steps=-5", "train.lr_schedule.warmup_steps: must be at least 0 (got -5)"),
        ("train.optimizer.name=lion", "train.optimizer.name: "),
        ("train.optimizer.beta1=2", "train.optimizer.beta1: must be below 1 (got 2)"),
        ("train.optimizer.beta=0.5", "train.optimizer.beta: unknown key; did you mean beta"),
        ("train.lr_schedule={name: cosine, warmup_steps: 120}", "leaves no step of 120 for the cosine"),
        ("train.lr_schedule={name: cosine, min_learning_rate: 1}", "min_learning_rate 1.0 is above learning_rate"),
        ("bucket.holdout=[]", "nothing would be held out"),
        ("download.datasets.0.role=eval", "nothing is left to train on"),
        ("download.datasets.0.disabled=true", "every data set is disabled"),
        ("download.datasets.0.captions.missing=fallback", "fallback is empty"),
        ("bucket.num_frames=49", "no effect with a list of buckets"),
        ("bucket.maximum_image_size=480", "set both or neither"),
        ("bucket={crop: true, maximum_image_size: 480, target_downsample_size: 500}", "clips would be scaled up"),
        ("bucket.windows_per_clip=3", "no effect with window: head, which gives one"),
        ("bucket.window=stride", "say how many it may give"),
        ("bucket={window: uniform, windows_per_clip: 2, window_stride: 4}", "no effect with window: uniform"),
        ("bucket={max_frames: 60}", "leaves no clip: 81 frames are needed"),
        ("bucket.buckets=[16x96x160]", "16 frames is not 4k + 1"),
        ("bucket.buckets=[17x100x160]", "height 100 is not a multiple of 16; the nearest is 96"),
        ("work_dir=s3://a/b", "must be a local folder"),
        ("train.gradient_clipping=values", "train.gradient_clipping: 'values' is none of norm, value, none"),
        ("train.gradient_clipping=value", "max_grad_value is needed with gradient_clipping value"),
        (
            "train.max_grad_value=1",
            "max_grad_value 1.0 is the bound of gradient_clipping value, and gradient_clipping is",
        ),
        ("train.weights_dtype=bf16", "optimizer.name adamw would round small steps of bf16 weights away; use one of"),
        (
            "train.weights_dtype=bf16 | train.optimizer.name=adamw_bf16",
            "weights_dtype bf16 computes in bf16, and mixed_precision is fp32; set train.mixed_precision to bf16",
        ),
        (
            "train.optimizer.name=prodigy | train.parameter_groups=[{names: 'a', learning_rate_factor: 2}]",
            "optimizer.name prodigy estimates one step size for all parameters, so parameter_groups have no meaning",
        ),
        ("train.parameter_groups=[{names: 'a', learning_rate_factor: 0}]", "learning_rate_factor: must be above 0"),
        ("train.lr_schedule={name: sine, min_learning_rate: 1}", "train.lr_schedule.period_steps: missing"),
        ("train.lr_schedule={name: sine, period_steps: 9, min_learning_rate: 1}", "is above learning_rate"),
        ("train.lr_schedule={name: polynomial, warmup_steps: 120}", "leaves no step of 120 for the polynomial"),
        ("train.lr_schedule.power=2", "train.lr_schedule.power: no setting of constant, but of polynomial"),
        ("train.lr_schedule.decay_steps=5", "train.lr_schedule.decay_steps: no setting of constant, but of cosine"),
        ("sample.prompts={a/b: text}", "names a file"),
        ("train.masked_loss={}", "train.masked_loss looks inside masks, and no data set in training has any"),
        (
            "train.masked_loss={} | download.datasets=[{id: a, source: .}, "
            "{id: b, source: x, role: eval, masks: {suffix: .mask}}]",
            "train.masked_loss looks inside masks, and no data set in training has any",
        ),
        ("encode_latents.batch_size=2 | bucket.buckets=[9x48x80]", "batch_size 2 and bucket 9x48x80: on some CPUs"),
        ("train.resources.micro_batch_size=3", "is not a multiple"),
    ],
)
def test_a_wrong_override_is_one_clear_error(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=None) as caught:
        load_config(DEMO, override.split(" | "))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_overrides_apply_in_order_and_know_numbers() -> None:
    config = load_config(DEMO, ["train.learning_rate=1e-4", "train.learning_rate=2e-4", "sample.prompts.cat=a cat"])
    assert config.train.learning_rate == 2e-4
    assert config.sample.prompts["cat"] == "a cat"


def test_a_data_set_is_named_by_its_id_or_its_position() -> None:
    ids = ["a", "a.b", "a.b.c", "1"]
    sets = [{"id": name, "source": "."} for name in ids]
    for place, name in enumerate(ids):
        for path in {name, *([str(place)] if place != 1 else [])}:
            overrides = [f"download.datasets={json.dumps(sets)}", f"download.datasets.{path}.repeats=7"]
            overrides += [f"download.datasets.{path}.captions.prefix=old video"]
            found = load_config(DEMO, overrides).download.datasets
            assert [one.repeats for one in found] == [7 * (one.id == name) for one in found]
            assert found[place].captions.prefix == "old video"
    whole = load_config(DEMO, ["download.datasets.demo={id: x, source: y}"]).download.datasets
    assert [one.id for one in whole] == ["x"]


def test_a_duplicate_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("root: a\nroot: b\n")
    with pytest.raises(ConfigError, match="is given twice"):
        load_config(path)


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [", "\t", "? [a, b]\n: c\n"])
def test_a_file_without_a_config_is_one_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_config(path)


def test_every_setting_is_described() -> None:
    def undescribed(section: type[Section], prefix: str = "") -> list[str]:
        missing = []
        for name, field in section.model_fields.items():
            for member, kind in union_members(field.annotation).items():
                missing += undescribed(kind, f"{prefix}{name}={member}.")
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                missing += undescribed(field.annotation, f"{prefix}{name}.")
            elif not field.description:
                missing.append(prefix + name)
        return missing

    assert not undescribed(Config)


def test_every_number_has_a_lowest_and_a_highest_value() -> None:
    def is_number(annotation: Any) -> bool:
        return bool({annotation, *get_args(annotation)} & {int, float})

    open_ended = [
        f"{one.key} {one.member}".strip()
        for one in settings()
        if is_number(one.field.annotation)
        and one.key != "train.resources.activation_memory"  # a share or a word, by a validator of its own
        and not all(any(hasattr(meta, name) for meta in one.field.metadata for name in pair) for pair in BOUNDS)
    ]
    assert open_ended == []


def test_the_reference_is_made_of_the_code_and_has_every_key() -> None:
    page = (ROOT / "docs/config.md").read_text()
    assert page == "\n".join(lines()) + "\n", "python -m flows.display.config_reference > docs/config.md"
    named = set(re.findall(r"^\| `([^`]+)`", page, re.MULTILINE))
    leaves = {key for key in dotted() if not any(other.startswith(f"{key}.") for other in dotted())}
    # as those of `bucket` and of `train.conditions`
    elsewhere = tuple(f"download.datasets.*.{name}." for name in ("bucket", "conditions"))
    assert {key for key in leaves if not key.startswith(elsewhere)} <= named


def test_speed_settings_and_paths_are_not_hashed() -> None:
    plain = load_config(DEMO)
    fast = load_config(
        DEMO,
        [
            "train.resources.checkpoint_every=7",
            "encode_latents.resources.samples_per_part=1",
            "download.datasets.0.source=x",
        ],
    )
    for section in ("download", "bucket", "encode_captions", "encode_latents", "train", "evaluate", "sample"):
        assert getattr(plain, section).hashed() == getattr(fast, section).hashed()
    assert plain.train.hashed() != load_config(DEMO, ["train.timestep_sampling.shift=2"]).train.hashed()


def test_the_trajectory_leaves_out_max_steps_unless_the_schedule_needs_it() -> None:
    longer = load_config(DEMO, ["train.max_steps=999"]).train.trajectory_settings()
    assert load_config(DEMO).train.trajectory_settings() == longer
    cosine = ["train.lr_schedule.name=cosine"]
    longer = load_config(DEMO, [*cosine, "train.max_steps=999"]).train.trajectory_settings()
    assert load_config(DEMO, cosine).train.trajectory_settings() != longer
    fixed = [*cosine, "train.lr_schedule.decay_steps=50"]
    assert (
        load_config(DEMO, fixed).train.trajectory_settings()
        == load_config(DEMO, [*fixed, "train.max_steps=999"]).train.trajectory_settings()
    )
