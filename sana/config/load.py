"""Read a config: YAML, then `key=value` overrides, then every check at once."""

import json
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sana.config.pipeline import Config
from sana.config.places import at_home
from sana.config.problems import all_problems, passwords_in
from sana.config.renamed_keys import with_new_names
from sana.config.training.method_conflicts import check_base_weights
from sana.config.training.optimization.optimizer_support import check_package
from sana.config.yaml_reading import parse_yaml
from sana.errors import ConfigError
from sana.wording import counted

_HEAD = 4096  # bytes in which what is no text has a zero byte


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read `path`, apply overrides such as `train.learning_rate=1e-4`, and check everything.

    Raises:
        ConfigError: lists every mistake at once, each with the path of its key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no config {path}; `sana init SOURCE -o {path}` makes one") from error
    except UnicodeDecodeError as error:
        if b"\0" in error.object[:_HEAD] and error.object[:2] not in (BOM_UTF16_LE, BOM_UTF16_BE):
            raise ConfigError(f"config {path} is no text; a YAML file is needed") from error
        raise ConfigError(
            f"config {path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}; a YAML file is needed") from error
    raw = parse_yaml(text, where=str(path))
    if not isinstance(raw, dict):
        raise ConfigError(
            f"config {path} holds no keys, which are written `key: value`; configs/demo.yaml is a complete one"
        )
    return from_values(raw, overrides, where=str(path))


def from_values(raw: dict[str, Any], overrides: Sequence[str], *, where: str) -> Config:
    """Apply overrides to plain values, which they change, and check everything.

    Raises:
        ConfigError: lists every mistake at once.
    """
    for override in overrides:
        _apply_override(raw, override)
    if problems := passwords_in({name: part for name, part in raw.items() if name != "notifications"}):
        raise ConfigError(_listed(where, problems))
    _add_prompt_library(raw)
    return check(raw, where=where)


def check(raw: Mapping[str, Any], *, where: str) -> Config:
    """Validate plain values into a Config.

    Raises:
        ConfigError: lists every mistake at once.
    """
    values, renamed = with_new_names(raw)
    wrong: ValidationError | None = None
    found: list[str] = []
    try:
        config = Config.model_validate(values)
        if not renamed:
            check_package(config.train.optimizer.name)
            check_base_weights(config.train.base_weights)
            return config
    except ValidationError as error:
        wrong = error
        for problem in all_problems(values, error):
            if problem.remedy and problem.loc in renamed:  # the old name is the mistake: say all of it there
                renamed[problem.loc] += f", which needs {problem.remedy}"
            else:
                found.append(str(problem))
    raise ConfigError(_listed(where, [*renamed.values(), *found])) from wrong


def _listed(where: str, problems: Sequence[object]) -> str:
    lines = "\n".join(f"  {problem}" for problem in problems)
    return f"{where}: {counted(len(problems), 'mistake')}\n{lines}"


def _add_prompt_library(raw: dict[str, Any]) -> None:
    """Put the prompts of the file `sample.prompt_library` beside those in `sample.prompts`."""
    sample: Any = raw.get("sample")
    path = sample.get("prompt_library") if isinstance(sample, dict) else None
    if not isinstance(path, str) or not path:
        return  # none, or an error of `check`
    try:
        library = json.loads(at_home(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"sample.prompt_library: cannot read {path}: {error}") from error
    layout = '{"nickname": "prompt"} or {"nickname": {"prompt": "..."}}'
    if not isinstance(library, dict):
        raise ConfigError(f"sample.prompt_library: {path} is not {layout}")
    prompts = {}
    for name, value in library.items():
        prompts[name] = value.get("prompt") if isinstance(value, dict) else value
        if not isinstance(prompts[name], str):
            raise ConfigError(f"sample.prompt_library: {path}: {name!r} has no prompt; {layout} is needed")
    inline = sample.get("prompts") or {}
    if isinstance(inline, dict):
        duplicates = sorted(set(inline) & set(prompts))
        if duplicates:
            raise ConfigError(
                f"sample.prompt_library: {path} and sample.prompts both have {', '.join(duplicates)}; keep one"
            )
        sample["prompts"] = {**inline, **prompts}


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if key.strip().startswith("notifications"):  # a secret may have been given in place of its name
        override = f"{key}=..."
    if not separator or not key.strip():
        raise ConfigError(f"override {override!r} is not key=value, for example train.learning_rate=1e-4")
    node, rest = raw, key.strip()
    while True:
        name, rest = _split_first(node, rest)
        if not rest:
            break
        node = _child(node, name, override)
    if isinstance(node, list):
        node[_index(node, name, override)] = parse_yaml(value, where=f"override {override!r}")
    else:
        node[name] = parse_yaml(value, where=f"override {override!r}")


def _split_first(node: Any, path: str) -> tuple[str, str]:
    """Split the first name off a dotted path; in a list of data sets it may be an id, which may contain dots."""
    for name in sorted(_item_ids(node), key=len, reverse=True):
        if path == name or path.startswith(f"{name}."):
            return name, path[len(name) + 1 :]
    name, _, rest = path.partition(".")
    return name, rest


def _item_ids(node: Any) -> list[str]:
    """Return the ids in a list, in its order."""
    items = node if isinstance(node, list) else []
    return [str(item["id"]) for item in items if isinstance(item, dict) and "id" in item]


def _child(node: Any, name: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, name, override)]
    if node.get(name) is None:
        node[name] = {}
    if not isinstance(node[name], dict | list):
        shown = node[name] if "notifications" not in override else "..."
        raise ConfigError(f"override {override!r}: {name} is a value ({shown!r}), it has no keys below it")
    return node[name]


def _index(node: list[Any], name: str, override: str) -> int:
    """Return the position of an item that is named by its id or by its position."""
    ids = _item_ids(node)
    if name in ids and len(ids) == len(node):
        return ids.index(name)
    if not name.isdigit() or int(name) >= len(node):
        known_ids = f", nor one of its ids: {', '.join(ids[:8])}" if ids else ""
        raise ConfigError(f"override {override!r}: {name!r} is not a position in a list of {len(node)}{known_ids}")
    return int(name)
