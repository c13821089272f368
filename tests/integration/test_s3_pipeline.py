"""The whole pipeline with its root in a bucket of a real S3 server."""

from pathlib import Path

import pytest
from diffusers import SanaVideoPipeline

from sana.facts import TrainFacts
from sana.maintenance.export_model import export_model
from sana.pipeline.plan import plan
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint_io import load_weights, weights_digest
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.s3_server import WeedServer


@pytest.mark.timeout(300)
def test_the_pipeline_on_s3_and_a_rerun_that_does_nothing(
    s3: WeedServer, trained: tuple[Place, Outcome], tmp_path: Path, tiny_model: Path
) -> None:
    place = new_place(tmp_path, tiny_model, root=f"s3://{s3.bucket}/pipeline")
    run_stages(place.context(), last="encode_captions")  # in a worker process, as in life
    with inline_workers():
        outcome = run_stages(place.context())
    assert outcome.ran == ["encode_latents", "train", "evaluate", "sample"]
    before = place.context().store.list("")
    assert run_stages(place.context()).ran == []
    assert {p.state for p in plan(place.context())} == {"cached"}
    assert place.context().store.list("") == before
    # a laptop and a bucket agree: the same addresses and contents, up to what was asked for on the folder
    local = trained[1].artifacts
    assert list(local) == ["download", "probe", "bucket", "encode_captions", "encode_latents", "train"]
    for name in list(local)[:-1]:
        artifact = local[name]
        assert (artifact.fingerprint, artifact.content) == (outcome[name].fingerprint, outcome[name].content)
    # S3 has the base model's files once, and no folder of the export: export-model puts it together
    store, folder = place.context().store, tmp_path / "model"
    train = outcome["train"]
    bases = {info.key for name, info in train.files.items() if info.key.startswith("model/base/")}
    assert len(bases) > 5 and not store.exists(f"{TrainFacts.of(train).model}/model_index.json")
    export_model(store, train, LocalStore(str(folder)))
    pipe = SanaVideoPipeline.from_pretrained(folder)
    facts = TrainFacts.of(train)
    ema = load_weights(store, facts.trajectory, facts.step, which="ema")
    assert weights_digest(pipe.transformer.state_dict()) == weights_digest(ema)
    for name in ("text_encoder", "vae"):
        parts = (getattr(one, name).state_dict() for one in (pipe, SanaVideoPipeline.from_pretrained(tiny_model)))
        assert weights_digest(next(parts)) == weights_digest(next(parts))
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {
        "scheduler", "text_encoder", "tokenizer", "transformer", "vae"
    }  # fmt: skip
