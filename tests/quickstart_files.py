"""SimpleTuner's quickstart: its two files, changed and converted."""

import json
from pathlib import Path

from sana.config.load import load_config
from sana.config.pipeline import Config
from sana.convert.conversion import Conversion
from sana.convert.simpletuner import convert
from sana.convert.yaml_text import yaml_text

QUICKSTART = Path(__file__).parent / "quickstart"
CONFIG = json.loads((QUICKSTART / "config.json").read_text())
BACKENDS = json.loads((QUICKSTART / "multidatabackend.json").read_text())


def files(folder: Path, config: dict | None = None, backends: list | None = None) -> tuple[Path, Path]:
    """The quickstart's two files, with changes."""
    paths = folder / "config.json", folder / "multidatabackend.json"
    paths[0].write_text(json.dumps({**CONFIG, **(config or {})}))
    paths[1].write_text(json.dumps(BACKENDS if backends is None else backends))
    return paths


def video(name: str = "disney", **changes) -> dict:
    """The quickstart's data set with changes; None takes a key away."""
    entry = {**BACKENDS[0], "id": name, **changes}
    return {key: value for key, value in entry.items() if value is not None}


def converted(folder: Path, config: dict | None = None, backends: list | None = None) -> tuple[Config, Conversion]:
    """Convert them, and load what was written."""
    conversion = convert(*files(folder, config, backends))
    out = folder / "out.yaml"
    out.write_text(yaml_text(conversion, title="a test"))
    return load_config(out), conversion


def all_keys(value, prefix: str = "") -> set[str]:
    """Dotted names of the keys of a JSON object that hold no object themselves."""
    names = set()
    for name, child in value.items():
        names |= all_keys(child, f"{prefix}{name}.") if isinstance(child, dict) else {f"{prefix}{name}"}
    return names


def accounted(conversion: Conversion) -> set[str]:
    """Names of the keys that a conversion mapped, did not carry over for a reason, or did not know."""
    mapped = {name for setting in conversion.settings for name in setting.theirs}
    return mapped | {key.name for key in conversion.not_carried + conversion.unknown}
