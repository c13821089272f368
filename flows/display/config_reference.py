"""All settings, for docs/config.md: `python -m flows.display.config_reference > docs/config.md` makes it."""

import sys
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sana.config.pipeline import Config
from sana.config.section import Neutral, Section, union_members

_HEAD = """# Every setting

Made by `python -m flows.display.config_reference > docs/config.md` from the code, which a test compares. In YAML the
dots are nesting; on the command line a key is `-s key=value`. *Hashed*: whether another value makes another artifact
(yes), or changes only speed, memory, places, permissions or the last bits (no). Some are hashed by what they name
(content) or by later stages (later); "but" is a value that stays out of every hash. MLflow has the hashed ones as
params, those under `resources` as tags, and the whole config as `config/resolved.yaml`. *Runs again*: the first
stages that another value makes run; of those below, the ones that read other content then. `sana plan` names all.
"""
# not in their own stage's hash, and no matter of speed
_OTHERWISE = {
    **dict.fromkeys(("model", "download.datasets.*.source", "download.datasets.*.revision", "sample.prompt_library",
                     "sample.images", "sample.videos", "train.init_from", "encode_features.encoder",
                     "encode_features.revision"), "content"),
    **dict.fromkeys(("download.datasets.*.role", "download.datasets.*.repeats", "download.datasets.*.sampling_weight",
                     "download.datasets.*.bucket", "download.datasets.*.conditions", "download.datasets.*.disabled"),
                    "later"),
    **dict.fromkeys(("root", "work_dir", "tracking", "notifications",
                     "download.datasets.*.max_rejected_fraction"), "no"),
}  # fmt: skip
# settings that a stage reads which is not named as their section
_READ_BY = {
    "model": "encode_captions, encode_latents, train",
    "download.datasets.*.role": "bucket",
    "download.datasets.*.bucket": "bucket",
    "download.datasets.*.repeats": "train",
    "download.datasets.*.sampling_weight": "train",
    "download.datasets.*.conditions": "train",
    "sample.prompts": "encode_captions",
    "sample.negative_prompt": "encode_captions",
    "sample.prompt_library": "encode_captions",
}
_BOUNDS = {"ge": "from {}", "gt": "above {}", "le": "to {}", "lt": "below {}", "multiple_of": "multiple of {}",
           "min_length": "at least {} long", "max_length": "at most {} long"}  # fmt: skip


_AS_ELSEWHERE = {
    "download.datasets.*.bucket": "the keys of `bucket`, for this data set alone; unset: those",
    "download.datasets.*.conditions": "sections as in `train.conditions`, for samples of this data set alone; unset: "
    "those; an empty list: text to video only",
}


class Setting(NamedTuple):
    """One row: a dotted key, `*` for a position in a list, and the member of a union that has it."""

    key: str
    member: str
    field: FieldInfo
    is_hashed: bool


def settings(
    section: type[Section] = Config, prefix: str = "", member: str = "", *, hashed: bool = True
) -> Iterator[Setting]:
    """Yield every setting of a section and of those below it."""
    for name, field in section.model_fields.items():
        key, is_hashed = f"{prefix}{name}", hashed and name not in section.UNHASHED
        union = union_members(field.annotation)
        if union and key not in _AS_ELSEWHERE:
            listed = "*." if get_origin(field.annotation) is tuple else ""
            for choice, kind in union.items():
                yield from settings(kind, f"{key}.{listed}", choice, hashed=is_hashed)
            continue
        below, is_listed = _section_of(field.annotation)
        if below is not None and key not in _AS_ELSEWHERE:
            yield from settings(below, f"{key}.{'*.' if is_listed else ''}", member, hashed=is_hashed)
        else:
            yield Setting(key, member, field, is_hashed)


def _section_of(annotation: Any) -> tuple[type[Section] | None, bool]:
    """Return the section that an annotation is, or is a list of."""
    kinds = [annotation, *get_args(annotation)]
    found = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)
    return found, get_origin(annotation) is tuple


def lines() -> list[str]:
    """Return the page."""
    found = [*_HEAD.splitlines()]
    title = ""
    for one in settings():
        top = one.key.partition(".")[0] if "." in one.key else "places"
        if top != title:
            title = top
            found += [
                "",
                f"## {title}",
                "",
                "| key | default | allowed | hashed | runs again | what it is |",
                "|---|---|---|---|---|---|",
            ]
        found.append(_row(one))
    return found


def _row(one: Setting) -> str:
    neutral = next((meta.value for meta in one.field.metadata if isinstance(meta, Neutral)), PydanticUndefined)
    hashed = _hashed(one, "yes" if neutral is PydanticUndefined else f"but {_shown(neutral)}")
    key = f"`{one.key}`" + (f" of {one.member}" if one.member and not one.key.endswith(".name") else "")
    default = "needed" if one.field.is_required() else _shown(one.field.get_default(call_default_factory=True))
    what = " ".join((_AS_ELSEWHERE.get(one.key) or one.field.description or "").split()).replace("|", "\\|")
    return f"| {key} | {default} | {_allowed(one.field)} | {hashed} | {runs_again(one.key, hashed)} | {what} |"


def runs_again(key: str, hashed: str) -> str:
    """Return the first stages that another value of a setting makes run, by what is said of its hash."""
    if hashed == "no":
        return "nothing"
    readers = next((found for begin, found in _READ_BY.items() if f"{key}.".startswith(f"{begin}.")), None)
    return readers or key.partition(".")[0]


def _hashed(one: Setting, otherwise: str) -> str:
    named = next((how for key, how in _OTHERWISE.items() if f"{one.key}.".startswith(f"{key}.")), None)
    return named or (otherwise if one.is_hashed else "no")


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value or "empty"
    return f"{value}" if isinstance(value, int) else "empty" if not value else str(value)


def _allowed(field: FieldInfo) -> str:
    """Return the values that a setting takes: words, the bounds of a number, or its kind."""
    words = [str(word) for kind in (field.annotation, *get_args(field.annotation)) for word in _words(kind)]
    bounds = [
        text.format(_shown(getattr(meta, name)))
        for meta in field.metadata
        for name, text in _BOUNDS.items()
        if getattr(meta, name, None) is not None
    ]
    return ", ".join([*dict.fromkeys(words), *([" ".join(bounds)] if bounds else [])]) or _kind(field.annotation)


def _words(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _kind(annotation: Any) -> str:
    names = {"bool": "true, false", "str": "text", "int": "number", "float": "number"}
    kinds = [getattr(kind, "__name__", "") for kind in (annotation, *get_args(annotation))]
    return next((names[kind] for kind in kinds if kind in names), "as described")


if __name__ == "__main__":
    sys.stdout.write("\n".join(lines()) + "\n")
