"""What was trained is used: a video of any prompt, and an exported model that stock diffusers loads."""

from pathlib import Path
from uuid import uuid4

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from flows.cli.main import main
from flows.display.show import load_lines
from sana.artifact import Artifact
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.maintenance.export_model import LAST, export_model
from sana.pipeline import graph
from sana.pipeline.run import Run, run_stages
from sana.store import LocalStore, Store, open_store
from sana.training.checkpoints.checkpoint_io import load_weights
from tests.maintained_stores import context_of, flip, store_of
from tests.pipeline_runs import SMALLER, Outcome, Place, inline_workers
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(200)
SAMPLE = ("sample.num_inference_steps=2", "sample.bucket=5x64x96")


def options(place: Place, *more: str) -> list[str]:
    values = [
        f"work_dir={place.folder}/work", f"model.path={place.model}", f"download.datasets.0.source={place.clips}",
        *SMALLER, "train.max_steps=2", *SAMPLE, *more,
    ]  # fmt: skip
    return ["--root", place.root, *(x for value in values for x in ("-s", value))]


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_generate_with_a_prompt_of_the_config_makes_the_video_of_the_sample_stage(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = place.config().sample.prompts["bunny"]
    with inline_workers(), Run(context_of(place, *SAMPLE)) as run:
        sample = run_stages(run, [name for name in graph.until(run.context.config, "sample") if name != "evaluate"])[-1]
    sampled = store_of(place).read(sample.artifact.files["bunny.mp4"].key)
    with inline_workers():
        main(["generate", "configs/demo.yaml", prompt, *options(place), "--out", str(tmp_path / "a.mp4")])
        main(
            ["generate", "configs/demo.yaml", prompt, *options(place), "--out", str(tmp_path / "b.mp4"), "--seed", "5"]
        )
        main(
            ["generate", "configs/demo.yaml", prompt, *options(place, "sample.preview_every=1"), "--preview", "--out"]
            + [str(tmp_path / "c.mp4")]
        )
    assert (tmp_path / "a.mp4").read_bytes() == sampled
    assert (tmp_path / "b.mp4").read_bytes() != sampled
    assert (tmp_path / "c.mp4").read_bytes() == sampled, "previews change nothing"
    assert [path.name for path in sorted((tmp_path / "c-previews").iterdir())] == ["0001.png", "0002.png"]
    printed = capsys.readouterr().out
    assert "a.mp4  (5x64x96, 2 steps, seed 0, ema weights of step 2)" in printed and "seed 5" in printed


def test_generate_takes_the_newest_checkpoint_of_a_training_that_is_not_finished(
    trained: tuple[Place, Outcome], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, _ = trained
    out = str(tmp_path / "c.mp4")
    with inline_workers():
        main(["generate", "configs/demo.yaml", "a hill", *options(place, "train.max_steps=9"), "--out", out])
    assert "ema weights of step 2 of 9" in capsys.readouterr().out and Path(out).stat().st_size > 0


def test_what_is_not_there_is_one_line(trained: tuple[Place, Outcome], capsys: pytest.CaptureFixture[str]) -> None:
    place, _ = trained
    other = options(place, "train.learning_rate=0.5")
    assert "not even a checkpoint; make them: sana run" in error_of(
        capsys, "generate", "configs/demo.yaml", "a", *other
    )
    assert "no finished training" in error_of(capsys, "export-model", "configs/demo.yaml", "--to", "x", *other)
    assert "the prompt is empty" in error_of(capsys, "generate", "configs/demo.yaml", " ", *options(place))
    bad = ["generate", "configs/demo.yaml", "a", *options(place)]
    assert "is not there; make it" in error_of(capsys, *bad, "--out", "no/such/folder/a.mp4")
    assert "sample.bucket" in error_of(capsys, *bad, "--bucket", "6x64x96")
    wrong = error_of(capsys, "export-model", "configs/demo.yaml", "--to", "ftp://x", *options(place))
    assert wrong.startswith("error: --to: ")


def test_an_exported_model_is_the_trained_one_on_a_disk_and_in_a_bucket(
    trained: tuple[Place, Outcome], s3: WeedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, outcome = trained
    folder = tmp_path / "model"
    main(["export-model", "configs/demo.yaml", "--to", str(folder), *options(place)])
    printed = capsys.readouterr().out
    assert f"SanaVideoPipeline.from_pretrained({str(folder)!r})" in printed
    facts = TrainFacts.of(outcome["train"])
    ema = load_weights(store_of(place), facts.trajectory, facts.step, which="ema")
    loaded = SanaVideoTransformer3DModel.from_pretrained(folder, subfolder="transformer").state_dict()
    assert set(loaded) == set(ema) and all(torch.equal(loaded[name], ema[name].float()) for name in ema)

    target = f"s3://{s3.bucket}/model-{uuid4().hex}"
    main(["export-model", "configs/demo.yaml", "--to", target, *options(place)])
    local, remote = LocalStore(str(folder)), open_store(target)
    names = [name for name, _ in local.list("")]
    assert local.list("") == remote.list("") and remote.read(LAST) == local.read(LAST)

    (folder / LAST).unlink()  # as if it had been killed
    again = export_model(store_of(place), outcome["train"], local)
    assert (again.num_copied, again.num_present) == (1, len(names) - 1)


def test_an_export_overwrites_nothing_and_copies_no_damaged_file(
    trained: tuple[Place, Outcome], tmp_path: Path
) -> None:
    place, outcome = trained
    store, train = store_of(place), outcome["train"]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes.txt").write_text("mine")
    with pytest.raises(SanaError, match=r"already holds notes.txt \(1 files that are not of this model\)"):
        export_model(store, train, LocalStore(str(tmp_path / "own")))
    target = LocalStore(str(tmp_path / "other"))
    target.put_if_absent(LAST, b"{}")
    with pytest.raises(SanaError, match="is of another model, or damaged: nothing was copied"):
        export_model(store, train, target)
    assert [name for name, _ in target.list("")] == [LAST]

    copied = LocalStore(str(tmp_path / "store"))
    damaged = copied_files(train, store, copied)
    flip(Path(copied.root, damaged), -3)
    with pytest.raises(SanaError, match="is damaged: it is not what train wrote"):
        export_model(copied, train, LocalStore(str(tmp_path / "new")))
    assert not LocalStore(str(tmp_path / "new")).exists(LAST)


def copied_files(train: Artifact, store: Store, target: Store) -> str:
    """Copy the files of the model; returns the key of its largest."""
    files = [info for name, info in train.files.items() if name.startswith("model/")]
    for info in files:
        target.put_if_absent(info.key, store.read(info.key))
    return max(files, key=lambda info: info.num_bytes).key


def test_the_lines_that_load_a_model() -> None:
    assert load_lines("/a/b") == ["from diffusers import SanaVideoPipeline",
                                  "pipe = SanaVideoPipeline.from_pretrained('/a/b')"]  # fmt: skip
    assert load_lines("s3://a/b")[0].startswith("copy it") and "'FOLDER'" in load_lines("s3://a/b")[2]
