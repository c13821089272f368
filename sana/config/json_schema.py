"""The JSON schema of a config, from the sections: `python -m sana.config.json_schema` writes it beside this module.

Editors complete and check keys by it where a config's first line names it (`schema_line`). It says what one key may be;
what goes together only the loader knows, and how people may write a value besides: `sana validate` is stricter about
the one, and takes `yes` and "5" for true and 5.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from sana.config.pipeline import Config

PATH = Path(__file__).with_name("schema.json")  # in the wheel too
_SHAPE = r"^\d+x\d+x\d+$"  # what sana.bucket.Bucket.parse reads
# a section, and its settings that name a bucket
_SHAPES = {
    "SampleConfig": ("bucket",),
    "BucketConfig": ("buckets",),
    "BucketRules": ("buckets",),
    "ValidationConfig": ("buckets",),
}


class _Generator(GenerateJsonSchema):
    """As pydantic's own, and a section of a union must say its `name`, but for the one taken where none is named."""

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        inner = super().function_before_schema(schema)
        if "oneOf" in inner:
            chosen = schema["function"]["function"]({})["name"]  # type: ignore[call-arg]
            inner = {**inner, "default_member": chosen}
        return inner


def config_schema() -> dict[str, Any]:
    """Return the schema as JSON values: closed, with meaning, bounds and defaults; of draft 7, which editors know."""
    made = Config.model_json_schema(schema_generator=_Generator)
    definitions = made.pop("$defs")
    _name_members([made, definitions], definitions)
    for title, names in _SHAPES.items():
        for name in names:
            one = definitions[title]["properties"][name]
            one.get("items", one)["pattern"] = _SHAPE
    also = definitions["TrackingConfig"]["properties"]["also"]  # a tracker may be its kind alone
    also["items"] = {"anyOf": [dict(definitions["TrackerConfig"]["properties"]["kind"]), also["items"]]}
    sample = definitions["SampleConfig"]  # a file may hold the prompts
    sample["required"] = [name for name in sample.get("required", ()) if name != "prompts"]
    sample["anyOf"] = [{"required": ["prompts"]}, {"required": ["prompt_library"]}]
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_plain({**made, "title": "Config of a Sana Video run"}, keep_title=True),
        "definitions": {title: _plain(one) for title, one in definitions.items()},
    }


def text() -> str:
    """Return the schema as the file holds it."""
    return json.dumps(config_schema(), indent=1, ensure_ascii=False) + "\n"


def schema_line(config: str | Path) -> str:
    """Return the first line of a config, by which editors find the schema: relative to it within one checkout."""
    folder = Path(config).absolute().parent
    project = PATH.parents[2]
    inside = (project / "pyproject.toml").is_file() and folder.is_relative_to(project)
    place = Path(os.path.relpath(PATH, folder)).as_posix() if inside else PATH.as_uri()
    return f"# yaml-language-server: $schema={place}"


def _name_members(node: Any, definitions: Mapping[str, Any]) -> None:
    """Have each section of a union need its `name`, but the default one."""
    if isinstance(node, list):
        for one in node:
            _name_members(one, definitions)
    elif isinstance(node, dict):
        union = node.get("discriminator")
        if union is not None:
            chosen = node.pop("default_member", None)
            del node["discriminator"]
            for name, ref in union["mapping"].items():
                member = definitions[ref.rpartition("/")[2]]
                others = [one for one in member.get("required", ()) if one != "name"]
                if needed := others if name == chosen else ["name", *others]:
                    member["required"] = needed
        for one in list(node.values()):  # a member of a union gets a new key
            _name_members(one, definitions)


def _plain(node: Any, *, keep_title: bool = False) -> Any:
    """Return a schema for editors: no titles that repeat a key, and beside a reference what draft 7 ignores there."""
    if isinstance(node, list):
        return [_plain(one) for one in node]
    if not isinstance(node, dict):
        return node
    shown: dict[str, Any] = {}
    for name, one in node.items():
        if name == "properties":
            shown[name] = {key: _plain(value) for key, value in one.items()}
        elif name in ("default", "enum", "const", "required"):
            shown[name] = one
        elif name != "title" or keep_title:
            shown[name] = _plain(one) if isinstance(one, dict | list) else one
    if "$ref" in shown:
        target = {"$ref": shown.pop("$ref").replace("#/$defs/", "#/definitions/")}
        return {**shown, "allOf": [target]} if shown else target
    return shown


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
