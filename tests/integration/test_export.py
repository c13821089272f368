"""A copy of a store is the store itself: disk to S3 and back, killed on the way, damaged at its source."""

import random
from pathlib import Path
from uuid import uuid4

import pytest

from flows.plan import plan
from sana.care.references import kind_of
from sana.care.transfer import copy_root
from sana.care.verify import verify
from sana.errors import SanaError
from sana.store import LocalStore, open_store
from tests.cared_stores import content, context_of, flip, only, store_of
from tests.pipeline_runs import Place
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(200)
STAGES = ("download", "probe", "bucket", "encode_captions", "encode_latents", "train", "evaluate", "sample")


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
