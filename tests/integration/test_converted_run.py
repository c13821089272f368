"""A config converted from SimpleTuner's quickstart runs: the demo's clips, the tiny model, one override a line."""

from pathlib import Path

import pytest

from sana.config.load import load_config
from sana.context import Context
from sana.convert.simpletuner import convert
from sana.convert.yaml_text import yaml_text
from sana.facts import TrainFacts
from sana.pipeline.graph import stages_of
from sana.store import open_store
from tests.pipeline_runs import inline_workers, new_place, run_stages

QUICKSTART = Path(__file__).parents[1] / "quickstart"


@pytest.mark.timeout(300)
def test_the_quickstart_converted_trains_on_the_demo(tmp_path: Path, tiny_model: Path) -> None:
    place = new_place(tmp_path, tiny_model)
    path = tmp_path / "my.yaml"
    conversion = convert(QUICKSTART / "config.json", QUICKSTART / "multidatabackend.json")
    path.write_text(yaml_text(conversion, title="the quickstart"))
    config = load_config(
        path,
        [
            f"root={place.root}",
            f"work_dir={place.folder / 'work'}",
            f"model.path={place.model}",
            f"download.datasets.0.source={place.clips}",
            "download.datasets.0.max_rejected_fraction=0.2",
            "bucket.buckets=[9x64x96, 9x96x64]",
            "bucket.min_frames=9",
            "bucket.minimum_image_size=null",
            "bucket.eval_fraction=0.3",
            "train.max_steps=4",
            "train.resources.checkpoint_every=2",
            "sample.bucket=5x64x96",
            "sample.prompts={cat: a cat}",
            "sample.num_inference_steps=2",
        ],
    )
    context = Context(config, open_store(config.root), Path(config.work_dir))
    with inline_workers():
        done = run_stages(context)
        assert run_stages(context).ran == []
    assert done.ran == list(stages_of(config))
    assert done["download"].counts.num_in == 16 and done["encode_latents"].counts.num_rejected == 0
    assert TrainFacts.of(done["train"]).step == 4
    assert done["sample"].counts.num_out == 1
    assert sorted(p.name for p in place.clips.iterdir()) == sorted(
        p.name for p in (QUICKSTART.parents[1] / "configs/demo/clips").iterdir()
    ), "sources are only read"
