"""Tables as the probe stage writes them, without any video."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from sana.arrow import table_of
from sana.data.schemas import PROBED


def probed(clips: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Return a table PROBED with a row per clip: columns not given are plausible; ids and digest are its own."""
    rows = []
    for number, clip in enumerate(clips):
        row = {field.name: _plain(field.type) for field in PROBED}
        name = hashlib.blake2b(str(number).encode(), digest_size=10).hexdigest()
        row |= {"clip_id": name, "source_id": name, "digest": name, "dataset": "demo", "path": f"{name}.mp4"}
        row |= {"width": 832, "height": 480, "num_frames": 81, "fps": 16.0, **clip}
        rows.append({**row, "duration_s": clip.get("duration_s", row["num_frames"] / row["fps"])})
    return table_of(rows, PROBED)


def _plain(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return "x"
    return False if pa.types.is_boolean(kind) else 1
