"""Damage of a store is found, named, invalidated and repaired."""

import os
import shlex
from collections import Counter
from pathlib import Path

import pytest

from flows.cli.main import main
from sana.errors import SanaError
from sana.maintenance.gc import find_orphaned_objects
from sana.maintenance.object_graph import RECORDS, kind_of, read_object_graph
from sana.maintenance.verify import invalidate, verify
from sana.store import LocalStore
from sana.training.exports.model_export import store_base
from tests.maintained_stores import context_of, flip, only, store_of
from tests.pipeline_runs import Outcome, Place, inline_workers, run_stages

pytestmark = pytest.mark.timeout(200)


def test_an_undamaged_store_is_valid_and_has_no_unknown_object(place: Place) -> None:
    store = store_of(place)
    result = verify(store, deep=True)
    assert result.problems == result.superseded == []
    assert {kind_of(key) for key, _ in store.list("")} >= {"artifact", "part", "shard", "checkpoint", "metrics", "file"}
    assert "unknown" not in {kind_of(key) for key, _ in store.list("")}
    for stage in result.stages.values():
        assert stage.ok == stage.num_objects and stage.num_orphaned == 0
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
def test_damage_is_found_and_invalidated(place: Place, kind: str, stage: str, damage, shows: bool) -> None:
    store = store_of(place)
    key = only(store, kind, stage)
    damage(Path(store.root, key))
    assert {problem.key for problem in verify(store).problems} == ({key} if shows else set())
    result = verify(store, deep=True)
    assert {problem.key for problem in result.problems} == {key}
    assert sum(found.damaged + found.missing for found in result.stages.values()) == 1
    before = set(dict(store.list("")))
    gone = invalidate(store, result.problems)
    assert set(gone) == before - set(dict(store.list(""))) and {kind_of(k) for k in gone} <= {
        "artifact", "part", "compacted", "checkpoint",
    }  # fmt: skip
    assert verify(store, deep=True).problems == []  # what is left is valid


def test_a_repair_makes_again_only_what_was_damaged(place: Place, trained: tuple[Place, Outcome]) -> None:
    store = store_of(place)
    flip(Path(store.root, only(store, "shard", "encode_latents")), -100)
    invalidate(store, verify(store, deep=True).problems)
    with inline_workers():
        repaired = run_stages(context_of(place), last="train")
    assert repaired.ran == ["encode_latents"]  # train reads equal content, so it stays
    assert repaired["encode_latents"].content == trained[1]["encode_latents"].content
    assert repaired["encode_latents"].counts.extra["encoded"] < 13
    assert verify(store, deep=True).problems == []


def test_the_command_line_names_the_damage_and_its_repair(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    main(["verify", "--root", place.root, "--deep"])
    assert "damaged: " not in capsys.readouterr().out
    shard = only(store_of(place), "shard", "encode_latents")
    flip(Path(place.root, shard), -100)
    with pytest.raises(SystemExit) as ended:
        main(["verify", "--root", place.root, "--deep"])
    output = capsys.readouterr().out
    assert ended.value.code == 1
    [line] = [line for line in output.splitlines() if shard in line]  # once, though two records need it
    assert line.startswith(f"damaged: {shard}: ") and line.endswith(" and 1 more record")
    [line] = [line for line in output.splitlines() if line.startswith("to repair: ")]
    repair, run = line.removeprefix("to repair: ").split(", then: ")
    assert run == f"sana run CONFIG --root {place.root}, with the config that made it"
    with pytest.raises(SystemExit):
        main(shlex.split(repair)[1:])
    assert "2 records were invalidated" in capsys.readouterr().out  # the command, as it is printed, works
    main(["verify", "--root", place.root, "--deep"])


@pytest.mark.parametrize(("is_there", "said"), [(False, "there is no folder"), (True, "right root")])
@pytest.mark.parametrize("command", [["verify"], ["export", "--to", "elsewhere"]])
def test_an_empty_root_is_an_error(
    command: list[str], is_there: bool, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "mistyped"
    if is_there:
        root.mkdir()
    with pytest.raises(SystemExit) as ended:
        main([*command, "--root", str(root)])
    captured = capsys.readouterr()
    assert ended.value.code == 1 and str(root) in captured.err and said in captured.err
    assert "valid" not in captured.out
    assert [path.name for path in tmp_path.rglob("*")] == ["mistyped"] * is_there


class RequestCountingStore(LocalStore):
    """A store that counts requests for single objects."""

    requests: Counter[str]

    def exists(self, key: str) -> bool:
        self.requests["exists"] += 1
        return super().exists(key)

    def size(self, key: str) -> int:
        self.requests["size"] += 1
        return super().size(key)


def test_one_listing_finds_missing_files_and_wrong_sizes(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    store = RequestCountingStore(place.root)
    store.requests = Counter()
    graph = read_object_graph(store)
    named = sorted({file.key for artifact in graph.artifacts.values() for file in artifact.files.values()})
    named += sorted({file.key for checkpoint in graph.checkpoints.values() for file in checkpoint.files.values()})
    assert {key.partition("/")[0] for key in named} == {
        "download",
        "probe",
        "bucket",
        "encode_captions",
        "encode_latents",
        "train",
        "model",  # what exports share
    }
    assert verify(store).problems == [] and not store.requests, "no request for each file"
    orphan = "probe/0123456789abcdef/aaaaaaaaaaaa/clips.parquet"
    store.put_if_absent(orphan, b"orphaned")
    for number, key in enumerate(named):
        path = Path(store.root, key)
        if number % 2:
            path.unlink()
        else:
            path.write_bytes(path.read_bytes() + b"x")
    result = verify(store)
    wrong = {problem.key: problem.state for problem in result.problems if kind_of(problem.key) not in RECORDS}
    assert wrong == {key: "missing" if number % 2 else "damaged" for number, key in enumerate(named)}
    assert [thing.key for thing in result.orphaned_objects] == [orphan]
    with pytest.raises(SystemExit):
        main(["verify", "--root", place.root, "--list"])
    output = capsys.readouterr().out
    assert all(f"{state}: {key}: " in output for key, state in wrong.items()) and f"orphan: {orphan}: " in output


def test_a_name_that_an_exported_model_lost_is_found(place: Place) -> None:
    store = store_of(place)
    name, _ = next(iter(sorted(read_object_graph(store).links().items())))
    Path(store.root, name).unlink()  # diffusers looks for it there, although the file itself is under model/base
    assert [(problem.key, problem.state) for problem in verify(store).problems] == [(name, "missing")]


def test_a_damaged_file_of_a_base_model_is_stored_again(place: Place, tiny_model: Path, tmp_path: Path) -> None:
    store = store_of(place)
    key = next(key for key in sorted(read_object_graph(store).links().values()) if key.endswith(".safetensors"))
    os.truncate(Path(store.root, key), 100)
    with pytest.raises(SanaError, match="has 100 bytes, and .* it is damaged; delete it"):
        store_base(store, str(tiny_model), without="transformer", work_dir=tmp_path)
    result = verify(store)
    assert key in {problem.key for problem in result.problems}
    assert key in invalidate(store, result.problems)
    store_base(store, str(tiny_model), without="transformer", work_dir=tmp_path)
    assert store.size(key) > 100
