"""One folder as two data sets, the usual way to train at several resolutions: nothing is lost, nothing is leaked."""

import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from flows.cli.main import cli
from sana.artifact import Artifact
from sana.config.load import load_config
from sana.context import Context
from sana.data.tables import read_table
from sana.pipeline.graph import until
from sana.pipeline.run import Run
from sana.pipeline.run import run_stages as run_limited
from sana.store import open_store
from tests.pipeline_runs import CLIPS, Place, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Some of the demo's clips, one of them twice."""
    made = new_place(tmp_path, Path("no-model"))
    for path in CLIPS.glob("bunny-01.*"):
        shutil.copy(path, made.clips / f"again{path.suffix}")
    return made


def rows(context: Context, artifact: Artifact, name: str = "clips.parquet") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = read_table(context.store, artifact, name).to_pylist()
    return found


@pytest.mark.parametrize("duplicates", ["reject", "keep"])
def test_both_data_sets_keep_their_clips_and_share_one_split(place: Place, duplicates: str) -> None:
    datasets = f"[{{id: lo, source: {place.clips}}}, {{id: hi, source: {place.clips}, bucket: {{buckets: [9x64x64]}}}}]"
    context = place.context(
        f"download.datasets={datasets}",
        f"probe.duplicates={duplicates}",
        "bucket.holdout=[]",
        "bucket.eval_fraction=0.3",
    )
    with inline_workers():
        done = run_stages(context, last="bucket")
    probed, rejected = rows(context, done["probe"]), rows(context, done["probe"], "rejects.parquet")
    per_dataset = {name: {one["path"] for one in probed if one["dataset"] == name} for name in ("lo", "hi")}
    copies = [(one["dataset"], one["detail"]) for one in rejected if one["reason"] == "duplicate"]
    assert sorted(name for name, _ in copies) == (["hi", "lo"] if duplicates == "reject" else [])
    assert all(detail.startswith(f"the same content as {name}: ") for name, detail in copies)
    assert len(per_dataset["lo"]) == len(per_dataset["hi"]) >= 12
    assert done["probe"].counts.extra["opened"] == len({one["digest"] for one in rows(context, done["download"])})

    sides = defaultdict(set)
    for window in rows(context, done["bucket"]):
        sides[window["digest"]].add((window["split"], window["dataset"]))
    assert all(len({split for split, _ in found}) == 1 for found in sides.values())
    assert {split for found in sides.values() for split, _ in found} == {"train", "eval"}
    assert any({name for _, name in found} == {"lo", "hi"} for found in sides.values())


# SimpleTuner's usual way to train at several resolutions; its own output and caches lie beside the videos
TWO_RESOLUTIONS = [
    {"id": f"vid-{size}", "type": "local", "dataset_type": "video", "instance_data_dir": "DATA", "crop": False,
     "caption_strategy": "textfile", "resolution": size, "resolution_type": "pixel", "video": {"num_frames": frames},
     "cache_dir_vae": f"DATA/cache-{size}", "repeats": 1}
    for size, frames in ((480, 13), (256, 9))
]  # fmt: skip


@pytest.mark.parametrize("also_eval", [False, True])
def test_what_is_converted_runs_as_it_is(place: Place, also_eval: bool) -> None:
    for bad in ("corrupt-00", "nocaption-00", "short-00", "towers-03"):
        for path in place.clips.glob(f"{bad}.*"):
            path.unlink()
    (place.clips / "cache-480").mkdir()
    (place.clips / "cache-480/bunny-01.pt").write_bytes(b"latents")
    (place.clips / "cache-480/settings.json").write_text("{}")
    entries = [*TWO_RESOLUTIONS, {"id": "te", "type": "local", "dataset_type": "text_embeds", "cache_dir": "cache"}]
    if also_eval:
        entries.append({**TWO_RESOLUTIONS[1], "id": "ev", "dataset_type": "eval"})
    settings = {"model_family": "sanavideo", "output_dir": "DATA/out", "max_train_steps": "10", "train_batch_size": 1}
    for name, values in (("config", settings), ("mdb", entries)):
        text = json.dumps(values).replace("DATA", str(place.clips))
        (place.folder / f"{name}.json").write_text(text)
    done = CliRunner().invoke(
        cli, ["convert-simpletuner", *(f"{place.folder}/{name}.json" for name in ("config", "mdb")),
              "-o", f"{place.folder}/my.yaml"]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    config = load_config(f"{place.folder}/my.yaml")
    context = Context(config, open_store(config.root), Path(config.work_dir))
    with inline_workers(), Run(context) as run:
        made = {one.stage: one.artifact for one in run_limited(run, until(config, "bucket"))}
    windows = rows(context, made["bucket"])
    assert {one["dataset"] for one in windows} == {"vid-480", "vid-256"}
    assert made["bucket"].counts.num_rejected == 0 and len(windows) == 2 * len({one["path"] for one in windows})
    sides = [{one["digest"] for one in windows if one["split"] == split} for split in ("train", "eval")]
    assert all(sides) and not sides[0] & sides[1]
