"""Messages for every mistake in a config: the path of its key, and the nearest known key."""

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from sana.config.pipeline import Config
from sana.config.renamed_keys import KeyPath
from sana.config.section import Section, union_members


def all_problems(raw: Mapping[str, Any], error: ValidationError) -> list[str]:
    """Collect mistakes until none is new: a check across fields only runs once the fields themselves are valid."""
    problems: list[str] = []
    removed: set[KeyPath] = set()
    current: Any = raw
    pending: ValidationError | None = error
    while pending is not None:
        errors: list[dict[str, Any]] = [{**e, "loc": _path_in_file(e["loc"])} for e in pending.errors()]
        locs = [e["loc"] for e in errors]
        # a list with a wrong item is also reported as a list without it: one mistake, not two
        new = [
            e
            for e in errors
            if e["loc"] not in removed
            and not (
                e["type"] == "too_short"
                and any(len(loc) > len(e["loc"]) and loc[: len(e["loc"])] == e["loc"] for loc in locs)
            )
        ]
        # a required key that was removed because its value was wrong is missing now: not another mistake
        problems += [_describe(e, raw) for e in new]
        before = len(removed)
        removed |= {e["loc"] for e in new if e["loc"]}
        current = _without(raw, removed)
        pending = None
        if len(removed) > before:
            try:
                Config.model_validate(current)
            except ValidationError as next_error:
                pending = next_error
    return list(dict.fromkeys(problems))


def _without(value: Any, removed: set[KeyPath], loc: KeyPath = ()) -> Any:
    if isinstance(value, Mapping):
        return {k: _without(v, removed, (*loc, k)) for k, v in value.items() if (*loc, k) not in removed}
    if isinstance(value, list):
        return [_without(v, removed, (*loc, i)) for i, v in enumerate(value) if (*loc, i) not in removed]
    return value


def _describe(error: Any, raw: Mapping[str, Any]) -> str:
    loc: KeyPath = error["loc"]
    key = ".".join(str(part) for part in loc) or "config"
    if error["type"] == "extra_forbidden":
        return f"{key}: {_unknown(loc, raw)}"
    if error["type"] == "missing":
        return f"{key}: missing; it has no default"
    if error["type"] == "union_tag_invalid":
        known = ", ".join(union_members(_annotation(loc, raw)))
        return f"{key}.name: there is no {error['ctx']['tag']}; known here: {known}"
    if error["type"] == "model_attributes_type":
        return f"{key}: a section of keys is needed, such as {key}.name={error['input']} (got {error['input']!r})"
    message = error["msg"].removeprefix("Value error, ")
    got = "" if error["type"] == "value_error" else f" (got {error['input']!r})"
    return f"{key}: {message}{got}"


def _unknown(loc: KeyPath, raw: Mapping[str, Any]) -> str:
    """Return the message for an unknown key, with what may be meant."""
    annotation = _annotation(loc[:-1], raw)
    union, name = union_members(annotation), str(loc[-1])
    section = _section(annotation, _value(raw, loc[:-1]))
    others = [member for member, kind in union.items() if name in kind.model_fields]
    if others:
        path = ".".join(str(part) for part in loc[:-1])
        chosen = next(member for member, kind in union.items() if kind is section)
        return (
            f"no setting of {chosen}, but of {' and '.join(others)}; remove it, or replace all of the section: "
            f"-s '{path}={{name: {chosen}}}'"
        )
    near = difflib.get_close_matches(name, list(section.model_fields), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(section.model_fields)}"
    return f"unknown key; {hint}"


def _path_in_file(loc: tuple[int | str, ...]) -> KeyPath:
    """Return the path of a value in the file: pydantic's path has the names of union members in it."""
    model: type[BaseModel] | None = Config
    path: list[int | str] = []
    union: dict[str, type[Section]] = {}
    for part in loc:
        if part in union:
            model, union = union[str(part)], {}
            continue
        path.append(part)
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model else None
        union = union_members(field.annotation) if field else {}
        model = _model(field.annotation) if field else None
    return tuple(path)


def _annotation(path: KeyPath, raw: Mapping[str, Any]) -> Any:
    """Return the annotation at a path in the config: a section, or a union of them."""
    annotation: Any = Config
    for depth, part in enumerate(path):
        if not isinstance(part, int):
            annotation = _section(annotation, _value(raw, path[:depth])).model_fields[part].annotation
    return annotation


def _section(annotation: Any, value: Any) -> type[BaseModel]:
    """Return the section of an annotation: of a union, the member that the value names."""
    union = union_members(annotation)
    name = value.get("name") if isinstance(value, Mapping) else None
    section = union.get(str(name), next(iter(union.values()), None)) or _model(annotation)
    assert section is not None  # only sections have keys
    return section


def _model(annotation: Any) -> type[BaseModel] | None:
    kinds = [annotation, *get_args(annotation)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _value(raw: Any, path: KeyPath) -> Any:
    for part in path:
        raw = raw[part]
    return raw
