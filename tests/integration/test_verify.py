"""Damage of a store is found, named, invalidated and healed."""

import os
import shlex
from collections import Counter
from pathlib import Path

import pytest

from flows.cli.main import main
from sana.maintenance.gc import find_orphaned_objects
from sana.maintenance.object_graph import RECORDS, kind_of, read_object_graph
from sana.maintenance.verify import invalidate, verify
from sana.store import LocalStore
from tests.maintained_stores import context_of, flip, only, store_of
from tests.pipeline_runs import Outcome, Place, inline_workers, run_stages

pytestmark = pytest.mark.timeout(200)


def test_a_sound_store_is_sound_and_known(place: Place) -> None:
    store = store_of(place)
    health = verify(store, deep=True)
    assert health.problems == health.superseded == []
    assert {kind_of(key) for key, _ in store.list("")} >= {"artifact", "part", "shard", "checkpoint", "metrics", "file"}
    assert "unknown" not in {kind_of(key) for key, _ in store.list("")}
    for stage in health.stages.values():
        assert stage.ok == stage.num_objects and stage.orphans == 0
    assert find_orphaned_objects(read_object_graph(store), grace_s=0) == []


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
    gone = invalidate(store, health.problems)
    assert set(gone) == before - set(dict(store.list(""))) and {kind_of(k) for k in gone} <= {
        "artifact", "part", "compacted", "checkpoint",
    }  # fmt: skip
    assert verify(store, deep=True).problems == []  # what is left is sound


def test_healing_makes_again_only_what_was_damaged(place: Place, trained: tuple[Place, Outcome]) -> None:
    store = store_of(place)
    flip(Path(store.root, only(store, "shard", "encode_latents")), -100)
    invalidate(store, verify(store, deep=True).problems)
    with inline_workers():
        healed = run_stages(context_of(place), last="train")
    assert healed.ran == ["encode_latents"]  # train reads equal content, so it stays
    assert healed["encode_latents"].content == trained[1]["encode_latents"].content
    assert healed["encode_latents"].counts.extra["encoded"] < 13
    assert verify(store, deep=True).problems == []


def test_the_command_line_names_the_damage_and_the_cure(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "--root", place.root, "--deep"])
    assert "valid" in capsys.readouterr().out
    shard = only(store_of(place), "shard", "encode_latents")
    flip(Path(place.root, shard), -100)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--root", place.root, "--deep"])
    told = capsys.readouterr().out
    assert ended.value.code == 1
    [line, *_] = [line for line in told.splitlines() if line.startswith(f"damaged: {shard}")]
    cure = line.partition("to repair: ")[2].partition(", then: ")[0]
    with pytest.raises(SystemExit):
        main(shlex.split(cure)[1:])
    assert "2 records were invalidated" in capsys.readouterr().out  # the cure, as it is printed, is one
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
    assert "valid" not in captured.out
    assert list(tmp_path.iterdir()) == []


class Listed(LocalStore):
    """A store that counts what is asked of single objects."""

    asked: Counter[str]

    def exists(self, key: str) -> bool:
        self.asked["exists"] += 1
        return super().exists(key)

    def size(self, key: str) -> int:
        self.asked["size"] += 1
        return super().size(key)


def test_every_file_that_a_record_names_is_missed_and_measured_by_a_listing(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Listed(place.root)
    store.asked = Counter()
    found = read_object_graph(store)
    named = sorted({file.key for artifact in found.artifacts.values() for file in artifact.files.values()})
    named += sorted({file.key for checkpoint in found.checkpoints.values() for file in checkpoint.files.values()})
    assert {key.partition("/")[0] for key in named} == {
        "download",
        "probe",
        "bucket",
        "encode_captions",
        "encode_latents",
        "train",
    }
    assert verify(store).problems == [] and not store.asked, "no request a file"
    orphan = "probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet"
    store.put_if_absent(orphan, b"orphaned")
    for number, key in enumerate(named):
        path = Path(store.root, key)
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes() + b"x")
    health = verify(store)
    wrong = {problem.key: problem.state for problem in health.problems if kind_of(problem.key) not in RECORDS}
    assert wrong == {key: "missing" if number % 2 else "damaged" for number, key in enumerate(named)}
    assert [thing.key for thing in health.orphans] == [orphan]
    with pytest.raises(SystemExit):
        main(["verify", "--root", place.root, "--list"])
    said = capsys.readouterr().out
    assert all(f"{state}: {key}: " in said for key, state in wrong.items()) and f"orphan: {orphan}: " in said
