"""A copy of a store is the store itself: disk to S3 and back, killed on the way, damaged at its source."""

import random
from pathlib import Path
from uuid import uuid4

import pytest

from sana.data.shards.shard_tables import rows_by_shard
from sana.errors import SanaError
from sana.maintenance.copy import copy_root
from sana.maintenance.object_graph import INDEX, kind_of, read_object_graph
from sana.maintenance.verify import verify
from sana.pipeline.plan import plan
from sana.store import LocalStore, Store, open_store
from tests.maintained_stores import content, context_of, flip, only, store_of
from tests.pipeline_runs import Place
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(200)
STAGES = ("download", "probe", "bucket", "encode_captions", "encode_latents", "train", "evaluate", "sample")


def test_disk_to_s3_to_disk_is_the_same_store(place: Place, s3: WeedServer, tmp_path: Path) -> None:
    source = store_of(place)
    source.put_if_absent("probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet", b"orphaned")
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
    assert content(back) == content(source)
    # on a disk the exported model's folder is whole; S3 has each file of the base model once
    links = read_object_graph(source).links()
    assert len(links) > 5 and content(remote) == {k: v for k, v in content(source).items() if k not in links}
    assert all(Path(back.root, name).samefile(Path(back.root, key)) for name, key in links.items())
    assert not verify(remote).problems and not verify(back, deep=True).problems
    assert {p.state for p in plan(context_of(place, f"root={back.root}"), last="train")} == {"cached"}
    assert verify(remote, deep=True).problems == []


def test_a_copy_overwrites_nothing_and_copies_no_damaged_object(place: Place, tmp_path: Path) -> None:
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


def test_what_the_target_has_already_is_compared_and_with_deep_every_byte(place: Place, tmp_path: Path) -> None:
    source, target = store_of(place), LocalStore(str(tmp_path / "target"))
    copy_root(source, target, stages=STAGES)
    index = find_index(source)
    shard, rows = max(rows_by_shard(source.read(index)), key=lambda group: len(group[1]))
    middle = rows[len(rows) // 2]
    assert len(rows) > 2
    files = [file for one in read_object_graph(source).checkpoints.values() for file in one.files.values()]
    large = max(files, key=lambda file: file.num_bytes).key
    damage = [  # key, byte, whether it shows without deep
        (shard, rows[0]["offset"] - 10, True),  # of the header
        (shard, rows[0]["offset"] + 7, True),
        (shard, rows[-1]["offset"] + rows[-1]["num_bytes"] - 1, True),
        (shard, middle["offset"], False),
        (only(source, "file", "probe"), 100, True),
        (only(source, "metrics", "train"), 3, True),
        (large, 0, True),
        (large, source.size(large) - 1, True),
    ]
    for key, byte, shows in damage:
        flip(Path(target.root, key), byte)
        for deep in (False, True):
            if shows or deep:
                with pytest.raises(SanaError, match=f"{key} is there already.*nothing was copied"):
                    copy_root(source, target, stages=STAGES, deep=deep)
            else:
                assert copy_root(source, target, stages=STAGES).num_copied == 0
        flip(Path(target.root, key), byte)
    assert copy_root(source, target, stages=STAGES, deep=True).num_copied == 0


def find_index(store: Store) -> str:
    artifacts = read_object_graph(store).artifacts.values()
    return next(artifact.files[INDEX].key for artifact in artifacts if artifact.stage == "encode_latents")
