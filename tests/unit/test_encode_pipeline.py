"""Encoding in a pipeline: results in order however many are behind, and parts that are written behind."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sana.data.schemas import LATENTS, Reason
from sana.data.shards.part_writer import PartWriter
from sana.data.shards.shard import Location, read_tensor
from sana.data.video.video import ClipRejected
from sana.errors import SanaError
from sana.model.precision import VAE_DTYPES
from sana.model.transfers import HostCopy, to_device
from sana.model.vae import encode_latents, has_channels_last, load_vae
from sana.runtime.pool import Pool
from sana.store import open_store
from sana.workers.encode_latents import _encoded

pytestmark = pytest.mark.timeout(60)
REJECTED = ClipRejected(Reason.TOO_SHORT, "it is")


def row(name: str) -> dict[str, Any]:
    plain = {field.name: "" if str(field.type) == "string" else 0 for field in LATENTS}
    return {**plain, "sample_key": name, "shape": []}


@pytest.mark.parametrize("num_behind", [0, 1, 2])
@pytest.mark.parametrize("pattern", ["aab|b", "xa|x|ax", "", "|", "a|a|a|a", "xxx", "aaaa|"])
def test_results_come_in_order_and_few_are_on_the_way(pattern: str, num_behind: int) -> None:
    """`a`: a batch, `x`: a rejection, `|`: the end of a part."""
    on_the_way: list[int] = []
    most = 0

    def launch(pixels: np.ndarray) -> HostCopy:
        nonlocal most
        on_the_way.append(int(pixels[0]))
        most = max(most, len(on_the_way))
        return HostCopy(torch.from_numpy(pixels))

    given: list[Any] = []
    for number, kind in enumerate(pattern):
        pixels = REJECTED if kind == "x" else np.array([number])
        given.append(None if kind == "|" else ([row(str(number))], pixels))
    found = []
    for batch in _encoded(iter(given), launch, num_behind=num_behind):
        if batch is None:
            found.append("|")
        elif isinstance(batch[1], ClipRejected):
            found.append("x")
        else:
            assert batch[1].wait().item() == on_the_way.pop(0) == int(batch[0][0]["sample_key"])
            found.append("a" if pattern[int(batch[0][0]["sample_key"])] == "a" else "b")
    assert "".join(found) == pattern and not on_the_way
    assert most == min(num_behind + 1, sum(kind in "ab" for kind in pattern))


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(open_store(str(tmp_path / "root")), "encode_latents", "key", schema=LATENTS, id_column="sample_key")


def test_parts_are_whole_and_in_order(pool: Pool) -> None:
    latents = {name: torch.full((16, 1, 2, 2), float(number)) for number, name in enumerate("abcdef")}
    with PartWriter(pool, shard_bytes=2 * latents["a"].nbytes, provenance="here") as writer:
        for part in ("abxc", "x", "def"):
            for name in part:
                if name == "x":
                    writer.reject(row(f"x{part}"), REJECTED)
                else:
                    writer.add(row(name), latents[name])
            writer.end_part()
    found = {one["sample_key"]: one for one in pool.rows().to_pylist()}
    assert set(found) == {*"abcdef", "xabxc", "xx"} and len(pool.part_names()) == 3
    for name, latent in latents.items():
        assert torch.equal(read_tensor(pool.store, Location.of(found[name])), latent)
        assert (found[name]["provenance"], found[name]["reason"]) == ("here", "")
    assert found["xx"]["shard"] == "" and found["xx"]["reason"] == Reason.TOO_SHORT
    shards = {name: found[name]["shard"] for name in latents}
    assert shards["a"] == shards["b"] != shards["c"] != shards["d"] == shards["e"] != shards["f"]


def test_the_caller_goes_on_while_one_shard_is_written_and_waits_with_the_next(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write, latent = threading.Event(), torch.zeros(16, 1, 2, 2)
    put = type(pool.store).put_if_absent

    def slow_put(self: Any, key: str, data: bytes) -> bool:
        assert may_write.wait(20)
        return put(self, key, data)

    monkeypatch.setattr(type(pool.store), "put_if_absent", slow_put)
    with PartWriter(pool, shard_bytes=1, provenance="") as writer:
        writer.add(row("a"), latent)  # returns, though nothing can be written yet
        threading.Timer(0.2, may_write.set).start()
        writer.add(row("b"), latent)
        assert may_write.is_set()  # it waited: two shards are in memory, never three
        writer.end_part()
    assert pool.rows().num_rows == 2


@pytest.mark.parametrize("at", ["the next shard", "the end of the part", "the end"])
def test_what_goes_wrong_behind_is_raised_and_nothing_is_committed(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(_self: Any, key: str, _data: bytes) -> bool:
        raise SanaError(f"no space for {key}")

    monkeypatch.setattr(type(pool.store), "put_if_absent", full)
    latent = torch.zeros(16, 1, 2, 2)
    with pytest.raises(SanaError, match="no space for"), PartWriter(pool, shard_bytes=1, provenance="") as writer:
        writer.add(row("a"), latent)
        if at == "the next shard":
            writer.add(row("b"), latent)
            pytest.fail("it was not told")
        if at == "the end of the part":
            writer.end_part()
            pytest.fail("it was not told")
    monkeypatch.undo()
    assert not pool.part_names()


def test_the_callers_own_error_is_not_replaced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(pool.store), "put_if_absent", lambda *_: 1 / 0)
    with pytest.raises(KeyError), PartWriter(pool, shard_bytes=1, provenance="") as writer:
        writer.add(row("a"), torch.zeros(1))
        raise KeyError


def test_on_a_cpu_nothing_is_copied() -> None:
    tensor = torch.rand(3)
    assert HostCopy(tensor).wait() is tensor and to_device(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
@pytest.mark.parametrize("precision", VAE_DTYPES)
def test_on_a_gpu_encoding_waits_for_nothing_until_the_result_is_asked_for(tiny_model: Path, precision: Any) -> None:
    vae = load_vae(str(tiny_model), precision=precision, device="cuda")
    clips = [torch.rand(1, 3, 9, 96, 160) * 2 - 1 for _ in range(4)]
    expected = [encode_latents(vae, clip, precision=precision).half().cpu() for clip in clips]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        copies = [HostCopy(encode_latents(vae, clip, precision=precision).half()) for clip in clips]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(torch.equal(copy.wait(), one) for copy, one in zip(copies, expected, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_channels_last_on_a_gpu_is_within_what_devices_may_differ_by(tiny_model: Path, precision: Any) -> None:
    last, first = (load_vae(str(tiny_model), precision=precision, device="cuda") for _ in range(2))
    for module in first.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous()
    assert last.encoder.conv_in.weight.is_contiguous(memory_format=torch.channels_last_3d)
    clip = torch.rand(1, 3, 9, 96, 160) * 2 - 1
    one, other = (encode_latents(vae, clip, precision=precision) for vae in (last, first))
    assert ((one - other).norm() / other.norm()).item() < (2e-3 if precision == "tf32" else 2e-2)


def test_channels_last_changes_less_than_devices_may_on_a_cpu_too(tiny_model: Path) -> None:
    first, last = (load_vae(str(tiny_model)) for _ in range(2))
    assert not has_channels_last("tf32", first.device)
    for module in last.modules():
        if isinstance(module, torch.nn.Conv3d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)
    clip = torch.rand(1, 3, 5, 64, 96) * 2 - 1
    one, other = encode_latents(last, clip), encode_latents(first, clip)
    assert ((one - other).norm() / other.norm()).item() < 1e-5


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [("tf32", "cuda", True), ("bf16", "cuda", True), ("fp32", "cuda", False), ("tf32", "cpu", False)],
)
def test_where_convolutions_are_channels_last(precision: Any, device: str, expected: bool) -> None:
    assert has_channels_last(precision, torch.device(device)) == expected
