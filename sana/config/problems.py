"""Every mistake in a config, once: the path of its key, what is wrong, and the nearest known key.

A mistake that only follows from another one is left out: a required key whose value was wrong is not also missing, and
a check across keys says nothing about a key that is wrong by itself.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError

from sana.config.messages import OTHER_NAMES, did_you_mean, sentence, shown
from sana.config.pipeline import Config
from sana.config.renamed_keys import KeyPath
from sana.config.section import Section, union_members
from sana.wording import has_password, without_password

_NOT_SHOWN = "notifications"  # the section in which a value may be a secret that was given in place of its name
_MAX_MEANT = 3  # keys that an unknown one may be meant for
_SURE, _LIKELY = 0.75, 0.6  # similarity of names


class Problem(NamedTuple):
    """One mistake. `remedy` is set where the key is one of another member of a union: how to choose that one."""

    loc: KeyPath
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{'.'.join(str(part) for part in self.loc) or 'config'}: {self.text}"
        return without_password(text)


_INSTEAD = {
    "tracking": "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or all of the address, of a database too, "
    "into MLFLOW_TRACKING_URI, and leave tracking.uri out",
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile",
    "hub": "HF_TOKEN",
}


def passwords_in(raw: Any, loc: KeyPath = ()) -> list[Problem]:
    """Return the settings whose address holds a password: a config is kept with each run, in Prefect and in MLflow."""
    if isinstance(raw, Mapping):
        return [problem for key, value in raw.items() for problem in passwords_in(value, (*loc, key))]
    if isinstance(raw, list | tuple):
        return [problem for place, value in enumerate(raw) for problem in passwords_in(value, (*loc, place))]
    if not isinstance(raw, str) or not has_password(raw):
        return []
    kind = "tracking" if loc[:1] == ("tracking",) else "s3" if raw.lower().startswith("s3:") else "hub"
    said = "the address holds a password, which is not shown here and would be kept with each run; put it into "
    return [Problem(loc, f"{said}the environment: {_INSTEAD[kind]}")]


def all_problems(raw: Mapping[str, Any], error: ValidationError) -> list[Problem]:
    """Collect mistakes until none is new: a check across fields only runs once the fields themselves are valid."""
    problems: list[Problem] = []
    wrong: set[KeyPath] = set()  # paths whose values are wrong, or that a wrong key may have been meant for
    removed: set[KeyPath] = set()
    pending: ValidationError | None = error
    while pending is not None:
        errors: list[dict[str, Any]] = [
            {**e, "loc": _in_raw(_path_in_file(e["loc"]), removed)} for e in pending.errors()
        ]
        wrong |= {e["loc"] for e in errors if e["type"] != "value_error"} - _missing(errors)
        for unknown in (e["loc"] for e in errors if e["type"] == "extra_forbidden"):
            wrong |= _wrong_through(unknown, raw)
        found = {e["loc"] for e in errors} | removed
        new = [e for e in errors if not _follows(e, wrong, found, removed)]
        problems += [_describe(e, raw) for e in new]
        before = len(removed)
        removed |= {e["loc"] for e in errors if e["loc"] and e["type"] != "missing"}
        wrong |= removed
        pending = None
        if len(removed) > before:
            try:
                Config.model_validate(_without(raw, removed))
            except ValidationError as next_error:
                pending = next_error
    return list(dict.fromkeys(problems))


def _missing(errors: Iterable[Mapping[str, Any]]) -> set[KeyPath]:
    return {e["loc"] for e in errors if e["type"] == "missing"}


def _follows(error: Mapping[str, Any], wrong: set[KeyPath], found: Iterable[KeyPath], removed: set[KeyPath]) -> bool:
    """Whether an error is only there because of another one."""
    loc, kind = error["loc"], error["type"]

    def below(paths: Iterable[KeyPath]) -> list[KeyPath]:
        return [path for path in paths if len(path) > len(loc) and path[: len(loc)] == loc]

    if kind == "missing":
        return loc in wrong
    if kind == "too_short":  # a list or a mapping without its wrong entries
        return bool(below(found))
    # a check across keys: does it name one that is wrong by itself?
    names_wrong = any(re.search(rf"\b{re.escape(str(path[-1]))}\b", error["msg"]) for path in below(wrong))
    return loc in removed or (kind == "value_error" and names_wrong)


def _in_raw(loc: KeyPath, removed: set[KeyPath]) -> KeyPath:
    """Return a path as it is in the file: entries of lists that were removed had a place there."""
    path: list[int | str] = []
    for part in loc:
        if isinstance(part, int):
            gone = {r[-1] for r in removed if len(r) == len(path) + 1 and list(r[:-1]) == path}
            for place in sorted(place for place in gone if isinstance(place, int)):
                part += place <= part
        path.append(part)
    return tuple(path)


def _without(value: Any, removed: set[KeyPath], loc: KeyPath = ()) -> Any:
    if isinstance(value, Mapping):
        return {k: _without(v, removed, (*loc, k)) for k, v in value.items() if (*loc, k) not in removed}
    if isinstance(value, list):
        return [_without(v, removed, (*loc, i)) for i, v in enumerate(value) if (*loc, i) not in removed]
    return value


def _describe(error: Mapping[str, Any], raw: Mapping[str, Any]) -> Problem:
    loc: KeyPath = error["loc"]
    if loc[:1] == (_NOT_SHOWN,):
        error = {**error, "input": "not shown"}
    if error["type"] == "extra_forbidden":
        return _unknown(loc, raw)
    if error["type"] == "missing":
        return Problem(loc, "missing; it has no default")
    if error["type"] == "union_tag_invalid":
        known = list(union_members(_annotation(loc, raw)))
        name = error["input"]["name"] if isinstance(error["input"], Mapping) else error["ctx"]["tag"]
        text = name if isinstance(name, str) else shown(name)
        return Problem((*loc, "name"), f"there is no {text}; known here: {', '.join(known)}{did_you_mean(name, known)}")
    if error["type"] == "union_tag_not_found":
        return Problem((*loc, "name"), f"missing; known here: {', '.join(union_members(_annotation(loc, raw)))}")
    members = union_members(_annotation(loc, raw)) if error["type"] == "model_attributes_type" else {}
    if members:
        got = error["input"]
        name = got if got in list(members) else next(iter(members))
        key = ".".join(str(part) for part in loc)
        return Problem(loc, f"a section of keys is needed, such as {key}.name={name} (got {shown(got)})")
    return Problem(loc, sentence(error))


def _unknown(loc: KeyPath, raw: Mapping[str, Any]) -> Problem:
    """Return the message for an unknown key, with what may be meant."""
    annotation = _annotation(loc[:-1], raw)
    union, name = union_members(annotation), str(loc[-1])
    section = _section(annotation, _value(raw, loc[:-1]))
    path = ".".join(str(part) for part in loc[:-1])
    others = [member for member, kind in union.items() if name in kind.model_fields]
    if others:
        chosen = next(member for member, kind in union.items() if kind is section)
        remedy = f"-s {path}.name={others[0]}"
        in_list = any(isinstance(part, int) for part in loc)  # an entry of a list may have keys that are needed
        keep = f"to keep {chosen}, remove it" + ("" if in_list else f": -s '{path}={{name: {chosen}}}'")
        return Problem(loc, f"no setting of {chosen}, but of {' and '.join(others)}: {remedy}; {keep}", remedy)
    if name.isdigit() and _value(raw, loc) is None:  # {max_steps: 40,000}
        return Problem(loc, "unknown key; a `,` begins another key: write 40000, not 40,000")
    meant = _meant(loc, raw)
    hint = f"did you mean {' or '.join(meant)}?" if meant else f"known here: {', '.join(section.model_fields)}"
    return Problem(loc, f"unknown key; {hint}")


def _meant(loc: KeyPath, raw: Mapping[str, Any]) -> list[str]:
    """Return what an unknown key may be meant for: a key beside it by its own name, others by their dotted names.

    Keys of this very name below come first, then one with nearly this name beside it, then less likely ones.
    """
    name, path = str(loc[-1]), ".".join(str(part) for part in loc[:-1])
    section = _section(_annotation(loc[:-1], raw), _value(raw, loc[:-1]))

    def of_this_name(start: type[BaseModel], prefix: str) -> list[str]:
        keys = [key for key in _keys_below(start) if key.endswith(f".{name}")]
        return [f"{prefix}{key}" for key in sorted(keys, key=lambda key: key.count("."))][:_MAX_MEANT]

    # a name from another program means the keys in this section, where there are any, before those elsewhere
    usual = OTHER_NAMES.get(name.lower(), ())
    usual = tuple(key for key in usual if path and key.startswith(f"{_generic(path)}.")) or usual

    below = of_this_name(section, f"{path}." if path else "")
    return (
        ([] if below else difflib.get_close_matches(name, list(section.model_fields), n=1, cutoff=_SURE))
        or list(usual)
        or below
        or difflib.get_close_matches(name, list(section.model_fields), n=1, cutoff=_LIKELY)
        or of_this_name(Config, "")
    )


def _generic(path: str) -> str:
    """Return a dotted path with the first entry of each list instead of any other."""
    return re.sub(r"\.\d+", ".0", path)


def _wrong_through(loc: KeyPath, raw: Mapping[str, Any]) -> set[KeyPath]:
    """Return the paths of the keys that an unknown key may be meant for, and of the sections that they are in."""
    found: set[KeyPath] = set()
    for meant in _meant(loc, raw):
        key = (*loc[:-1], meant) if "." not in meant else tuple(int(p) if p.isdigit() else p for p in meant.split("."))
        found |= {key[:depth] for depth in range(len(loc), len(key) + 1)}
    return found


def _keys_below(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted keys of a section and of the sections in it, nearest first; of an entry of a list by `0`."""
    found, below = [], []
    for name, field in section.model_fields.items():
        found.append(f"{prefix}{name}")
        listed = "0." if str(field.annotation).startswith("tuple") else ""
        kinds: list[type[BaseModel]] = list(union_members(field.annotation).values())
        one = _model(field.annotation)
        for kind in kinds or ([one] if one else []):
            below += _keys_below(kind, f"{prefix}{name}.{listed}")
    return list(dict.fromkeys([*found, *below]))


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
