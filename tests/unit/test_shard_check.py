"""The check before training: any damage of a shard is one clear error, and a valid store passes."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sana.arrow import table_of, to_parquet
from sana.artifact import Draft, Recipe
from sana.counts import Counts
from sana.data.loading.loader import Samples, load_samples
from sana.data.schemas import WINDOWS
from sana.data.shards.shard import DamagedSampleError, read_header
from sana.data.shards.shard_check import check_samples
from sana.model.tiny_model import CAPTION_CHANNELS
from sana.workers.train import train
from tests.s3_server import WeedServer
from tests.training_store import NUM_TRAIN, Encoded, build_encoded, train_config, train_job

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def encoded(tmp_path: Path) -> Encoded:
    return build_encoded(tmp_path / "store")


def splits(encoded: Encoded) -> list[Samples]:
    return [load_samples(encoded.store, encoded.latents, encoded.captions, split) for split in ("train", "eval")]


def check(encoded: Encoded, *, caption_channels: int = CAPTION_CHANNELS) -> list[tuple[int, int]]:
    """Check both splits; returns the reported progress."""
    progress: list[tuple[int, int]] = []
    check_samples(
        encoded.store, splits(encoded), caption_channels=caption_channels, on_shard=lambda *at: progress.append(at)
    )
    return progress


def first_shard(encoded: Encoded) -> Path:
    path = encoded.store.local_path(splits(encoded)[0].tensors["latents"].shard(0))
    assert path is not None
    return path


def test_a_valid_store_passes_and_progress_is_reported(encoded: Encoded) -> None:
    assert check(encoded) == [(1, 3), (2, 3), (3, 3)]  # two buckets, one shard of captions


def test_a_header_lists_the_tensors_of_its_shard(encoded: Encoded) -> None:
    samples = splits(encoded)[0]
    for guess in (8, 100, 4096):  # of the header's length: only the number of requests depends on it
        entries = read_header(encoded.store, samples.tensors["latents"].shard(0), guess=guess)
        where = samples.tensors["latents"][0]
        assert entries[where.offset] == (where.num_bytes, "fp16", where.shape)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _rewrite_header(path: Path, edit: Callable[[dict], None]) -> None:
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(next(iter(header.values())))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(length)
    assert len(text) == length
    path.write_bytes(data[:8] + text + data[8 + length :])


def _transpose(entry: dict) -> None:
    entry["shape"] = [16, 2, 12, 8]


def _retype(entry: dict) -> None:
    entry["dtype"] = "I16"


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "is gone"),
    "empty": (lambda path: os.truncate(path, 0), "has 0 bytes, too few for the header"),
    "stump": (lambda path: os.truncate(path, 100), "has 100 bytes, too few for the header"),
    "truncated": (_truncate, r"has \d+ bytes where its header needs \d+"),
    "longer": (_grow, r"has \d+ bytes where its header needs \d+"),
    "noise": (lambda path: path.write_bytes(b"\x10" + bytes(7) + b"\xff" * 4000), "has a damaged header"),
    "no header": (lambda path: path.write_bytes(b"\x02" + bytes(7) + b"[]"), "has a damaged header"),
    "shape": (
        lambda path: _rewrite_header(path, _transpose),
        r"has fp16 \(16, 2, 12, 8\) at byte \d+, where .* 8, 12\)",
    ),
    "dtype": (lambda path: _rewrite_header(path, _retype), r"has I16 .*where the index row says fp16"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_named_with_its_sample_and_the_repair(encoded: Encoded, damage: str) -> None:
    do_damage, what = DAMAGE[damage]
    path = first_shard(encoded)
    do_damage(path)
    with pytest.raises(DamagedSampleError, match=what) as rejected:
        check(encoded)
    message = str(rejected.value)
    assert message.startswith("sample clip") and " of the train split: " in message
    assert str(path) in message
    assert message.endswith(
        "Training was not started; make it again: sana verify CONFIG --invalidate, then: sana run CONFIG"
    )


def test_all_damaged_shards_are_counted_in_one_error(encoded: Encoded) -> None:
    samples = splits(encoded)[0]
    for key in (*samples.tensors["latents"].shards, *samples.tensors["captions"].shards):
        encoded.store.delete(key)
    first = sorted(samples.tensors["captions"].shards)[0]  # encode_captions comes first
    with pytest.raises(DamagedSampleError, match=rf"{first} is gone. 2 more shards are not valid"):
        check(encoded)


def test_the_clip_is_named_where_it_is_known(encoded: Encoded) -> None:
    row = {field.name: {"string": "x", "bool": False}.get(str(field.type), 0) for field in WINDOWS}
    windows = [row | {"sample_id": f"clip{i:04d}-0", "dataset": "demo", "path": f"a/{i}.mp4"} for i in range(NUM_TRAIN)]
    draft = Draft(encoded.store, Recipe("bucket", 1, {}, {}))
    draft.add("clips.parquet", to_parquet(table_of(windows, WINDOWS)))
    draft.commit(content={}, counts=Counts.all_kept(1))
    first_shard(encoded).unlink()
    with pytest.raises(DamagedSampleError, match=r"sample clip0000-0 \(demo: a/0.mp4\) of the train split"):
        check(encoded)


def test_an_index_that_training_cannot_use_is_an_error_before_any_shard_is_read(encoded: Encoded) -> None:
    with pytest.raises(DamagedSampleError, match=r"caption of \(\d+, 16\), the transformer needs \(tokens, 2304\)"):
        check(encoded, caption_channels=2304)
    train_split, eval_split = splits(encoded)
    eval_split.tensors["latents"].shapes[2] = 16, 2, 8, 8
    checked: list[int] = []
    with pytest.raises(DamagedSampleError, match=r"sample clip0013-0 of the eval split: .* its bucket 5x96x64 needs"):
        check_samples(
            encoded.store,
            [train_split, eval_split],
            caption_channels=CAPTION_CHANNELS,
            on_shard=lambda done, _: checked.append(done),
        )
    assert not checked


def test_a_row_with_a_wrong_offset_is_an_error(encoded: Encoded) -> None:
    train_split, eval_split = splits(encoded)
    captions = train_split.tensors["captions"]
    moved = replace(captions, offsets=captions.offsets + 32 * (np.arange(16) == 4))
    train_split = replace(train_split, tensors={**train_split.tensors, "captions": moved})
    sample = np.searchsorted(train_split.first_caption, 4, side="right") - 1
    with pytest.raises(DamagedSampleError, match=f"sample clip{sample:04d}-0 .* has no tensor at byte"):
        check_samples(
            encoded.store,
            [train_split, eval_split],
            caption_channels=CAPTION_CHANNELS,
            on_shard=lambda *_: None,
        )


def test_a_store_in_s3_is_checked_as_a_local_one(s3: WeedServer) -> None:
    encoded = build_encoded(f"s3://{s3.bucket}/check")
    assert len(check(encoded)) == 3
    samples = splits(encoded)[0]
    shard = samples.tensors["latents"].shard(1)
    encoded.store.delete(shard)
    with pytest.raises(DamagedSampleError, match=f"sample clip0001-0 .*s3://.*{shard} is gone"):
        check(encoded)


def test_training_does_not_start_on_a_damaged_sample(encoded: Encoded, tmp_path: Path, tiny_model: Path) -> None:
    _truncate(first_shard(encoded))
    job = train_job(encoded, train_config(encoded, tmp_path / "work", tiny_model, max_steps=1), tiny_model)
    with pytest.raises(DamagedSampleError, match="Training was not started"):
        train(job)
    assert "preparing the first batch" not in job.progress_path.read_text()
