"""What disks, copies and people do to the files of checkpoints: found when they are read, named, an older one taken."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from sana.errors import DiskFullError
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint import Checkpoint, checkpoint_steps, index_key, read_checkpoint
from sana.training.checkpoints.checkpoint_io import PARTS, attempt_folder, load, save, write_parts
from sana.training.checkpoints.checkpoint_manager import CheckpointManager, ResumePoint
from sana.training.checkpoints.ownership import owners
from tests.training_lab import Lab
from tests.training_store import build_encoded, train_config

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    """Checkpoints of the steps 2 and 4 in one file a part, "one", and in those of two ranks, "two"; read only."""
    folder = tmp_path_factory.mktemp("attacks")
    lab = Lab(build_encoded(folder / "root"), folder, tiny_model)
    lab.train("one", max_steps=4, checkpoint_every=2)
    for step in (2, 4):
        made = lab.at("one", step)
        files = {}
        for rank in range(2):
            parts = {part: load(lab.store, made, part) for part in PARTS}
            mine = {p: {n: t[n] for n, owner in owners(t, 2).items() if owner == rank} for p, t in parts.items()}
            where = attempt_folder(lab.key("two"), step, "a" * 12)
            files |= write_parts(lab.store, where, mine, rank=rank, num_ranks=2, staging=folder)
        save(
            lab.store, lab.key("two"), step=step, attempt="a" * 12, files=files, segments=made.segments,
            cursor=made.cursor, seed=made.seed, snapshot=made.snapshot,
        )  # fmt: skip
    return lab


class Target:
    """A copy of the checkpoints, to do damage to: the paths of step 4's files, by name."""

    def __init__(self, lab: Lab, folder: Path, trajectory: str) -> None:
        shutil.copytree(Path(lab.store.root, "train"), folder / "root/train")
        self.store, self.key = LocalStore(str(folder / "root")), lab.key(trajectory)
        self.config = train_config(lab.encoded, folder / "work", lab.model, max_steps=4).train
        self.folder = folder / "work"

    def saved(self, step: int) -> Checkpoint:
        return read_checkpoint(self.store, self.key, step)

    def path(self, name: str, step: int = 4) -> Path:
        return self.store.local_path(self.saved(step).files[name].key)

    def restore(self) -> tuple[CheckpointManager, ResumePoint]:
        manager = CheckpointManager(
            self.store, self.key, folder=self.folder, config=self.config, snapshot={}, keep_steps=(),
            check=lambda: None,
        )  # fmt: skip
        return manager, manager.restore()


def flipped(name: str, byte: int) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        data = bytearray(target.path(name).read_bytes())
        data[byte] ^= 1
        target.path(name).write_bytes(data)
        return name

    return attack


def resized(name: str, change: Callable[[int], int]) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        os.truncate(target.path(name), change(target.path(name).stat().st_size))  # beyond the end it adds zeros
        return name

    return attack


def swapped(first: str, second: str) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        a, b = target.path(first), target.path(second)
        aside = a.with_name("aside")
        a.rename(aside), b.rename(a), aside.rename(b)
        return first

    return attack


def half_uploaded(target: Target) -> str:
    """What a copy that preallocates leaves: the size is right, the second half is zeros."""
    path = target.path("ema.safetensors")
    size = path.stat().st_size
    os.truncate(path, size // 2), os.truncate(path, size)
    return "ema.safetensors"


def of_another_step(target: Target) -> str:
    shutil.copyfile(target.path("weights.safetensors", 2), target.path("weights.safetensors"))
    return "weights.safetensors"


def tensors_reordered(target: Target) -> str:
    """Two tensors of one shape have each other's place: the header is right, and so is every number."""
    path = target.path("weights.safetensors")
    data = bytearray(path.read_bytes())
    whole = load(target.store, target.saved(4), "weights")
    shapes = [tensor.shape for tensor in whole.values()]
    names = [name for name, tensor in whole.items() if shapes.count(tensor.shape) > 1]
    a = names[0]
    b = next(n for n in names[1:] if whole[n].shape == whole[a].shape and not torch.equal(whole[n], whole[a]))
    size = whole[a].nbytes
    start = {name: data.find(whole[name].numpy().tobytes()) for name in (a, b)}
    data[start[a] : start[a] + size], data[start[b] : start[b] + size] = (
        data[start[b] : start[b] + size],
        data[start[a] : start[a] + size],
    )
    path.write_bytes(data)
    return "weights.safetensors"


def missing(name: str) -> Callable[[Target], str]:
    def attack(target: Target) -> str:
        target.path(name).unlink()
        return name

    return attack


def index_cut(target: Target) -> str:
    path = target.store.local_path(index_key(target.key, 4))
    path.write_bytes(path.read_bytes()[:-40])
    return "index.json"


def index_of_no_optimizer(target: Target) -> str:
    """A part is named by no file."""
    path = target.store.local_path(index_key(target.key, 4))
    path.write_text(path.read_text().replace('"optimizer.safetensors"', '"optimiser.safetensors"'))
    return "no file of optimizer"


ONE, TWO = "one", "two"
ATTACKS = {
    "a bit of a tensor": (ONE, flipped("optimizer.safetensors", -9)),
    "a bit of the header": (ONE, flipped("weights.safetensors", 40)),
    "a bit of the header's length": (ONE, flipped("ema.safetensors", 0)),
    "truncated": (ONE, resized("weights.safetensors", lambda size: size - 1)),
    "empty": (ONE, resized("ema.safetensors", lambda size: 0)),
    "longer": (ONE, resized("optimizer.safetensors", lambda size: size + 8)),
    "half uploaded": (ONE, half_uploaded),
    "missing": (ONE, missing("optimizer.safetensors")),
    "parts swapped": (ONE, swapped("weights.safetensors", "ema.safetensors")),
    "tensors reordered": (ONE, tensors_reordered),
    "of another step": (ONE, of_another_step),
    "index cut": (ONE, index_cut),
    "index without a part": (ONE, index_of_no_optimizer),
    "one rank's file missing": (TWO, missing("weights-00002-of-00002.safetensors")),
    "ranks swapped": (TWO, swapped("ema-00001-of-00002.safetensors", "ema-00002-of-00002.safetensors")),
    "parts of a rank swapped": (TWO, swapped("weights-00002-of-00002.safetensors", "ema-00002-of-00002.safetensors")),
    "a bit of the second rank": (TWO, flipped("optimizer-00002-of-00002.safetensors", -1)),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_damage_is_named_and_the_older_checkpoint_is_taken(
    trained: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    trajectory, attack = ATTACKS[name]
    target = Target(trained, tmp_path, trajectory)
    says = attack(target)
    _, found = target.restore()
    assert found.step == 2 and found.parts is not None
    [warning] = [r.getMessage() for r in caplog.records if "is removed, an older one is used" in r.getMessage()]
    assert "step 4" in warning and says in warning
    for part in PARTS:
        expected = load(trained.store, trained.at("one", 2), part)
        assert set(expected) == set(found.parts[part])
        assert all(torch.equal(tensor, found.parts[part][key]) for key, tensor in expected.items())
    assert checkpoint_steps(target.store, target.key) == [2]
    assert not [key for key, _ in target.store.list(f"train/{target.key}/checkpoints/step_00000004")]


@pytest.mark.parametrize("damage", ["gone", "cut", "no JSON"])
def test_weights_outlive_their_metrics(
    trained: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    target = Target(trained, tmp_path, ONE)
    first, second = target.saved(4).segments
    path = target.store.local_path(first.key)
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-10] if damage == "cut" else path.read_bytes().replace(b":", b";"))
    manager, found = target.restore()
    assert found.step == 4 and manager.newest is not None and manager.newest.segments == (second,)
    assert "the metrics of steps 0 to 2 are lost, training goes on without them" in caplog.text
    assert (target.folder / "metrics.jsonl").read_bytes() == target.store.read(second.key)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 2.5 MiB: room for the samples, three checkpoints and a half."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2560k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs to be allowed to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_fills_up_while_training_keeps_what_was_committed(
    trained: Lab, small_disk: Path, tmp_path: Path, tiny_model: Path
) -> None:
    lab = Lab(build_encoded(small_disk / "root"), tmp_path, tiny_model)
    settings = {"max_steps": 8, "checkpoint_every": 1, "max_checkpoints": 9}
    with pytest.raises(DiskFullError, match="step_0000000.*the disk is full: free some space"):
        lab.train("full", **settings)
    steps = checkpoint_steps(lab.store, lab.key("full"))
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] < 8
    for step in steps:  # whole, each of them
        assert all(load(lab.store, lab.at("full", step), part) for part in PARTS)
    assert not lab.store.incomplete_uploads(older_than_s=-9, delete=False)
    # room is made by keeping fewer: it goes on from the last
    for step in steps[:-1]:
        shutil.rmtree(lab.path(index_key(lab.key("full"), step)).parent)
    resumed = lab.train("full", **{**settings, "max_steps": steps[-1] + 1, "max_checkpoints": 1})
    straight = trained.train("straight", **{**settings, "max_steps": steps[-1] + 1})
    assert {n: f.digest for n, f in resumed.files.items()} == {n: f.digest for n, f in straight.files.items()}
