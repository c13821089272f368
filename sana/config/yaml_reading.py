"""YAML as people write configs: its values, and what is wrong with a text that is no YAML, with place and hint."""

import re
from typing import Any

import yaml

from sana.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML as users expect it, which is 1.2: `no`, `on`, 007, 16:9 and 2024-01-01 are text, and 5e-5 is a number.

    A key is text, whatever it looks like, and one that is given twice is an error. `yes`, `no`, `on` and `off` are
    taken where a setting is true or false.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # an error in the base class
            if key_node.value in seen and key_node.value != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key_node.value!r} is given twice; remove one", key_node.start_mark
                )
            seen.add(key_node.value)
            if (first := key_node.value[:1]).isspace() and not first.isascii():
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"before the key {key_node.value.strip()!r} is a blank that is no space (U+{ord(first):04X}); "
                    "indent with spaces",
                    key_node.start_mark,
                )
            if key_node.tag != "tag:yaml.org,2002:merge":
                key_node.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


_RESOLVERS = {  # the kinds of plain values in YAML 1.2's core schema, and numbers as 1_000 and .inf
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "null": (r"~|null|Null|NULL|", "~nN\0"),
    "int": (r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
    "merge": (r"<<", "<"),
}
_Loader.yaml_implicit_resolvers = {}
for _kind, (_pattern, _first) in _RESOLVERS.items():
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}",
        re.compile(rf"^(?:{_pattern})$"),
        ["" if character == "\0" else character for character in _first],
    )

_QUOTES = "put the text in quotes"
# What is usually meant where PyYAML's problem, or what it was reading, matches.
_HINTS = (
    (r"while scanning an alias|undefined alias", f"a text that begins with * is an alias: {_QUOTES}, '*.mp4'"),
    (r"found character '\\t'", "indent with spaces, not with tabs"),
    (r"found character '.'", f"a text cannot begin with this: {_QUOTES}"),
    (r"constructor for the tag", f"a text that begins with ! is a tag: {_QUOTES}"),
    (r"unknown escape", "in double quotes \\ begins an escape: use single quotes, or / in paths"),
    (r"mapping values are not allowed", f"if a text has ': ' in it, {_QUOTES}; else look at the indentation"),
    (r"quoted scalar.*end of stream", "the quote is not closed"),
    (r"expected ',' or '[]}]'", "the bracket is not closed, or a text in it needs quotes"),
    (r"expected <block end>, but found '<scalar>'", "text follows a closing quote or bracket: put all of it in quotes"),
    (r"expected <block end>|could not find expected ':'", "the indentation fits no line above, or a `:` is missing"),
    (r"'<document start>'", "keys are written `key: value`, all of them below each other"),
    (r"expected a single document", "remove the line ---"),
    (r"(keys|entries) are not allowed|block scalar|node content", f"{_QUOTES}, if it is a text"),
)
# What PyYAML says where a line without a blank after its `:`, a text for it, was joined with the one below.
_JOINED = r"mapping values are not allowed|could not find expected ':'"
_NO_BLANK = re.compile(r"\s*(?:- +)*([\w.-]+):(?!//)\S")


def _lacks_blank(text: str, line: int) -> str:
    """Say which of the lines up to `line` lacks the blank after its key, or "": the nearest above that is joined."""
    lines = text.splitlines()[: line + 1]
    for number in range(len(lines), max(len(lines) - 3, 0), -1):
        if found := _NO_BLANK.match(lines[number - 1]):
            return f"line {number} lacks a blank after `{found[1]}:`"
    return ""


def parse_yaml(text: str, *, where: str) -> Any:
    """Return the plain values of a YAML text.

    Raises:
        ConfigError: it is no YAML; names the line, and what is usually meant.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with stricter rules
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        hint = _lacks_blank(text, mark.line) if mark and re.search(_JOINED, said) else ""
        hint = hint or next((hint for pattern, hint in _HINTS if re.search(pattern, said)), "")
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{where} is not valid YAML: {at}{said}" + (f"; {hint}" if hint else "")) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{where} is not valid YAML: line {line} holds the character U+{ord(text[error.position]):04X}, which no "
            "text has; remove it, if this is a config"
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is not valid YAML: brackets are nested too deep; is one left open?") from error
