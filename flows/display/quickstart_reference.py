"""SimpleTuner's quickstart key by key: `python -m flows.display.quickstart_reference > docs/quickstart-keys.md`."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from sana.convert.markdown import left_out_table, mapped_table
from sana.convert.simpletuner import convert

_FOLDER = Path(__file__).parents[2] / "tests/quickstart"
_HEAD = """# The quickstart, key by key

Made by `python -m flows.display.quickstart_reference > docs/quickstart-keys.md` from the conversion itself, which a
test compares. How to convert your own files, and what is otherwise here:
[coming from SimpleTuner](coming-from-simpletuner.md).
"""


def page() -> str:
    """Return the page: the quickstart's two files, and what else it offers, as `sana convert-simpletuner` does."""
    quickstart = convert(_FOLDER / "config.json", _FOLDER / "multidatabackend.json")
    with TemporaryDirectory() as name:
        config = Path(name, "config.json")
        given = json.loads((_FOLDER / "config.json").read_text(encoding="utf-8"))
        more = json.loads((_FOLDER / "features.json").read_text(encoding="utf-8"))
        config.write_text(json.dumps({**given, **more}), encoding="utf-8")
        features = convert(config, _FOLDER / "multidatabackend.json")
    parts = [_HEAD]
    for heading, conversion, names in (
        ("The two files as they are", quickstart, None),
        ("What else it offers, turned on", features, frozenset(more)),
    ):
        parts += [f"## {heading}\n", mapped_table(conversion, names) + "\n"]
        if left := left_out_table(conversion, names):
            parts += ["Not carried over:\n", left + "\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(page())
