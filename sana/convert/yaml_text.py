"""Write a conversion as YAML that people read: sections in order, the reason of each value beside it."""

import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from sana.convert.conversion import Conversion, Setting, Unmapped
from sana.convert.unsupported_keys import SECRETS

WIDTH = 120
# plain where no reader could take it for anything else; all other text is quoted
_PLAIN = re.compile(r"[A-Za-z/_.][A-Za-z/_](?:[\w ./,()<>-]|:(?=[^ ]))*|\d+x\d+x\d+", re.ASCII)
_SECTIONS = {
    "model": "the model to start from",
    "download": "the data sets",
    "probe": "what is found in the videos",
    "bucket": "shapes, windows of frames and crops",
    "encode_features": "an image encoder's features of frames, for train.crepa",
    "encode_captions": "captions to embeddings",
    "encode_latents": "windows of clips to latents",
    "train": "training",
    "evaluate": "the eval loss: held-out clips, fixed noise levels and noise",
    "sample": "validation videos, after training",
    "tracking": "records",
}


def yaml_text(conversion: Conversion, *, title: str) -> str:
    """Return the config as YAML; what is not carried over is a comment at its end."""
    tree: dict[str, Any] = {}
    for setting in conversion.settings:
        *parents, last = setting.key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = setting
    rows = [*_comment(title, ""), *_comment("What is not named here has its default: configs/sana_video_480p.yaml", "")]
    for name, node in tree.items():
        if name in _SECTIONS:
            rows += ["", f"# {name}: {_SECTIONS[name]}"]
        rows += _emit(conversion, {name: node}, "")
    for heading, keys in (("Not carried over", conversion.not_carried), ("Not known", conversion.unknown)):
        if keys:
            rows += ["", f"# {heading}:"]
            for key in keys:
                rows += _comment(f"  {key.name} ({shown(key)}): {key.why}", "", hanging="    ")
    return "\n".join(rows) + "\n"


def shown(key: Unmapped) -> str:
    """Return the value as it may be shown: in short, and no secret."""
    if key.value is not None and any(part in key.name.lower() for part in SECRETS):
        return "***"
    text = " ".join(str(key.value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def scalar(value: Any) -> str:
    """Return a value on one line of YAML that reads back as itself."""
    if isinstance(value, list):
        return f"[{', '.join(scalar(item) for item in value)}]"
    text = str(value)
    if isinstance(value, str) and not (_PLAIN.fullmatch(text) and text == text.strip() and _reads_back(text)):
        quoted = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=True)
        return quoted.strip()
    if isinstance(value, float):  # 480 and 5e-5, not 480.0 and 5.0e-05
        return text.removesuffix(".0") if "e" not in text else re.sub(r"e([+-])0", r"e\1", text)
    return text if isinstance(value, str) else text.lower()  # true and false


def _reads_back(text: str) -> bool:
    return bool(yaml.safe_load(text) == text)  # not yes, null, true and their like


def _emit(conversion: Conversion, node: dict[str, Any], pad: str) -> Iterator[str]:
    for name, child in node.items():
        if isinstance(child, Setting):
            theirs = [conversion.short(name) for name in child.theirs]
            yield from _with_comment(f"{pad}{scalar(name)}: {scalar(child.value)}", child, pad, theirs)
        elif all(key.isdigit() for key in child):
            yield f"{pad}{name}:"
            for item in child.values():
                rows = list(_emit(conversion, item, f"{pad}    "))
                first = next(number for number, row in enumerate(rows) if not row.lstrip().startswith("#"))
                rows[first] = f"{pad}  - {rows[first].lstrip()}"
                yield from rows
        else:
            yield f"{pad}{scalar(name)}:"
            yield from _emit(conversion, child, f"{pad}  ")


def _with_comment(text: str, setting: Setting, pad: str, theirs: Sequence[str]) -> list[str]:
    names = [name for name in theirs if name.rpartition(".")[2] != setting.key.rpartition(".")[2]]
    origin = f"[{', '.join(names)}]" if names else ""  # none where the name is the same
    why = one_line(" ".join(part for part in (setting.why, origin) if part))
    if not why:
        return [text]
    beside = f"{text} # {why}"
    return [beside] if len(beside) <= WIDTH else [*_comment(why, pad), text]


def one_line(text: str) -> str:
    """Return text that cannot end the comment it is in: a quoted value may hold any character."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _comment(text: str, pad: str, hanging: str = "") -> list[str]:
    clean = text if hanging else " ".join(text.split())
    return textwrap.wrap(
        one_line(clean),
        WIDTH,
        break_on_hyphens=False,
        initial_indent=f"{pad}# ",
        subsequent_indent=f"{pad}# {hanging}",
    )
