"""Tensor files have the bytes that safetensors itself writes; what was not written so is refused."""

import json
import struct
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file

from sana.store import LocalStore
from sana.training.checkpoints import tensor_file
from sana.training.checkpoints.host_copy import StateCopy
from sana.training.checkpoints.kept_checkpoints import kept_steps
from sana.training.checkpoints.ownership import owners
from sana.training.checkpoints.tensor_file import file_blocks, file_bytes, hashed, read_file
from tests.training_store import TrainResources

TENSORS = {
    "b.weight": torch.randn(3, 5),
    "a": torch.randn(7, 2, dtype=torch.float64),
    "half": torch.randn(9).to(torch.bfloat16),
    "moment": torch.arange(5, dtype=torch.uint8),
    "turned": torch.randn(4, 6).T,  # not contiguous
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "int": torch.arange(3),
    "flags": torch.tensor([True, False]),
    "fp8": torch.ones(3).to(torch.float8_e4m3fn),
}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_the_bytes_are_those_of_safetensors(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "theirs", metadata=metadata)
    ours = b"".join(file_blocks(TENSORS, metadata=metadata))
    assert ours == (tmp_path / "theirs").read_bytes()
    assert file_bytes(TENSORS, metadata=metadata) == len(ours)


def test_a_file_is_hashed_as_it_is_written_and_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "BLOCK_BYTES", 64)  # many blocks
    store, digest, told = LocalStore(str(tmp_path)), xxhash.xxh3_128(), []
    assert store.put_blocks_if_absent("f", hashed(file_blocks(TENSORS), digest.update), staging=tmp_path / "staging")
    size = file_bytes(TENSORS)
    found, read_digest = read_file(store, "f", size, on_bytes=told.append)
    assert read_digest == digest.hexdigest() == xxhash.xxh3_128_hexdigest(store.read("f")) and sum(told) == size
    theirs = load_file(tmp_path / "f")
    for name, tensor in TENSORS.items():
        for other in (found[name], theirs[name]):
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert torch.equal(
                other.contiguous().view(-1).view(torch.uint8), tensor.contiguous().view(-1).view(torch.uint8)
            )
    assert not (tmp_path / "staging").exists()  # nothing is copied on one disk


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"no json", b""),
        (b"[]", b""),
        (b'{"a": 1}', b""),
        (json.dumps({"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}).encode(), bytes(4)),
        (json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}).encode(), bytes(4)),
        (json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}).encode(), bytes(4)),
        (json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}}).encode(), bytes(4)),
    ],
)
def test_what_is_no_tensor_file_is_refused(tmp_path: Path, header: bytes, data: bytes) -> None:
    store = LocalStore(str(tmp_path))
    store.put_if_absent("f", struct.pack("<Q", len(header)) + header + data)
    with pytest.raises(ValueError):
        read_file(store, "f", store.size("f"))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8, 64])
def test_every_tensor_has_one_owner_and_ranks_write_about_the_same(num_ranks: int) -> None:
    tensors = {f"t{i:03d}": torch.empty(1 + i % 7, 100) for i in range(300)}
    owned = owners(tensors, num_ranks)
    assert list(owned) == list(tensors) and owned == owners(tensors, num_ranks)
    assert list(owned.values()) == sorted(owned.values())
    written = [sum(tensors[name].nbytes for name in owned if owned[name] == rank) for rank in range(num_ranks)]
    mean = sum(written) / num_ranks
    assert all(abs(num_bytes - mean) <= 2 * 700 * 4 for num_bytes in written)
    assert set(owners({"one": torch.empty(3)}, num_ranks).values()) <= set(range(num_ranks))


def test_a_copy_is_kept_while_what_was_copied_changes_and_its_memory_is_used_again() -> None:
    copy, tensor = StateCopy(), torch.arange(6.0).reshape(2, 3)
    copy.allocate({"a": tensor})
    first = copy.copy("a", tensor)
    copy.record()
    copy.wait()
    tensor += 1
    assert torch.equal(first, torch.arange(6.0).reshape(2, 3))
    assert copy.copy("a", tensor).data_ptr() == first.data_ptr() and copy.num_bytes == 24
    assert copy.copy("a", tensor.to(torch.bfloat16)).dtype == torch.bfloat16  # another layout is another memory


LOSSES = {2: 0.9, 4: 0.5, 6: 0.7, 8: 0.5, 10: 0.8}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({"max_checkpoints": 2}, {9, 10}),
        ({"max_checkpoints": 1, "keep_best_checkpoints": 1}, {8, 10}),  # of equal losses the newer
        ({"max_checkpoints": 1, "keep_best_checkpoints": 3}, {4, 6, 8, 10}),
        ({"max_checkpoints": 1, "milestone_every": 5}, {5, 10}),
        ({"max_checkpoints": 1, "keep_best_checkpoints": 1, "milestone_every": 3}, {3, 6, 8, 9, 10}),
    ],
)
def test_which_checkpoints_stay(settings: dict, kept: set[int]) -> None:
    found = kept_steps(range(1, 11), TrainResources(**settings), eval_losses=LOSSES, keep_steps=())
    assert found == kept
    assert kept_steps(range(1, 11), TrainResources(**settings), eval_losses=LOSSES, keep_steps=(1, 99)) == {1, *kept}
