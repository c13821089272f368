"""The content of the demo's data, stage by stage: measured, and compared with what is recorded beside the tests.

    python -m tests.golden_content           # compare
    python -m tests.golden_content --write   # record anew, after a change that was meant

Of download, probe and bucket the content digests themselves are recorded. The encode stages' tensors depend in their
last bits on the CPU's kernels, so of them everything but the tensors is: keys, splits, shapes, dtypes and counts.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from sana.data.tables import content_digest, read_table
from sana.pipeline.graph import stage
from tests.pipeline_runs import Place, as_shipped, inline_workers, new_place, run_stages

PATH = Path(__file__).parent / "golden/content.json"
REWRITE = "python -m tests.golden_content --write"
ENCODED = ("encode_captions", "encode_latents")
# what differs from machine to machine, or is not content: where a tensor is, its bytes, who made it
_NOT_COMPARED = {"shard", "offset", "digest", "provenance"}


def measure(place: Place) -> dict[str, Any]:
    """Run download to encode_latents in this process and return {stage: {version, content, counts}}."""
    context = place.context(*as_shipped())
    with inline_workers():
        done = run_stages(context, last="encode_latents")
    found = {}
    for name, artifact in done.artifacts.items():
        content = dict(artifact.content)
        if name in ENCODED:
            content = {"index": _digest(read_table(context.store, artifact, "index.parquet"))}
        told = artifact.counts
        counts = {"in": told.num_in, "out": told.num_out, "rejected": told.num_rejected}
        counts |= {f"rejected.{reason}": num for reason, num in told.reasons.items()}
        found[name] = {"version": stage(name).VERSION, "content": content, "counts": counts}
    return found


def _digest(index: pa.Table) -> str:
    for number, field in enumerate(index.schema):
        if pa.types.is_boolean(field.type):
            index = index.set_column(number, field.name, index.column(number).cast(pa.int8()))
    return content_digest(index, [name for name in index.schema.names if name not in _NOT_COMPARED])


def differences(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return what does not agree, and what is to be done about it; nothing when all is as recorded."""
    told = []
    for name in sorted({*recorded, *measured}):
        old, new = recorded.get(name), measured.get(name)
        if old is None or new is None:
            told.append(f"{name}: the stage is new or gone; record the content anew: {REWRITE}")
        elif old["version"] != new["version"]:
            told.append(f"{name}: VERSION is {new['version']}, recorded was {old['version']}; record anew: {REWRITE}")
        elif old != new:
            parts = [f"{kind} {old[kind]} -> {new[kind]}" for kind in ("content", "counts") if old[kind] != new[kind]]
            told.append(
                f"{name}: the same config and clips give other content under the same VERSION {new['version']}: "
                f"{'; '.join(parts)}. If that is meant, raise VERSION in sana/stages/{name}.py and record it: {REWRITE}"
            )
    return told


def main() -> None:
    """Compare or record, with a tiny model and a copy of the demo's clips in a temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="record what is measured")
    write = parser.parse_args().write
    from sana.model.tiny_model import build_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        build_tiny_model(Path(folder) / "tiny")
        measured = measure(new_place(Path(folder) / "place", Path(folder) / "tiny"))
    if write:
        PATH.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
        print(f"wrote {PATH}")
        return
    told = differences(json.loads(PATH.read_text()), measured)
    print("\n".join(told) or f"all as recorded in {PATH}")
    sys.exit(1 if told else 0)


if __name__ == "__main__":
    main()
