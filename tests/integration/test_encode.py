"""Encode: the same samples for any number of workers, part size and batch; clips that kill a worker; the command."""

import json
import os
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import pytest

import sana.workers.encode_latents as work
from flows.cli.encode_worker import place as worker_place
from sana.artifact import Artifact
from sana.context import Context
from sana.data.shards.shard import Location, read_tensor
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.pipeline.plan import inputs_of
from sana.progress import Progress
from sana.stages import encode_captions
from sana.stages import encode_latents as stage
from sana.store import open_store
from tests.forked import forked_workers
from tests.pipeline_runs import Place, inline_workers, new_place, run_stages

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    """The demo's clips up to bucket; each test encodes them into a root of its own."""
    place = new_place(tmp_path_factory.mktemp("encode"), tiny_model)
    run_stages(place.context(), last="bucket")
    return place


@pytest.fixture(scope="module")
def reference(bucketed: Place, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    with inline_workers():
        return encode(bucketed, tmp_path_factory.mktemp("reference"))[0]


def at_root(place: Place, root: Path, *overrides: str) -> tuple[Context, dict[str, Artifact]]:
    """Return the context and the inputs of the stage, whose tables are in the first root and whose pool in `root`."""
    context = place.context(*(f"encode_latents.{text}" for text in overrides))
    inputs = inputs_of(context, stage.NAME)
    data = context.store.read(inputs["windows"].files["clips.parquet"].key)
    store = open_store(str(root))
    store.put_if_absent(inputs["windows"].files["clips.parquet"].key, data)
    config = context.config.model_copy(update={"root": str(root)})
    return replace(context, config=config, store=store), inputs


def encode(place: Place, root: Path, *overrides: str) -> tuple[Artifact, Context]:
    context, inputs = at_root(place, root, *overrides)
    return stage.run(context, inputs), context


def assert_readable(context: Context, artifact: Artifact) -> None:
    """Every latent is there and has the digest that its row, and so the artifact's content, says."""
    rows = read_table(context.store, artifact, "index.parquet").to_pylist()
    assert len(rows) == artifact.counts.num_out
    for row in rows:
        read_tensor(context.store, Location.of(row))


@pytest.mark.parametrize(("workers", "part", "threads"), [(1, 100, 4), (2, 4, 1), (3, 1, 2)])
def test_any_number_of_workers_and_part_size_gives_the_same(
    bucketed: Place, reference: Artifact, tmp_path: Path, workers: int, part: int, threads: int
) -> None:
    resources = {"num_workers": workers, "samples_per_part": part, "decode_threads": threads}
    with forked_workers() as launches:
        made, context = encode(bucketed, tmp_path, *(f"resources.{name}={value}" for name, value in resources.items()))
    assert launches == [workers]
    assert made.content == reference.content and made.counts == reference.counts
    assert_readable(context, made)


def test_a_batch_is_filled_up_so_that_parts_do_not_show(bucketed: Place, tmp_path: Path, batch: int = 3) -> None:
    with inline_workers():
        whole = encode(bucketed, tmp_path / "whole", f"batch_size={batch}")[0]
        single = encode(bucketed, tmp_path / "single", f"batch_size={batch}", "resources.samples_per_part=1")[0]
    assert whole.content == single.content


def test_machines_take_their_own_parts_then_help(bucketed: Place, reference: Artifact, tmp_path: Path) -> None:
    """Machine 1 of 3 is alone at first and does everything; the others find nothing to do; the run only commits."""
    heard: list[Progress] = []
    context, inputs = at_root(bucketed, tmp_path, "resources.samples_per_part=3")
    with forked_workers() as launches:
        assert stage.encode_partition(context, inputs, index=1, count=3) == 13
        assert stage.encode_partition(context, inputs, index=0, count=3) == 0
        made = stage.run(replace(context, report=heard.append), inputs)
    assert launches == [1]
    assert made.content == reference.content and made.counts.extra["encoded"] == 0 and not heard
    with pytest.raises(ValueError, match="worker 3 of 3"):
        stage.encode_partition(context, inputs, index=3, count=3)


def kill_at(digest: str, tried: Path) -> None:
    """Let the decoder crash, as a damaged file can make C code do, whenever it is given this video."""
    read_window = work.read_window

    def read(path: Path, row: dict) -> object:
        if row["digest"] == digest:
            with tried.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGSEGV)
        return read_window(path, row)

    work.read_window = read  # this process is a worker's, and ends with it


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_kills_its_worker_twice_is_rejected(
    bucketed: Place, reference: Artifact, tmp_path: Path, workers: int
) -> None:
    context, inputs = at_root(bucketed, tmp_path, f"resources.num_workers={workers}", "resources.samples_per_part=2")
    victim = read_table(context.store, inputs["windows"], "clips.parquet").to_pylist()[4]
    with forked_workers(partial(kill_at, victim["digest"], tmp_path / "tried")) as launches:
        made = stage.run(context, inputs)
    assert (tmp_path / "tried").read_text() == "xx" and len(launches) == 3
    rejected = read_table(context.store, made, "rejects.parquet").to_pylist()
    assert [(row["path"], row["reason"]) for row in rejected] == [(victim["path"], "killed_worker")]
    assert made.counts.num_in == made.counts.num_out + 1 == reference.counts.num_in
    assert not list((context.work_dir / "crash_journals").iterdir())


def test_the_command_knows_its_place() -> None:
    assert worker_place({}, None, None) == (0, 1)
    assert worker_place({"RANK": "1", "WORLD_SIZE": "2"}, None, None) == (1, 2)
    slurm = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "RANK": "1", "WORLD_SIZE": "2"}
    assert worker_place(slurm, None, None) == (3, 8)
    assert worker_place({**slurm, "SANA_WORKER": "0", "SANA_WORKERS": "1"}, None, None) == (0, 1)
    assert worker_place(slurm, 2, 5) == (2, 5)
    with pytest.raises(click.UsageError, match="belong together"):
        worker_place({}, 1, None)
    with pytest.raises(click.UsageError, match="worker 5 of 5"):
        worker_place({}, 5, 5)


def test_the_command_encodes_and_leaves_the_index_to_the_run(
    bucketed: Place, reference: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli.main import main

    sets = (f"root={tmp_path / 'root'}", f"work_dir={tmp_path / 'work'}", f"model.path={bucketed.model}")
    sets += (f"download.datasets.0.source={bucketed.clips}",)
    arguments = ["encode-worker", "configs/demo.yaml", *(part for text in sets for part in ("-s", text))]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit):
        main(arguments)
    assert "sana run CONFIG --until bucket" in capsys.readouterr().err
    place = Place(bucketed.folder, bucketed.model, str(tmp_path / "root"))
    with inline_workers():
        run_stages(place.context(f"work_dir={tmp_path / 'work'}"), last="bucket")
        main([*arguments, "--index", "1", "--count", "2"])
    assert "worker 1 of 2: all of 13 samples" in capsys.readouterr().out
    assert not list((tmp_path / "root/encode_latents").glob("*/artifact.json"))
    with inline_workers():
        made = run_stages(place.context(f"work_dir={tmp_path / 'work'}"), last="encode_latents")["encode_latents"]
    assert made.counts.extra["encoded"] == 0 and made.content == reference.content


def test_a_prompt_library_is_its_content(bucketed: Place, tmp_path: Path) -> None:
    library = tmp_path / "library.json"
    library.write_text(json.dumps({"just_<token>": "a portrait of <token>", "woman": {"prompt": "a woman"}}))
    config = bucketed.config(f"sample.prompt_library={library}")
    expected = {**bucketed.config().sample.prompts, "just_<token>": "a portrait of <token>", "woman": "a woman"}
    assert config.sample.prompts == expected
    moved = library.rename(tmp_path / "moved.json")
    assert bucketed.config(f"sample.prompt_library={moved}").sample.hashed() == config.sample.hashed()
    wrong = {"[]": "is not", '{"a": 1}': "has no prompt", '{"bunny": "x"}': "both have bunny", "{": "cannot read"}
    for text, message in wrong.items():
        moved.write_text(text)
        with pytest.raises(SanaError, match=f"sample.prompt_library.*{message}"):
            bucketed.config(f"sample.prompt_library={moved}")


@pytest.mark.parametrize("padding", ["pipeline", "short"])
def test_captions_do_not_depend_on_parts(bucketed: Place, padding: str) -> None:
    found = []
    for texts_per_part in (100, 3):
        context = bucketed.context(
            f"encode_captions.padding={padding}",
            "encode_captions.batch_size=3",
            f"encode_captions.resources.texts_per_part={texts_per_part}",
        )
        salted = replace(context, salt=f"{texts_per_part}")  # a pool of its own
        with inline_workers():
            found.append(encode_captions.run(salted, inputs_of(context, encode_captions.NAME)))
    assert found[0].content == found[1].content
    assert found[0].counts.extra["encoded"] == found[0].counts.num_in > 10
