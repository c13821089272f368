"""Encode: the same samples for any number of workers, part size and batch; clips that crash a worker; the command."""

import json
import os
import shlex
import signal
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

import sana.data.video.windows_ahead as ahead
from flows.cli.encode_worker import place as worker_place
from sana.artifact import Artifact
from sana.context import Context
from sana.data.shards.shard import Location, read_tensor
from sana.data.sources.source import open_sources
from sana.data.tables import read_table
from sana.data.video.video import to_pixels
from sana.errors import SanaError
from sana.model.model_resolver import resolve_model
from sana.pipeline.plan import inputs_of
from sana.progress import Progress
from sana.runtime.crash_journal import CrashJournal
from sana.runtime.pool import slices
from sana.stages import encode_captions
from sana.stages import encode_latents as stage
from sana.store import open_store
from tests.forked import forked_workers
from tests.pipeline_runs import SMALLER, Place, inline_workers, new_place, run_alone, run_stages

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def bucketed(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Place:
    """The demo's clips up to bucket; each test encodes them into a root of its own."""
    place = new_place(tmp_path_factory.mktemp("encode"), tiny_model)
    with inline_workers():
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
    return run_alone(stage, context, inputs), context


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


def test_a_batch_is_filled_up_so_that_parts_have_no_effect(bucketed: Place, tmp_path: Path, batch: int = 2) -> None:
    with inline_workers():
        whole = encode(bucketed, tmp_path / "whole", f"batch_size={batch}")[0]
        single = encode(bucketed, tmp_path / "single", f"batch_size={batch}", "resources.samples_per_part=1")[0]
    assert whole.content == single.content


def test_a_compiled_vae_has_an_address_of_its_own_and_a_cache(
    bucketed: Place, reference: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches: list[Path] = []
    compiled = "sana.workers.encode_latents.compile_encoder"  # compiling itself: tests/unit/test_compiled_vae.py
    monkeypatch.setattr(compiled, lambda _vae, *, cache: caches.append(cache))
    with inline_workers():
        made, _ = encode(bucketed, tmp_path, "compile=true")
    assert caches == [bucketed.folder / "work" / "cache" / "compiled"]
    assert made.fingerprint != reference.fingerprint and made.content == reference.content


def test_machines_take_their_own_parts_then_help(bucketed: Place, reference: Artifact, tmp_path: Path) -> None:
    """Machine 1 of 3 is alone at first and does everything; the others find nothing to do; the run only commits."""
    heard: list[Progress] = []
    context, inputs = at_root(bucketed, tmp_path, "resources.samples_per_part=3")
    with forked_workers() as launches:
        assert stage.encode_partition(context, inputs, index=1, count=3) == 13
        assert stage.encode_partition(context, inputs, index=0, count=3) == 0
        made = run_alone(stage, replace(context, report=heard.append), inputs)
    assert launches == [1]
    assert made.content == reference.content and made.counts.extra["encoded"] == 0 and not heard
    there = stage.pooled(context, inputs)
    assert (there.counts.num_out + there.counts.num_rejected, there.num_wanted) == (13, 13)
    assert there.counts.num_rejected == made.counts.num_rejected and there.folder.startswith("encode_latents/pool/")
    with pytest.raises(ValueError, match="worker 3 of 3"):
        stage.encode_partition(context, inputs, index=3, count=3)


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 9), max_size=4), num_ahead=st.integers(0, 4))
def test_lanes_take_turns_and_no_row_is_left_out(sizes: list[int], num_ahead: int) -> None:
    """A lane that is asked for a row while it makes another raises."""
    parts = [[{"part": number, "row": row} for row in range(size)] for number, size in enumerate(sizes)]
    asked = 0

    def decode(rows: Sequence[dict]) -> Generator[dict]:
        nonlocal asked
        assert [row["row"] for row in rows] == list(range(rows[0]["row"], rows[-1]["row"] + 1))
        for row in rows:
            asked += 1
            time.sleep(0.0005)
            yield row

    seen: list[dict] = []
    for number, row, future in ahead.decode_ahead(parts, decode, num_ahead):
        assert future.result() is row and row["part"] == number
        seen.append(row)
        assert asked <= len(seen) + num_ahead
    assert sorted(seen, key=itemgetter("part", "row")) == [row for part in parts for row in part]
    assert [row["part"] for row in seen] == sorted(row["part"] for row in seen)


def test_windows_of_one_video_are_the_same_in_any_part_and_lane(
    bucketed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And are decoded in one pass as far as a lane goes."""
    context = bucketed.context("bucket.window=stride", "bucket.windows_per_clip=4", "bucket.window_stride=6")
    run_stages(context, last="bucket")
    nothing_there = replace(context, salt="none")
    model = resolve_model(context.config.model, work_dir=context.work_dir)
    rows = stage._tensors(nothing_there, inputs_of(context, stage.NAME), model).missing().to_pylist()
    videos = sorted({row["digest"] for row in rows})[:4]
    rows = [row for row in rows if row["digest"] in videos]
    assert len(rows) > 2 * len(videos)
    passes: list[int] = []

    def read(path: Path, windows: Sequence[dict]) -> Iterator[object]:
        passes.append(len(windows))
        return read_windows(path, windows)

    read_windows = ahead.read_windows
    monkeypatch.setattr(ahead, "read_windows", read)
    sources = open_sources(context.config, work_dir=tmp_path)
    found = []
    for part_size, threads in ((1, 0), (100, 2), (7, 1)):
        passes.clear()
        decode = ahead.WindowDecoder(sources, CrashJournal(tmp_path / "journal"), frozenset(), to_pixels)
        items = ahead.decode_ahead(slices(rows, part_size), decode, threads)
        found.append({row["sample_key"]: xxh3_64_hexdigest(future.result()) for _, row, future in items})
        assert sum(passes) == len(rows) and len(passes) <= len(videos) + len(rows) // part_size + threads + 1
    assert found[0] == found[1] == found[2] and len(found[0]) == len(rows)


def crash_at(digest: str, tried: Path) -> None:
    """Let the decoder crash, as a damaged file can make C code do, whenever it is given this video."""
    read_windows = ahead.read_windows

    def read(path: Path, windows: Sequence[dict]) -> Iterator[object]:
        if windows[0]["digest"] == digest:
            with tried.open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGSEGV)
        yield from read_windows(path, windows)

    ahead.read_windows = read  # this process is a worker's, and ends with it


@pytest.mark.parametrize("workers", [1, 2])
def test_a_clip_that_crashes_its_worker_twice_is_rejected(
    bucketed: Place, reference: Artifact, tmp_path: Path, workers: int
) -> None:
    context, inputs = at_root(bucketed, tmp_path, f"resources.num_workers={workers}", "resources.samples_per_part=2")
    crashing = read_table(context.store, inputs["windows"], "clips.parquet").to_pylist()[4]
    with forked_workers(partial(crash_at, crashing["digest"], tmp_path / "tried")) as launches:
        made = run_alone(stage, context, inputs)
    # two workers may have it open at once when the first of them dies: one crash of the stage, two tries
    tried = (tmp_path / "tried").read_text()
    assert len(launches) == 3 and tried in ("xx", "xxx"[: workers + 1])
    rejected = read_table(context.store, made, "rejects.parquet").to_pylist()
    assert [(row["path"], row["reason"]) for row in rejected] == [(crashing["path"], "killed_worker")]
    assert made.counts.num_in == made.counts.num_out + 1 == reference.counts.num_in
    assert not list((context.work_dir / "crash_journals").iterdir())


def test_the_command_reads_its_worker_number() -> None:
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
    sets += (f"download.datasets.0.source={bucketed.clips}", *SMALLER)
    arguments = ["encode-worker", "configs/demo.yaml", *(part for text in sets for part in ("-s", text))]
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(Path(__file__).parents[2])
    with pytest.raises(SystemExit):
        main(arguments)
    same = shlex.join(arguments[1:])
    assert capsys.readouterr().err.rstrip().endswith(f"; first: sana run {same} --until bucket")
    place = Place(bucketed.folder, bucketed.model, str(tmp_path / "root"))
    with inline_workers():
        run_stages(place.context(f"work_dir={tmp_path / 'work'}"), last="bucket")
        main([*arguments, "--index", "1", "--count", "2"])
    said = capsys.readouterr().out
    assert "worker 1 of 2: all of 13 samples" in said and f"when all have ended: sana run {same}\n" in said
    assert not list((tmp_path / "root/encode_latents").glob("*/artifact.json"))
    with inline_workers():
        made = run_stages(place.context(f"work_dir={tmp_path / 'work'}"), last="encode_latents")["encode_latents"]
    assert made.counts.extra["encoded"] == 0 and made.content == reference.content


def test_a_prompt_library_is_hashed_by_content(bucketed: Place, tmp_path: Path) -> None:
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
            "encode_captions.batch_size=2",
            f"encode_captions.resources.texts_per_part={texts_per_part}",
        )
        salted = replace(context, salt=f"{texts_per_part}")  # a pool of its own
        with inline_workers():
            found.append(run_alone(encode_captions, salted, inputs_of(context, encode_captions.NAME)))
    assert found[0].content == found[1].content
    assert found[0].counts.extra["encoded"] == found[0].counts.num_in > 10
