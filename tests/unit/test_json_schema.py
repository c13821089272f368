"""The JSON schema of a config: as the sections are, closed, and what it refuses the loader refuses too."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from flows.cli.main import main
from sana.config.json_schema import PATH, config_schema, schema_line, text
from sana.config.load import check, load_config
from sana.config.pipeline import Config
from sana.config.yaml_reading import parse_yaml
from sana.errors import ConfigError
from tests.config_keys import dotted

ROOT = Path(__file__).parents[2]
SHIPPED = sorted([*(ROOT / "configs").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
SMALL: dict[str, Any] = {
    "model": {"path": "tiny"},
    "download": {"datasets": [{"id": "a", "source": "clips"}]},
    "train": {"max_steps": 2, "global_batch_size": 2},
    "sample": {"prompts": {"one": "a kite"}},
}
SCHEMA = jsonschema.Draft7Validator(config_schema())


def mistakes(values: dict[str, Any]) -> list[str]:
    return [".".join(str(part) for part in error.absolute_path) for error in SCHEMA.iter_errors(values)]


def with_value(key: str, value: Any) -> dict[str, Any]:
    values = copy.deepcopy(SMALL)
    node: Any = values
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in parents:
        node = node[part] if isinstance(node, list) else node.setdefault(part, {})
    node[last] = value
    return values


def test_the_file_is_made_of_the_sections() -> None:
    assert PATH.read_text(encoding="utf-8") == text(), "python -m sana.config.json_schema"
    jsonschema.Draft7Validator.check_schema(config_schema())


def keys_of(schema: dict[str, Any], node: dict[str, Any], prefix: str = "") -> set[str]:
    """Every dotted key that a schema has, `*` for a place in a list."""
    if "$ref" in node:
        return keys_of(schema, schema["definitions"][node["$ref"].rpartition("/")[2]], prefix)
    found = set()
    for name, one in node.get("properties", {}).items():
        found |= {f"{prefix}{name}"} | keys_of(schema, one, f"{prefix}{name}.")
    for one in [part for kind in ("allOf", "anyOf", "oneOf") for part in node.get(kind, ())]:
        found |= keys_of(schema, one, prefix)
    if node.get("type") == "array":
        found |= keys_of(schema, node.get("items", {}), f"{prefix}*.")
    return found


def test_it_has_every_key_and_no_other() -> None:
    schema = config_schema()
    assert keys_of(schema, schema) == dotted()


def test_every_section_is_closed_and_every_key_has_its_meaning() -> None:
    for name, one in config_schema()["definitions"].items():
        assert one["additionalProperties"] is False, name
        for key, setting in one["properties"].items():
            assert setting.get("description") or "allOf" in setting or "$ref" in setting, f"{name}.{key}"
    assert config_schema()["additionalProperties"] is False


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configs_are_valid_and_name_it(path: Path) -> None:
    assert not mistakes(parse_yaml(path.read_text(), where=path.name))
    first = path.read_text().splitlines()[0]
    assert first == schema_line(path)
    assert (path.parent / first.partition("$schema=")[2]).resolve() == PATH.resolve()
    load_config(path)


# (key, value): refused by both
WRONG = [
    ("trian", {}),
    ("train.learning_rat", 1e-4),
    ("train.resources.num_gpus", 2),
    ("download.datasets.0.name", "a"),
    ("train.optimizer", {"name": "adamw", "momentum": 0.9}),
    ("train.optimizer", {"name": "sgd"}),
    ("train.optimizer", {"name": "adafactor", "beta2": 0.9}),
    ("train.optimizer", "adamw"),
    ("train.conditions", [{"name": "first_frame"}]),
    ("train.conditions", [{"fraction": 0.5}]),
    ("train.method", {"rank": 16}),
    ("train.max_steps", 0),
    ("train.max_steps", True),
    ("train.max_steps", "many"),
    ("train.max_steps", 1.5),
    ("train.learning_rate", 0),
    ("train.learning_rate", -1e-4),
    ("train.caption_dropout", 1.5),
    ("train.gradient_clipping", "both"),
    ("train.resources.activation_memory", 1.5),
    ("train.resources.activation_memory", "most"),
    ("train.lr_schedule", {"name": "cosine", "warmup_steps": -1}),
    ("bucket.frame_interval", 6),
    ("bucket.buckets", ["81:480:832"]),
    ("bucket.buckets", "81x480x832"),
    ("sample.bucket", "480p"),
    ("sample.prompts", {}),
    ("sample.prompts", ["a kite"]),
    ("download.datasets", {"a": {"source": "clips"}}),
    ("download.datasets", [{"id": "a"}]),
    ("download.datasets.0.id", "A B"),
    ("download.datasets.0.repeats", -1),
    ("download.datasets.0.captions.layout", "text"),
    ("model", {}),
    ("root", ""),
    ("root", None),
]
# (key, value): taken by both
RIGHT = [
    ("train.optimizer", {"weight_decay": 0.1}),  # of adamw, which need not be named
    ("train.optimizer", {"name": "adafactor"}),
    ("train.method", {"name": "lora", "rank": 16}),
    ("train.learning_rate", 1),
    ("train.resources.activation_memory", 0.4),
    ("train.resources.activation_memory", "recompute_all"),
    ("train.crepa", None),
    ("download.datasets.0.bucket", {"buckets": ["17x96x160"]}),
    ("bucket.buckets", []),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_what_is_wrong_is_refused_by_the_schema_as_by_the_loader(key: str, value: Any) -> None:
    with pytest.raises(ConfigError):
        check(with_value(key, value), where="test")
    found = mistakes(with_value(key, value))
    assert found and all(key.startswith(place) or place.startswith(key) for place in found), found


@pytest.mark.parametrize(("key", "value"), RIGHT)
def test_what_is_right_is_taken_by_both(key: str, value: Any) -> None:
    check(with_value(key, value), where="test")
    assert not mistakes(with_value(key, value))


def test_an_unknown_key_is_refused_in_every_section() -> None:
    """Where a section of the defaults is, an unknown key in it is refused by both."""
    plain = Config.model_validate(SMALL).model_dump(mode="json")

    def places(node: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        below = [place for key, one in items for place in places(one, (*path, key))]
        return [path, *below] if isinstance(node, dict) and path[-1:] not in (("prompts",), ("images",)) else below

    found = places(plain)
    assert len(found) > 25
    for place in found:
        values = copy.deepcopy(plain)
        node: Any = values
        for part in place:
            node = node[part]
        node["no_such_key"] = 1
        assert mistakes(values), place
        with pytest.raises(ConfigError, match="no_such_key"):
            check(values, where="test")


def test_a_config_elsewhere_names_the_installed_file(tmp_path: Path) -> None:
    line = schema_line(tmp_path / "my.yaml")
    assert line == f"# yaml-language-server: $schema={PATH.as_uri()}"


def test_the_command_prints_or_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["schema"])
    assert json.loads(capsys.readouterr().out) == config_schema()
    main(["schema", "-o", str(tmp_path / "s.json")])
    assert json.loads((tmp_path / "s.json").read_text()) == config_schema()
    with pytest.raises(SystemExit):
        main(["schema", "-o", str(tmp_path / "none" / "s.json")])
    assert "cannot write" in capsys.readouterr().err
