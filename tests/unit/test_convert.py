"""Conversion from SimpleTuner: every key is accounted for, and what comes out is valid."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.begin.conversion import summary
from flows.cli.main import cli
from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.config.training.optimization.schedule import CosineSchedule
from sana.config.yaml_reading import parse_yaml
from sana.convert.config_keys import CONFIG_KEYS
from sana.convert.conversion import Conversion, Setting
from sana.convert.mapping import Row, at_least, mapped_names
from sana.convert.markdown import markdown_text
from sana.convert.simpletuner import convert, faults_of
from sana.convert.unsupported_keys import FAMILIES
from sana.convert.yaml_text import scalar, yaml_text
from sana.errors import ConfigError, SanaError
from tests.quickstart_files import BACKENDS, CONFIG, QUICKSTART, accounted, all_keys, converted, files, video

pytestmark = pytest.mark.timeout(60)


def test_the_quickstart_converts_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "my.yaml"
    done = CliRunner().invoke(
        cli,
        ["convert-simpletuner", str(QUICKSTART / "config.json"), str(QUICKSTART / "multidatabackend.json"),
         "-o", str(out)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    config = load_config(out)
    dataset, train, sample = config.download.datasets[0], config.train, config.sample
    assert (dataset.id, dataset.source) == ("disney-black-and-white", "datasets/disney-black-and-white")
    assert (dataset.repeats, dataset.disabled, dataset.captions.layout) == (0, False, "textfile")
    assert {(shape.num_frames, shape.height, shape.width) for shape in config.bucket.shapes} >= {(81, 480, 832)}
    assert (config.bucket.table, config.bucket.minimum_image_size) == ("official_480p", 480)
    assert (train.seed, train.max_steps, train.global_batch_size, train.learning_rate) == (42, 400_000, 1, 5e-5)
    assert train.lr_schedule == CosineSchedule(warmup_steps=500, decay_steps=400_000, min_learning_rate=4e-7)
    assert (train.max_grad_norm, train.caption_dropout, train.mixed_precision) == (0.1, 0.1, "bf16")
    assert train.ema_decay**2 == pytest.approx(0.995, abs=1e-5), "one step of 0.995 every two steps"
    assert (train.resources.checkpoint_every, train.resources.max_checkpoints) == (1000, 5)
    assert (sample.bucket, sample.num_inference_steps, sample.guidance_scale) == ("81x480x832", 50, 6)
    assert (sample.seed, sample.fps, sample.weights) == (42, 16, "ema")
    library = json.loads((QUICKSTART / "user_prompt_library.json").read_text())
    assert sample.prompts == {"validation": CONFIG["validation_prompt"], **library}
    assert sample.negative_prompt == CONFIG["validation_negative_prompt"]
    assert (config.tracking.experiment, config.root) == ("video-training", "output/sanavideo/store")
    assert done.output.splitlines() == [
        "mapped: 48 of 71 keys; user_prompt_library.json is taken along",
        "not carried over: 23 keys; the tables say what is used instead",
        "changes results: pixel range, sizes, warm-up, clipping, noise levels and 3 more",
        f"tables: {tmp_path}/my.conversion.md",
        f"next: sana validate {out}",
    ]
    tables = (tmp_path / "my.conversion.md").read_text()
    for said in ("[0, 1]", "704x384", "deletes source files", "half period", "turns clipping off", "&lt;name>.txt"):
        assert said in tables, said
    text = out.read_text()
    optional = ("filter_captions", "notifications", "publish", "encode_masks", "encode_features")
    assert all(f"\n{name}:" in f"\n{text}" for name in Config.model_fields if name not in optional), "a section"
    assert max(len(line) for line in text.splitlines() if "#" in line) <= 120


def test_every_key_of_the_quickstart_is_mapped_or_has_the_reason_why_not(tmp_path: Path) -> None:
    _, conversion = converted(tmp_path)
    expected = set(CONFIG) | {name for entry in BACKENDS for name in all_keys(entry, f"{entry['id']}.")}
    assert expected - accounted(conversion) == set()
    assert conversion.unknown == []
    assert all(key.why for key in conversion.not_carried)
    mapped = {name for setting in conversion.settings for name in setting.theirs}
    assert not {key.name for key in conversion.not_carried} & mapped


def test_a_row_of_the_table_carries_a_key_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a new feature needs: the row is stronger than the family that the key was in."""
    changes = {"tread_config": 4, "gradient_precision": "fp32"}
    assert {"tread_config", "gradient_precision"} <= {
        key.name for key in convert(*files(tmp_path, changes)).not_carried
    }
    row = Row("train.method.rank", "tread_config", 16, "of the adapter", at_least(8))
    monkeypatch.setattr("sana.convert.simpletuner.CONFIG_KEYS", (*CONFIG_KEYS, row))
    conversion = convert(*files(tmp_path, changes))
    assert conversion.settings[-1] == Setting("train.method.rank", 8, "of the adapter", ("tread_config",))
    assert "tread_config" not in {key.name for key in conversion.not_carried}


def test_no_key_is_in_two_families_and_none_of_config_json_is_mapped_too() -> None:
    names = [name for family in FAMILIES for name in family.names]
    assert len(names) == len(set(names))
    assert set(names) & set(mapped_names(CONFIG_KEYS)) <= {"vae_batch_size", "text_encoder_batch_size"}
    assert all(family.reason for family in FAMILIES)


@given(st.dictionaries(st.sampled_from([*CONFIG, "crepa_lambda", "lora_rank", "fsdp_enable", "lerning_rate"]),
                       st.sampled_from([0, 1, 2, True, "true", "5", ""]), max_size=6))  # fmt: skip
def test_no_key_disappears_whatever_its_value(tmp_path_factory: pytest.TempPathFactory, changes: dict) -> None:
    """A conversion accounts for every key, or ends with one message that names a key or a value."""
    folder = tmp_path_factory.mktemp("convert")
    try:
        conversion = convert(*files(folder, changes))
    except ConfigError as error:
        assert any(name in str(error) for name in [*changes, "is"])
        return
    assert set(CONFIG) | set(changes) == {name for name in accounted(conversion) if "." not in name}


@given(st.text())
def test_text_reads_back_as_itself(text: str) -> None:
    conversion = Conversion()
    conversion.set("sample.negative_prompt", text, "as it is")
    assert _loads(yaml_text(conversion, title="x"))["sample"]["negative_prompt"] == text


@pytest.mark.parametrize("text", ["1e5", ".5e3", "true", "no", "null", "~", "a: b", "a #b", "- x", "81",
                                  "81x480x832", "", "=", "2020-01-01", "s3://b/p", "\x7f", "a\nb",
                                  "éü", "0x10", "..", "a: "])  # fmt: skip
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    conversion = Conversion()
    conversion.set("sample.x", text, "")
    assert _loads(yaml_text(conversion, title="x"))["sample"]["x"] == text


@pytest.mark.parametrize("value", [True, False, 0, 400_000, 5e-5, 1e-10, 0.1, 480.0, 0.997497, 1e22, ["a", "b: c"]])
def test_values_read_back_as_themselves(value) -> None:
    assert _loads(f"x: {scalar(value)}\n")["x"] == value


def _loads(text: str):
    return parse_yaml(text, where="a test")


def test_unknown_keys_are_named_with_what_they_may_mean(tmp_path: Path) -> None:
    _, conversion = converted(tmp_path, {"lerning_rate": 1, "zzzz": 2}, [video(repeat=3), BACKENDS[1]])
    assert {key.name: key.why for key in conversion.unknown} == {
        "lerning_rate": "did you mean learning_rate?",
        "zzzz": "nothing known is near it",
        "disney.repeat": "did you mean repeats?",
    }


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    entry = video(
        type="aws",
        instance_data_dir=None,
        aws_bucket_name="clips",
        aws_data_prefix="videos/",
        aws_secret_access_key="hush",
    )
    config, conversion = converted(tmp_path, backends=[entry])
    assert config.download.datasets[0].source == "s3://clips/videos"
    assert "hush" not in (tmp_path / "out.yaml").read_text()
    assert "disney.aws_secret_access_key" in accounted(conversion)


@pytest.mark.parametrize(
    ("config", "backends", "says"),
    [
        ({"model_family": "wan"}, None, "model_family is 'wan'"),
        ({"max_train_steps": 0}, None, "max_train_steps is 0"),
        ({"max_train_steps": "many"}, None, "max_train_steps is 'many', not a number"),
        ({"use_ema": "perhaps"}, None, "use_ema is 'perhaps', not true or false"),
        ({"validation_resolution": "wide"}, None, "not width x height"),
        ({"user_prompt_library": "nowhere.json"}, None, "nowhere.json"),
        (None, [], "an empty list"),
        (None, [BACKENDS[1]], "no entry has dataset_type: video or image"),
        (None, [video(type="webshart")], "type 'webshart' cannot be read here"),
        (None, [video(instance_data_dir=None)], "type local needs instance_data_dir"),
        (None, [video("A b"), video("a-b")], "another entry becomes the data set id 'a-b' too"),
    ],
)
def test_what_cannot_be_converted_is_said(tmp_path: Path, config: dict | None, backends, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        convert(*files(tmp_path, config, backends))


def test_wrong_files_are_said(tmp_path: Path) -> None:
    config, backends = files(tmp_path)
    with pytest.raises(ConfigError, match="cannot read .*nowhere"):
        convert(tmp_path / "nowhere", backends)
    with pytest.raises(ConfigError, match="is not a list of data sets"):
        convert(config, config)
    with pytest.raises(ConfigError, match=r"is it the config\.json"):
        convert(backends, backends)
    config.write_text('{"seed": 1,\n oops}')
    with pytest.raises(ConfigError, match="not valid JSON: line 2, column 2"):
        convert(config, backends)


@pytest.mark.parametrize("name", ["out.yaml", "out.conversion.md"])
def test_a_file_that_is_there_is_not_overwritten(tmp_path: Path, name: str) -> None:
    config, backends = files(tmp_path)
    (tmp_path / name).write_text("mine")
    done = CliRunner().invoke(cli, ["convert-simpletuner", str(config), str(backends), "-o", f"{tmp_path}/out.yaml"])
    assert isinstance(done.exception, SanaError) and f"{name} is there already" in str(done.exception)
    assert (tmp_path / name).read_text() == "mine" and len(list(tmp_path.glob("out.*"))) == 1


@pytest.mark.parametrize(
    "unknown", [{}, {"lerning_rate": 1}, {f"a_rather_long_name_of_a_key_{i}": i for i in range(9)}, {"k" * 200: 1}]
)
def test_the_end_is_five_lines_of_eighty_columns(tmp_path: Path, unknown: dict) -> None:
    lines = summary(convert(*files(tmp_path, unknown)), Path("my.conversion.md"), "sana validate my.yaml")
    assert len(lines) == 5 and max(map(len, lines)) <= 80
    assert all(name in lines[1] for name in unknown if len(unknown) == 1 and len(name) < 40)
    assert (f", {len(unknown)} unknown: " in lines[1]) == bool(unknown)


def test_tables_have_every_key_once_and_cannot_be_broken_by_a_value(tmp_path: Path) -> None:
    conversion = convert(*files(tmp_path, {"foo|bar": "a\n| b | <script>", "aws_secret_access_key": "hush"}))
    text = markdown_text(conversion, title="a\ntest")
    assert "hush" not in text and "<script" not in text and text.startswith("# a\\ntest\n")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {4, 5}
    for name in accounted(conversion):
        assert sum(name.replace("|", "\\|") in re.split(r" \| |, |^\| ", line) for line in rows) >= 1, name


# ---- a prompt library beside config.json


@pytest.mark.parametrize(
    ("config", "library", "expected"),
    [
        ({}, {"cat": "a cat", "dog": {"prompt": "a dog"}}, {"cat": "a cat", "dog": "a dog"}),
        ({"user_prompt_library": "other.json"}, {"cat": "a cat"}, {"bird": "a bird"}),
        ({}, None, {}),
    ],
)
def test_a_prompt_library_in_the_same_folder_is_taken_along(
    tmp_path: Path, config: dict, library: dict | None, expected: dict
) -> None:
    (tmp_path / "other.json").write_text('{"bird": "a bird"}')
    if library is not None:
        (tmp_path / "user_prompt_library.json").write_text(json.dumps(library))
    made, conversion = converted(tmp_path, config)
    assert made.sample.prompts == {"validation": CONFIG["validation_prompt"], **expected}
    taken = ["user_prompt_library.json is taken along"] if library and not config else []
    assert conversion.notes == taken
    assert ("user_prompt_library.json" in markdown_text(conversion, title="x")) == bool(taken)


def test_a_library_beside_it_that_is_none_is_an_error_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "user_prompt_library.json").write_text("[1]")
    with pytest.raises(ConfigError, match=f"{tmp_path}/user_prompt_library.json is not a prompt library"):
        convert(*files(tmp_path))


def test_only_faults_that_concern_the_files_are_named(tmp_path: Path) -> None:
    everything = faults_of(converted(tmp_path)[1])
    config = {key: value for key, value in CONFIG.items() if key != "delete_problematic_images"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    fewer = faults_of(convert(tmp_path / "config.json", tmp_path / "multidatabackend.json"))
    gone = [fault.theirs for fault in everything if fault not in fewer]
    assert gone == ["deletes source files that it cannot read"]


@pytest.mark.parametrize("text", ["a\nroot: elsewhere", "a\0b", "a\u2028root: elsewhere", "a\x85b", "\x1b[31m"])
def test_a_value_that_is_quoted_in_a_comment_stays_in_it(tmp_path: Path, text: str) -> None:
    plain, _ = converted(tmp_path)
    backends = [video(caption_strategy=text), *BACKENDS[1:]]
    odd, conversion = converted(tmp_path, {"foo_bar": text, f"foo {text}": 1}, backends)
    assert odd.root == plain.root
    assert len(conversion.unknown) == 2


@pytest.mark.parametrize("number", ["Infinity", "1" + "0" * 400, "NaN"])
def test_a_number_beyond_all_numbers_is_one_error(tmp_path: Path, number: str) -> None:
    config, backends = files(tmp_path)
    config.write_text(json.dumps({**CONFIG, "seed": "?"}).replace('"?"', number))
    with pytest.raises(ConfigError, match="seed is .*, not a number"):
        convert(config, backends, num_processes=1)


def test_endless_brackets_are_one_error(tmp_path: Path) -> None:
    config, backends = files(tmp_path)
    config.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="nested too deep"):
        convert(config, backends, num_processes=1)
