"""Care of the store: damage is found, named and healed; litter goes and nothing else; a copy is the store itself."""

import os
import random
import shlex
import shutil
import threading
import time
from pathlib import Path
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch

from flows.cli.inspect import find_sample
from flows.cli.main import main
from flows.plan import plan
from sana.artifact import find
from sana.care.collect import find_litter, orphans, outdated, remove
from sana.care.references import Survey, kind_of, survey
from sana.care.shards import require_shards
from sana.care.transfer import copy_root
from sana.care.verify import verify, withdraw
from sana.context import Context
from sana.data.manifest import read_table
from sana.data.pool import Pool
from sana.data.schemas import LATENTS
from sana.data.shard import write_shard
from sana.errors import SanaError
from sana.store import Entry, LocalStore, Store, StoreError, open_store
from sana.work.inspect_sample import contact_sheet, psnr_db
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(200)
STAGES = ("download", "probe", "bucket", "encode_captions", "encode_latents", "train", "evaluate", "sample")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Place, Outcome]:
    place = new_place(tmp_path_factory.mktemp("care"), tiny_model)
    with inline_workers():
        return place, run_stages(context_of(place), last="train")


@pytest.fixture
def place(trained: tuple[Place, Outcome], tmp_path: Path) -> Place:
    """A root of its own, with the artifacts up to train."""
    shutil.copytree(trained[0].root, tmp_path / "root")
    return Place(trained[0].folder, trained[0].model, str(tmp_path / "root"))


def context_of(place: Place, *overrides: str) -> Context:
    return place.context("train.max_steps=2", *overrides)


def store_of(place: Place) -> LocalStore:
    return LocalStore(place.root)


def content(store: Store) -> dict[str, bytes]:
    return {key: store.read(key) for key, _ in store.list("")}


def only(store: Store, kind: str, stage: str) -> str:
    return next(key for key, _ in store.list(stage) if kind_of(key) == kind)


def test_a_sound_store_is_sound_and_known(place: Place) -> None:
    store = store_of(place)
    health = verify(store, deep=True)
    assert health.problems == health.superseded == []
    assert {kind_of(key) for key, _ in store.list("")} >= {"artifact", "part", "shard", "checkpoint", "metrics", "file"}
    assert "unknown" not in {kind_of(key) for key, _ in store.list("")}
    for stage in health.stages.values():
        assert stage.ok == stage.num_objects and stage.orphans == 0
    assert find_litter(survey(store), grace_s=0) == []


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


# (what, kind of object, stage, damage, whether sizes, tables and headers show it)
DAMAGE = [
    ("a bit of a sample", "shard", "encode_latents", lambda path: flip(path, -100), False),
    (
        "a bit of a header",
        "shard",
        "encode_latents",
        lambda path: flip(path, path.read_bytes().index(b"F16") + 1),
        True,
    ),
    ("a short shard", "shard", "encode_captions", lambda path: os.truncate(path, path.stat().st_size - 1), True),
    ("no shard", "shard", "encode_latents", lambda path: path.unlink(), True),
    ("a short part", "part", "encode_latents", lambda path: os.truncate(path, path.stat().st_size // 2), True),
    ("no table", "file", "bucket", lambda path: path.unlink(), True),
    ("a bit of a table", "file", "probe", lambda path: flip(path, 100), False),
    ("a bit of a checkpoint", "checkpoint file", "train", lambda path: flip(path, -100), False),
    ("a short metrics segment", "metrics", "train", lambda path: os.truncate(path, 10), True),
]


@pytest.mark.parametrize(
    ("kind", "stage", "damage", "shows"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE]
)
def test_damage_is_found_and_withdrawn(place: Place, kind: str, stage: str, damage, shows: bool) -> None:
    store = store_of(place)
    key = only(store, kind, stage)
    damage(Path(store.root, key))
    assert {problem.key for problem in verify(store).problems} == ({key} if shows else set())
    health = verify(store, deep=True)
    assert {problem.key for problem in health.problems} == {key}
    assert sum(found.damaged + found.missing for found in health.stages.values()) == 1
    before = set(dict(store.list("")))
    gone = withdraw(store, health.problems)
    assert set(gone) == before - set(dict(store.list(""))) and {kind_of(k) for k in gone} <= {
        "artifact", "part", "compacted", "checkpoint",
    }  # fmt: skip
    assert verify(store, deep=True).problems == []  # what is left is sound


def test_healing_makes_again_only_what_was_damaged(place: Place, trained: tuple[Place, Outcome]) -> None:
    store = store_of(place)
    flip(Path(store.root, only(store, "shard", "encode_latents")), -100)
    withdraw(store, verify(store, deep=True).problems)
    with inline_workers():
        healed = run_stages(context_of(place), last="train")
    assert healed.ran == ["encode_latents"]  # train reads equal content, so it stays
    assert healed["encode_latents"].content == trained[1]["encode_latents"].content
    assert healed["encode_latents"].counts["encoded"] < 13
    assert verify(store, deep=True).problems == []


def test_litter_goes_and_nothing_else(place: Place) -> None:
    store = store_of(place)
    before = content(store)
    pool = only(store, "shard", "encode_latents").rpartition("/shards/")[0]
    trajectory = only(store, "checkpoint", "train").split("/")[1]
    litter = [
        f"{pool}/shards/cafe-aaaaaaaaaaaa.safetensors",
        "probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet",
        f"train/{trajectory}/checkpoints/step_00000099/aaaaaaaaaaaa/weights.safetensors",
        f"train/{trajectory}/metrics/00000007-00000008-aaaaaaaaaaaa.jsonl",
        f"probe-{'0' * 32}",
    ]
    kept = [f"train/{trajectory}/lease/00000007.json", "notes.txt", "train/notes/of/mine.txt"]
    for key in litter + kept:
        store.put_if_absent(key, b"{}")
    temp = Path(store.root, "probe/.tmp-0123")
    temp.write_bytes(b"torn")

    assert find_litter(survey(store), grace_s=3600) == [] == store.leavings(older_than_s=3600, delete=True)
    main(["gc", "--root", store.root, "--grace-hours", "0"])
    assert temp.exists() and set(content(store)) == {*before, *litter, *kept}  # a dry run
    main(["gc", "--root", store.root, "--grace-hours", "0", "--delete"])
    assert not temp.exists() and content(store) == {**before, **dict.fromkeys(kept, b"{}")}
    assert {p.state for p in plan(context_of(place), last="train")} == {"cached"}


def test_a_compacted_table_goes_when_another_holds_all_its_parts() -> None:
    folder = "encode_latents/pool/x/compacted"
    held = {"2-a": ("ab", 10.0), "3-a": ("abc", 30.0), "4-a": ("abcd", 20.0), "2-b": ("xy", 1.0), "0-old": ("", 1.0)}
    found = Survey(
        {f"{folder}/{name}.parquet": Entry(f"{folder}/{name}.parquet", 1, when) for name, (_, when) in held.items()},
        folded={f"{folder}/{name}.parquet": frozenset(parts) for name, (parts, _) in held.items()},
    )
    for key in found.folded:
        found.tables[key] = key
    gone = {thing.key.rpartition("/")[2]: thing.modified_at for thing in orphans(found)}
    assert gone == {"2-a.parquet": 20.0, "3-a.parquet": 30.0}  # since a larger one came, or they themselves


def test_gc_knows_nothing_of_what_a_damaged_record_needs(place: Place) -> None:
    store = store_of(place)
    os.truncate(Path(store.root, only(store, "part", "encode_latents")), 100)
    with pytest.raises(SanaError, match=r"parts/.*nothing is deleted"):
        find_litter(survey(store), grace_s=0)


@pytest.mark.slow
def test_old_artifacts_go_but_for_what_kept_ones_read(place: Place) -> None:
    store = store_of(place)
    old = survey(store)
    before = time.time() + 1e-3
    time.sleep(0.01)
    smaller = ("bucket.buckets=[9x96x160,9x128x128,9x160x96]",)
    with inline_workers():
        new = run_stages(context_of(place, *smaller), last="encode_latents")
    found = survey(store)
    gone = {thing.key for thing in outdated(found, before=before)}
    dropped = {key.split("/")[0] for key in gone if kind_of(key) == "artifact"}
    # train is the newest of its stage, and it read the old latents and captions; those, by content, the old windows
    assert dropped == set()
    left = old.without({key for key in old.artifacts if key.startswith("train/")}).artifacts
    for key in set(old.artifacts) - set(left):
        store.delete(key)
    found = survey(store)
    litter = outdated(found, before=before)
    # the captions read which clips are left, in both buckets the same: so either bucket artifact is theirs
    assert {thing.key.split("/")[0] for thing in litter if kind_of(thing.key) == "artifact"} == {"encode_latents"}
    assert any(kind_of(thing.key) == "part" for thing in litter)
    going = find_litter(found, grace_s=0.0, artifacts_older_than_s=time.time() - before)
    remove(store, found, going)
    assert verify(store, deep=True).problems == [] and find_litter(survey(store), grace_s=0) == []
    assert not any(key.startswith("encode_latents/") and key in dict(store.list("")) for key in gone)
    assert run_stages(context_of(place, *smaller), last="encode_latents").ran == []
    assert find(store, _recipe(place, smaller)) == new["bucket"]


def _recipe(place: Place, overrides: tuple[str, ...]):
    from sana.stages import bucket

    context = context_of(place, *overrides)
    return bucket.recipe(context, run_stages(context, last="probe").artifacts)


def test_gc_in_a_loop_takes_nothing_from_writers(tmp_path: Path) -> None:
    """Four writers put shards and commit parts, some too slowly, while gc deletes everything older than its grace."""
    store, grace_s, stop = LocalStore(str(tmp_path)), 0.5, threading.Event()
    pool = Pool(store, "encode_latents", "busy", schema=LATENTS, id_column="sample_key")
    late: list[int] = []

    def write(writer: int) -> None:
        draw = random.Random(writer)
        for number in range(12):
            key = f"{writer}-{number}"
            where = write_shard(store, f"{pool.folder}/shards", key, {key: torch.zeros(4)})
            time.sleep(1.2 if number == 5 else draw.random() * 0.1)
            row = {"sample_key": key, "reason": "", "detail": "", "made_by": "", **vars(where[key])}
            rows = pa.Table.from_pylist([row], schema=LATENTS)
            try:
                require_shards(store, rows)
            except StoreError as error:
                assert "run again" in str(error)
                late.append(writer)
            else:
                pool.commit_part(rows)

    def collect() -> None:
        while not stop.is_set():
            found = survey(store)
            remove(store, found, find_litter(found, grace_s=grace_s))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    collector = threading.Thread(target=collect)
    for thread in (collector, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    collector.join()
    assert sorted(late) == [0, 1, 2, 3]  # each was too slow once, and was told
    assert pool.rows().num_rows == 4 * 11
    assert verify(store, deep=True).problems == []


def test_disk_to_s3_to_disk_is_the_same_store(place: Place, s3: WeedServer, tmp_path: Path) -> None:
    source = store_of(place)
    source.put_if_absent("probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet", b"litter")
    remote = open_store(f"s3://{s3.bucket}/export-{uuid4().hex}")
    copy_root(source, remote, stages=STAGES)
    for key in random.Random(0).sample([key for key, _ in remote.list("")], 9):  # as if it had been killed
        remote.delete(key)
    again = copy_root(source, remote, stages=STAGES)
    assert again.num_copied == 9
    back = LocalStore(str(tmp_path / "back"))
    copy_root(remote, back, stages=STAGES, staging=tmp_path)
    assert copy_root(remote, back, stages=STAGES).num_copied == 0
    source.delete("probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet")
    assert content(back) == content(source) == content(remote)
    assert {p.state for p in plan(context_of(place, f"root={back.root}"), last="train")} == {"cached"}
    assert verify(remote, deep=True).problems == []


def test_a_copy_overwrites_nothing_and_takes_no_damage(place: Place, tmp_path: Path) -> None:
    source, target = store_of(place), LocalStore(str(tmp_path / "target"))
    own = only(source, "artifact", "bucket")
    target.put_if_absent(own, b"the target's own")
    assert copy_root(source, target, stages={"download", "probe", "bucket"}).kept == [own]
    assert target.read(own) == b"the target's own"
    assert {key.split("/")[0] for key, _ in target.list("")} == {"download", "probe", "bucket"}

    flip(Path(source.root, shard := only(source, "shard", "encode_latents")), -100)
    with pytest.raises(SanaError, match="not the digest"):
        copy_root(source, target, stages={"encode_latents"})
    assert not target.exists(shard)
    assert not [key for key, _ in target.list("encode_latents") if kind_of(key) in ("artifact", "part")]


def test_the_command_line_names_the_damage_and_the_cure(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "--root", place.root, "--deep"])
    assert "sound" in capsys.readouterr().out
    shard = only(store_of(place), "shard", "encode_latents")
    flip(Path(place.root, shard), -100)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--root", place.root, "--deep"])
    told = capsys.readouterr().out
    assert ended.value.code == 1
    [line, *_] = [line for line in told.splitlines() if line.startswith(f"damaged: {shard}")]
    cure = line.partition("to heal: ")[2].partition(", then: ")[0]
    with pytest.raises(SystemExit):
        main(shlex.split(cure)[1:])
    assert "2 records were withdrawn" in capsys.readouterr().out  # the cure, as it is printed, is one
    main(["verify", "--root", place.root, "--deep"])


@pytest.mark.parametrize("command", [["verify"], ["export", "--to", "elsewhere"]])
def test_a_root_with_nothing_in_it_is_not_said_to_be_well(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--root", str(tmp_path / "mistyped")])
    captured = capsys.readouterr()
    assert ended.value.code == 1
    assert str(tmp_path / "mistyped") in captured.err
    assert "right root" in captured.err
    assert "sound" not in captured.out
    assert list(tmp_path.iterdir()) == []


def test_a_sample_is_found_by_what_people_know_of_it(trained: tuple[Place, Outcome]) -> None:
    place, outcome = trained
    store = store_of(place)
    index = read_table(store, outcome["encode_latents"], "index.parquet")
    windows = read_table(store, outcome["bucket"], "clips.parquet")
    ids = dict(zip(windows.column("path").to_pylist(), windows.column("sample_id").to_pylist(), strict=True))
    assert find_sample("bunny-01.mp4", index, windows) == ids["bunny-01.mp4"]
    assert find_sample(ids["bunny-02.mp4"], index, windows) == ids["bunny-02.mp4"]
    assert find_sample(ids["bunny-02.mp4"][:12], index, windows) == ids["bunny-02.mp4"]
    with pytest.raises(SanaError, match=r"near it: .*bunny-0"):
        find_sample("buny-01.mp4", index, windows)
    with pytest.raises(SanaError, match="13 samples"):
        find_sample("", index, windows)
    assert pc.all(pc.is_in(index.column("sample_id"), value_set=windows.column("sample_id").combine_chunks())).as_py()


def test_inspect_shows_the_source_beside_the_latent(trained: tuple[Place, Outcome], tmp_path: Path) -> None:
    place, _ = trained
    arguments = ["-s", f"work_dir={place.folder}/work", "-s", f"model.path={place.model}", "--root", place.root]
    arguments += ["-s", f"download.datasets.0.source={place.clips}"]
    with inline_workers():
        main(["inspect", "configs/demo.yaml", "bunny-01.mp4", *arguments, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"side_by_side.mp4", "contact_sheet.png", "sample.json"}
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    assert psnr_db(frames, frames) == 99.0
    assert psnr_db(frames, frames + 255) == pytest.approx(0.0)
    facts = {"path": "a.mp4", "bucket": "5x64x96", "first_frame": 0, "last_frame": 4, "psnr_db": 0.0, "captions": []}
    sheet = np.asarray(contact_sheet(frames + 200, frames + 10, facts))
    assert (sheet == 200).all(axis=2).sum() > 50_000 and (sheet == 10).all(axis=2).sum() > 50_000
