"""gc deletes orphaned objects and nothing else: not what a kept artifact or a running writer refers to."""

import os
import random
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from flows.cli.main import main
from sana.artifact import Draft, Recipe, find
from sana.counts import Counts
from sana.data.schemas import LATENTS
from sana.data.shards.shard import write_shard
from sana.data.shards.shard_tables import require_shards
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.maintenance.gc import delete_objects, find_orphaned_objects, orphaned_objects, outdated_records
from sana.maintenance.object_graph import ObjectGraph, kind_of, read_object_graph
from sana.maintenance.verify import verify
from sana.pipeline.plan import committed, plan
from sana.runtime.pool import Pool
from sana.store import Entry, LocalStore, StoreError
from tests.maintained_stores import content, context_of, only, store_of
from tests.pipeline_runs import Place, inline_workers, run_stages

pytestmark = pytest.mark.timeout(200)


def test_only_orphaned_objects_are_deleted(place: Place) -> None:
    store = store_of(place)
    before = content(store)
    pool = only(store, "shard", "encode_latents").rpartition("/shards/")[0]
    trajectory = only(store, "checkpoint", "train").split("/")[1]
    orphaned = [
        f"{pool}/shards/cafe-aaaaaaaaaaaa.safetensors",
        "probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet",
        f"train/{trajectory}/checkpoints/step_00000099/aaaaaaaaaaaa/weights.safetensors",
        f"train/{trajectory}/metrics/00000007-00000008-aaaaaaaaaaaa.jsonl",
        f"model/base/{'0' * 32}/config.json",
        f"probe-{'0' * 32}",
    ]
    kept = [f"train/{trajectory}/lease/00000007.json", "notes.txt", "train/notes/of/mine.txt"]
    for key in orphaned + kept:
        store.put_if_absent(key, b"{}")
    temp = Path(store.root, "probe/.tmp-0123")
    temp.write_bytes(b"torn")

    assert (
        find_orphaned_objects(read_object_graph(store), grace_s=3600)
        == []
        == store.incomplete_uploads(older_than_s=3600, delete=True)
    )
    main(["gc", "--root", store.root, "--grace-hours", "0"])
    assert temp.exists() and set(content(store)) == {*before, *orphaned, *kept}  # a dry run
    main(["gc", "--root", store.root, "--grace-hours", "0", "--delete"])
    assert not temp.exists() and content(store) == {**before, **dict.fromkeys(kept, b"{}")}
    assert {p.state for p in plan(context_of(place), last="train")} == {"cached"}


def test_a_compacted_table_goes_when_another_holds_all_its_parts() -> None:
    folder = "encode_latents/pool/x/compacted"
    held = {"2-a": ("ab", 10.0), "3-a": ("abc", 30.0), "4-a": ("abcd", 20.0), "2-b": ("xy", 1.0), "0-old": ("", 1.0)}
    graph = ObjectGraph(
        {f"{folder}/{name}.parquet": Entry(f"{folder}/{name}.parquet", 1, when) for name, (_, when) in held.items()},
        compacted_parts={f"{folder}/{name}.parquet": frozenset(parts) for name, (parts, _) in held.items()},
    )
    for key in graph.compacted_parts:
        graph.tables[key] = key
    gone = {thing.key.rpartition("/")[2]: thing.modified_at for thing in orphaned_objects(graph)}
    assert gone == {"2-a.parquet": 20.0, "3-a.parquet": 30.0}  # since a larger one came, or they themselves


def test_nothing_is_deleted_while_a_record_cannot_be_read(place: Place) -> None:
    store = store_of(place)
    os.truncate(Path(store.root, only(store, "part", "encode_latents")), 100)
    with pytest.raises(SanaError, match=r"parts/.*nothing is deleted"):
        find_orphaned_objects(read_object_graph(store), grace_s=0)


@pytest.mark.slow(group="stores")
def test_old_artifacts_are_deleted_except_those_that_kept_ones_read(place: Place) -> None:
    store = store_of(place)
    old = read_object_graph(store)
    before = time.time() + 1e-3
    time.sleep(0.01)
    smaller = ("bucket.buckets=[9x32x64,9x32x32,9x64x32]",)
    with inline_workers():
        new = run_stages(context_of(place, *smaller), last="encode_latents")
    found = read_object_graph(store)
    gone = {thing.key for thing in outdated_records(found, before=before)}
    dropped = {key.split("/")[0] for key in gone if kind_of(key) == "artifact"}
    # train is the newest of its stage, and it read the old latents and captions; those, by content, the old windows
    assert dropped == set()
    left = old.without({key for key in old.artifacts if key.startswith("train/")}).artifacts
    for key in set(old.artifacts) - set(left):
        store.delete(key)
    found = read_object_graph(store)
    orphaned = outdated_records(found, before=before)
    # the captions read which clips are left, in both buckets the same: so either bucket artifact is theirs
    assert {thing.key.split("/")[0] for thing in orphaned if kind_of(thing.key) == "artifact"} == {"encode_latents"}
    assert any(kind_of(thing.key) == "part" for thing in orphaned)
    going = find_orphaned_objects(found, grace_s=0.0, artifacts_older_than_s=time.time() - before)
    delete_objects(store, found, going)
    assert verify(store, deep=True).problems == [] and find_orphaned_objects(read_object_graph(store), grace_s=0) == []
    assert not any(key.startswith("encode_latents/") and key in dict(store.list("")) for key in gone)
    assert run_stages(context_of(place, *smaller), last="encode_latents").ran == []
    assert find(store, _recipe(place, smaller)) == new["bucket"]


def test_what_a_config_would_find_cached_is_kept_though_others_came_later(place: Place) -> None:
    store = store_of(place)
    mine = {state.artifact.key for state in committed(context_of(place)) if state.artifact}
    assert {key.partition("/")[0] for key in mine} >= {"download", "encode_latents", "train"}
    for key in mine:
        draft = Draft(store, Recipe(key.partition("/")[0], 0, {"of": "another config"}, {}))
        facts = TrainFacts("theirs", 0, "none", (), "none") if key.startswith("train/") else None
        draft.commit(content={"theirs": key}, counts=Counts.all_kept(0), facts=facts)
    found, later = read_object_graph(store), time.time() + 1
    gone = {thing.key.rpartition("/")[0] for thing in outdated_records(found, before=later)}
    assert mine & gone, "without a config its artifacts are not the newest"
    kept = find_orphaned_objects(found, grace_s=-1.0, artifacts_older_than_s=-1.0, in_use=mine)
    assert {kind_of(thing.key) for thing in kept} <= {"history"}
    orphaned = find_orphaned_objects(found, grace_s=-1.0, artifacts_older_than_s=-1.0)
    assert {thing.why for thing in orphaned if kind_of(thing.key) == "file"} == {"of a record that is deleted"}


def _recipe(place: Place, overrides: tuple[str, ...]):
    from sana.stages import bucket

    context = context_of(place, *overrides)
    return bucket.recipe(context, run_stages(context, last="probe").tables)


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
            row = {"sample_key": key, "reason": "", "detail": "", "provenance": "", **vars(where[key])}
            rows = pa.Table.from_pylist([row], schema=LATENTS)
            try:
                require_shards(store, rows)
            except StoreError as error:
                assert "run again" in str(error)
                late.append(writer)
            else:
                pool.commit_part(rows)

    def run_gc() -> None:
        while not stop.is_set():
            found = read_object_graph(store)
            delete_objects(store, found, find_orphaned_objects(found, grace_s=grace_s))

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    collector = threading.Thread(target=run_gc)
    for thread in (collector, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    collector.join()
    assert sorted(late) == [0, 1, 2, 3]  # each was too slow once, and got an error
    assert pool.rows().num_rows == 4 * 11
    assert verify(store, deep=True).problems == []
