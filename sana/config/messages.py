"""What is wrong with one value of a config, in YAML's words: what is needed there, and what was got."""

import difflib
import json
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

# What other programs call a setting: where it is here.
OTHER_NAMES = {
    "lr": ("train.learning_rate",),
    "batch_size": ("train.global_batch_size",),
    "train_batch_size": ("train.global_batch_size",),
    "gradient_accumulation_steps": ("train.global_batch_size",),
    "steps": ("train.max_steps", "sample.num_inference_steps"),
    "num_steps": ("train.max_steps", "sample.num_inference_steps"),
    "max_train_steps": ("train.max_steps",),
    "epochs": ("train.max_steps",),
    "num_train_epochs": ("train.max_steps",),
    "warmup": ("train.lr_schedule.warmup_steps",),
    "lr_warmup_steps": ("train.lr_schedule.warmup_steps",),
    "scheduler": ("train.lr_schedule.name",),
    "lr_scheduler": ("train.lr_schedule.name",),
    "cfg": ("sample.guidance_scale",),
    "cfg_scale": ("sample.guidance_scale",),
    "frames": ("bucket.num_frames",),
    "gpus": ("train.resources.num_processes",),
    "num_gpus": ("train.resources.num_processes",),
    "dataset": ("download.datasets",),
    "path": ("download.datasets.0.source", "model.path"),
    "folder": ("download.datasets.0.source",),
    "dir": ("download.datasets.0.source",),
    "data_dir": ("download.datasets.0.source",),
    "name": ("download.datasets.0.id",),
    "output_dir": ("root",),
    "output": ("root",),
    "pretrained_model_name_or_path": ("model.path",),
    "ema": ("train.ema_decay",),
    "validation_prompts": ("sample.prompts",),
}
MAX_SHOWN = 60  # characters of a value that a message quotes
# The first word of pydantic's kinds of mistake: what is needed instead.
_NEEDED = {
    "int": "a whole number is needed",
    "float": "a number is needed",
    "finite": "a finite number is needed",
    "bool": "true or false is needed",
    "string": "a text is needed",
    "tuple": "a list is needed",
    "dict": "keys and values below it are needed",
    "model": "keys and values below it are needed",
}
_BOUNDS = {
    "greater_than": ("must be above", "gt"),
    "greater_than_equal": ("must be at least", "ge"),
    "less_than": ("must be below", "lt"),
    "less_than_equal": ("must be at most", "le"),
    "multiple_of": ("must be a multiple of", "multiple_of"),
}
# What a text must be where a setting has a pattern.
PATTERNS = {
    r"^(auto|cpu|cuda(:\d+)?)$": "must be auto, cpu, cuda, or one GPU such as cuda:0",
    r"^[a-z0-9][a-z0-9._-]{0,63}$": (
        "must be of lower-case letters, digits, '.', '_' and '-', begin with a letter or digit, and have at most 64"
    ),
    r"^(auto|tab|\t|[!#-/:-@\[\]^_`{-~])$": "must be auto, tab, or one character such as , ; or |",
    r"^[^/\\]+$": "must be a part of a file's name, without / and \\",
    r"^[^/\s]+/[^/\s]+$": "must be the id of a model on the hub: owner/name",
    "^[^/:]+$": "must be a name without / and :, which MLflow's registry does not take",
    "^[^/]+/[^/]+$": "must name a flow and a deployment: flow/deployment",
}


def shown(value: Any) -> str:
    """Return a value as YAML would have it, on one line and in short; a text in quotes."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    text = {"NaN": ".nan", "Infinity": ".inf", "-Infinity": "-.inf"}.get(text, text)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def sentence(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as people who write YAML put it."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    got = f" (got {shown(value)})"
    if kind == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{words} {context[name]:g}{got}"
    if kind == "literal_error":
        return none_of(value, re.findall(r"'([^']*)'", context["expected"]))
    if kind == "string_pattern_mismatch":
        pattern = context["pattern"]
        return PATTERNS.get(pattern, f"must match the regular expression {pattern}") + got
    if kind in ("string_too_short", "too_short"):
        return f"is empty; at least {context['min_length']} {'character' if 'string' in kind else 'entry'} is needed"
    if kind in ("string_too_long", "too_long"):
        return f"must not have more than {context['max_length']}{got}"
    needed = _NEEDED.get(kind.partition("_")[0])
    if needed is None:
        return f"{error['msg']}{got}"
    if value is None:
        return f"{needed} (got nothing): write it, or remove the key"
    if kind == "tuple_type":
        return f"{needed}, {_as_list(value)}{got}"
    if kind in ("dict_type", "model_attributes_type", "model_type") and (keys := _as_keys(kind, value)):
        return f"{needed}, {keys}{got}"
    if kind in ("int_parsing", "float_parsing") and (number := _meant_number(value, whole=kind == "int_parsing")):
        return f"{needed}: write {number}{got}"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return f'{needed}{got}: put it in quotes, "{shown(value)}"'
    if kind == "int_from_float":
        return f"{needed}, without a fraction{got}"
    return f"{needed}{got}"


def _as_list(value: Any) -> str:
    """Say how the value is written as a list."""
    if isinstance(value, Mapping):
        name = next(iter(value), "")
        if value and all(isinstance(one, Mapping) for one in value.values()):  # entries under their names
            return f"write `- id: {name}` instead of `{name}:`"
        return "put `- ` before its first key"
    return f"such as [{value if isinstance(value, str) else shown(value)}]"


def _as_keys(kind: str, value: Any) -> str:
    """Say how a value that stands where keys belong is written with one; "" where nobody knows."""
    key, _, rest = value.partition(":") if isinstance(value, str) else ("", "", "")
    if rest and re.fullmatch(r"[\w.-]+", key) and not rest.startswith("//"):
        return f"with a blank after the `:`, such as `{key}: {rest}`"
    first = value[0] if isinstance(value, list) and value else value
    return f"such as `first: {first}`" if kind == "dict_type" and isinstance(first, str) else ""


def _meant_number(value: Any, *, whole: bool) -> str:
    """Return the number that people mean by 10k, 20%, 40,000 or 0,5; "" for another text."""
    found = re.fullmatch(r"([-+]?[\d.,]+)\s*([kKmM%]?)", value) if isinstance(value, str) else None
    if found is None:
        return ""
    digits, unit = found.groups()
    grouped = re.fullmatch(r"[-+]?[1-9]\d{0,2}(,\d{3})+(\.\d+)?", digits)
    digits = digits.replace(",", "") if grouped else digits.replace(",", ".")
    try:
        number = Decimal(digits).scaleb({"": 0, "k": 3, "m": 6, "%": -2}[unit.lower()])
    except InvalidOperation:
        return ""
    return "" if whole and number != int(number) else f"{number.normalize():f}"


def none_of(value: Any, known: list[str]) -> str:
    """Say that a value is none of the known ones, and which of them may be meant."""
    return f"{shown(value)} is none of {', '.join(known)}{did_you_mean(value, known)}"


def did_you_mean(value: Any, known: list[str]) -> str:
    """Return `; did you mean ...?` with the nearest of the known values, or "": upper and lower case are the same."""
    near = difflib.get_close_matches(value.lower(), known, n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]}?" if near else ""
