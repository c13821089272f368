"""The split: no source and no content on both sides, no side empty without need, and nothing moves that need not."""

import hashlib
import time
import unicodedata
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.artifact import Artifact
from sana.context import Context
from sana.counts import Counts
from sana.data.bucketing.holdout import rows_by_pattern
from sana.data.bucketing.linked_sources import link_sources
from sana.data.bucketing.split_check import split_notes
from sana.data.bucketing.window_table import make_window_table
from sana.stages import bucket as stage
from sana.store import open_store
from tests.bucket_rules import config
from tests.probed_clips import probed

pytestmark = pytest.mark.timeout(60)
LO, HI = {"id": "lo"}, {"id": "hi"}


def position(source: str, seed: int = 0) -> float:
    """The frozen hash of a source: eval where it is below the fraction."""
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{source}".encode(), digest_size=8).digest(), "big") / 2**64


def sides(clips: list[dict[str, Any]], *datasets: dict[str, Any], **bucket: Any) -> list[str]:
    """The split of each clip that gives a sample, in the order of clips."""
    made = make_window_table(probed(clips), config(*datasets, **bucket))
    found = dict(zip(made.windows["clip_id"].to_pylist(), made.windows["split"].to_pylist(), strict=True))
    return [found[name] for name in probed(clips)["clip_id"].to_pylist() if name in found]


def twice(num: int) -> list[dict[str, Any]]:
    """One folder of clips as two data sets: other sources, equal contents."""
    return [{"dataset": name, "digest": f"d{i}", "path": f"{i}.mp4"} for name in ("lo", "hi") for i in range(num)]


# ---- one folder as two data sets


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_one_folder_as_two_data_sets_has_no_digest_on_both_sides(fraction: float) -> None:
    clips = twice(100)
    found = sides(clips, LO, HI, eval_fraction=fraction)
    assert found[:100] == found[100:]  # by content
    alone = sides(clips[:100], LO, eval_fraction=fraction)
    assert found[:100] == alone, "the first data set is split as it is without the other"
    assert 0 < found.count("eval") < 200
    names = probed(clips)["clip_id"].to_pylist()
    assert sides(clips, HI, LO, eval_fraction=fraction)[100:] == [
        "eval" if position(name) < fraction else "train" for name in names[100:]
    ]


member = st.fixed_dictionaries(
    {"dataset": st.sampled_from(["lo", "hi", "ev"]), "source_id": st.sampled_from([f"s{i}" for i in range(12)]),
     "digest": st.sampled_from([f"d{i}" for i in range(12)]), "num_frames": st.sampled_from([81, 81, 81, 9])}
)  # fmt: skip


def components(clips: list[dict[str, Any]]) -> list[set[int]]:
    """Rows linked by sources and contents, the slow way."""
    todo, found = set(range(len(clips))), []
    while todo:
        group, grew = {min(todo)}, True
        while grew:
            keys = {(name, clips[i][name]) for i in group for name in ("source_id", "digest")}
            more = {i for i in todo if keys & {(name, clips[i][name]) for name in ("source_id", "digest")}}
            grew, group = more != group, more
        found.append(group)
        todo -= group
    return found


@given(clips=st.lists(member, max_size=18), role=st.sampled_from(["split", "train", "eval"]), random=st.randoms(),
       fraction=st.sampled_from([0.05, 0.4, 0.95]))  # fmt: skip
def test_what_is_linked_has_one_split_that_of_its_first_member(clips: list, role: str, random, fraction: float) -> None:
    datasets = (LO, HI, {"id": "ev", "role": role})
    table = probed(clips)
    made = make_window_table(table, config(*datasets, eval_fraction=fraction))
    is_eval, ids = made.splits.is_eval.tolist(), table["clip_id"].to_pylist()
    groups = components(clips)
    kept = {i for i, one in enumerate(clips) if one["num_frames"] == 81}
    moved = []
    for group in groups:
        fixed = {role for i in group if clips[i]["dataset"] == "ev"} - {"split"}
        assert len({is_eval[i] for i in group}) == 1
        first = min(group, key=lambda i: (["lo", "hi", "ev"].index(clips[i]["dataset"]), ids[i]))
        expected = fixed == {"eval"} or (not fixed and position(clips[first]["source_id"]) < fraction)
        if is_eval[first] != expected:
            moved.append((first, group))
    for first, group in moved:  # only for a side that would be empty
        assert len(moved) == 1 and group & kept and role != ("eval" if is_eval[first] else "train") or role == "train"
        same = {is_eval[i] for other in groups for i in other & kept if other != group}
        assert is_eval[first] not in same
    if role == "split" and len([group for group in groups if group & kept]) > 1:
        assert {is_eval[i] for i in kept} == {True, False}
    order = list(range(len(clips)))
    random.shuffle(order)
    shuffled = make_window_table(table.take(pa.array(order, pa.int64())), config(*datasets, eval_fraction=fraction))
    assert [is_eval[i] for i in order] == shuffled.splits.is_eval.tolist()


@pytest.mark.parametrize(
    ("roles", "clips", "expected"),
    [  # (data set, content), in order; "lo" comes first
        (("split", "eval"), "lo-a lo-b hi-a", "eval train eval"),  # a folder, and a part of it that is held out
        (("split", "train"), "lo-a lo-b hi-a", "train eval train"),
        (("train", "eval"), "lo-a hi-b", "train eval"),
    ],
)
def test_a_role_decides_for_equal_contents_elsewhere(roles: tuple[str, str], clips: str, expected: str) -> None:
    rows = [dict(zip(("dataset", "digest"), text.split("-"), strict=True)) for text in clips.split()]
    assert sides(rows, {**LO, "role": roles[0]}, {**HI, "role": roles[1]}) == expected.split()


def test_long_chains_are_linked() -> None:
    """Source i shares a content with source i + 1, and numbers are in no order: one group all the same."""
    num = 20_000
    rng = np.random.default_rng(0)
    names = rng.permutation(num)
    sources = np.repeat(names, 2)[1:-1]
    digests = pa.chunked_array([pa.array([f"d{i}" for i in range(num - 1) for _ in range(2)])])
    assert set(link_sources(sources, digests, num).tolist()) == {0}


def test_a_million_clips_as_two_data_sets_are_linked_in_seconds() -> None:
    half = pa.array(np.arange(500_000)).cast(pa.string())
    digests = pa.chunked_array([half, half])
    start = time.process_time()
    groups = link_sources(np.arange(1_000_000), digests, 1_000_000)
    assert time.process_time() - start < 10  # measured: below 1
    assert np.array_equal(groups, np.tile(np.arange(500_000), 2))


def test_the_order_of_data_sets_enters_the_recipe_where_it_is_not_that_of_names() -> None:
    probe = Artifact("probe", "f", 1, {}, {}, {"clips": "digest"}, Counts.all_kept(0), {})

    def recipe(*datasets: dict[str, Any]) -> Any:
        context = Context(config(*datasets), open_store("/nonexistent"), Path())
        return stage.recipe(context, {"probed_clips": probe})

    assert recipe(HI, LO) == recipe(HI) and "order" not in recipe(HI, LO).config
    assert recipe(LO, HI).config["order"] == ["lo", "hi"]
    assert "order" not in recipe({**LO, "role": "train"}, HI).config  # a role decides, whatever the order
    assert recipe(LO, {**HI, "disabled": True}) == recipe(LO)


# ---- small data sets


@pytest.mark.parametrize("num", [2, 3, 10, 19])
@pytest.mark.parametrize("fraction", [1e-9, 0.05, 0.5, 0.999999])
def test_neither_side_is_empty_where_there_are_two_sources(num: int, fraction: float) -> None:
    clips = [{"source_id": f"source {i}"} for i in range(num)]
    where = [position(f"source {i}") for i in range(num)]
    found = sides(clips, eval_fraction=fraction)
    expected = ["eval" if at < fraction else "train" for at in where]
    if "eval" not in expected:
        expected[where.index(min(where))] = "eval"
    if "train" not in expected:
        expected[where.index(max(where))] = "train"
    assert found == expected


def test_a_source_whose_clips_are_rejected_fills_no_side() -> None:
    names = sorted((f"s{i}" for i in range(6)), key=position)  # s4, s0, s1, ...
    clips = [{"source_id": name, "num_frames": 1 if i == 0 else 81} for i, name in enumerate(names)]
    low = position(names[0])
    for fraction in (low / 2, low * 1.001):  # none falls below it, or the one that is rejected
        assert sides(clips, eval_fraction=fraction) == ["eval"] + ["train"] * 4


@pytest.mark.parametrize(
    ("other", "bucket", "expected"),
    [
        ({"role": "train"}, {}, ["eval", "train"]),  # one source to be split is held out: another is trained on
        ({"role": "eval"}, {"eval_fraction": 0.999999}, ["train", "eval"]),
        ({"role": "eval"}, {}, ["train", "eval"]),
        ({}, {"holdout": ("two.mp4",), "eval_fraction": 0.999999}, ["train", "eval"]),
        ({}, {"holdout": ("two.mp4",)}, ["train", "eval"]),
    ],
)
def test_a_role_or_a_name_counts_as_the_other_side(other: dict, bucket: dict, expected: list[str]) -> None:
    clips = [{"dataset": "lo", "path": "one.mp4"}, {"dataset": "hi", "path": "two.mp4"}]
    assert sides(clips, LO, {**HI, **other}, **bucket) == expected


def test_more_clips_do_not_move_what_was_held_out_unless_one_is_nearer_yet() -> None:
    names = [f"clip {i}" for i in range(40)]
    before = None
    for num in range(2, 40):
        found = sides([{"source_id": name} for name in names[:num]], eval_fraction=0.05)
        held = {name for name, side in zip(names, found, strict=False) if side == "eval"}
        nearest = min(names[:num], key=position)
        assert nearest in held
        assert before is None or before <= held or held == {nearest}
        before = held


@pytest.mark.parametrize(
    ("fraction", "note"),
    [
        (
            1e-9,
            "bucket.eval_fraction 1e-09 alone would hold out none of 3 sources; so that neither split is empty, "
            "one is held out all the same: ",
        ),
        (
            0.9999,
            "bucket.eval_fraction 0.9999 alone would hold out all of 3 sources; so that neither split is empty, "
            "one is trained on all the same: ",
        ),
        (0.5, None),
    ],
)
def test_what_is_moved_for_a_side_is_named_by_its_file(fraction: float, note: str | None) -> None:
    clips = [{"path": "clips/0.mp4"}, {"source_id": "s3"}, {"source_id": "s12"}]
    table, settings = probed(clips), config(eval_fraction=fraction)
    made = make_window_table(table, settings)
    notes = split_notes(settings, table, made)
    assert [text.partition(": ")[0] + ": " for text in notes] == ([] if note is None else [note])
    assert not notes or notes[0].partition(": ")[2] in ("clips/0.mp4", "s3", "s12")


# ---- held out by name

PATHS = ["a.mp4", "shots/a.mp4", "shots/deep/b.mp4", "b[1].mp4", "b1.mp4", "cafe\u0301.mp4", "x y.mov"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("a.mp4", [0, 1]),  # a file's name, anywhere
        ("shots/a.mp4", [1]),
        ("./a.mp4", [0, 1]),
        ("./shots/deep/b.mp4", [2]),
        ("shots/*.mp4", [1]),
        ("shots/**", [1, 2]),
        ("**/b.mp4", [2]),
        ("**/a.mp4", [0, 1]),
        ("*.mov", [6]),
        ("b?.mp4", [4]),
        ("b[1].mp4", [3]),  # a name before a glob
        ("b[12].mp4", [4]),
        ("b[!2].mp4", [4]),
        ("caf\u00e9.mp4", [5]),
        ("caf?.mp4", [5]),
        ("source-6", [6]),
        ("source-[01]", [0, 1]),
        ("source-*", list(range(7))),
        ("b[z-a].mp4", []),
        ("b[.mp4", []),
        ("A.mp4", []),
        ("a", []),
        ("", []),
    ],
)
def test_a_pattern_names_files_paths_sources_or_a_glob_of_them(pattern: str, expected: list[int]) -> None:
    table = probed({"path": path, "source_id": f"source-{i}"} for i, path in enumerate(PATHS))
    assert rows_by_pattern(table, [pattern, "x y.mov"])[pattern].tolist() == expected


def test_ten_thousand_names_are_found_in_seconds() -> None:
    num = 10_000
    table = probed({"path": f"shots/{i}.mp4"} for i in range(num))
    start = time.process_time()
    found = rows_by_pattern(table, [f"{i}.mp4" for i in range(num)])
    assert time.process_time() - start < 5  # measured: 0.1
    assert [rows.tolist() for rows in found.values()] == [[i] for i in range(num)]


def test_patterns_of_equal_meaning_are_each_found() -> None:
    table = probed([{"path": "caf\u00e9.mp4"}, {"path": "d.mp4", "source_id": "caf\u00e9.mp4"}])
    both = ["caf\u00e9.mp4", unicodedata.normalize("NFD", "caf\u00e9.mp4")]
    assert [rows.tolist() for rows in rows_by_pattern(table, both).values()] == [[0, 1]] * 2


def test_a_name_holds_out_all_that_is_linked_to_it() -> None:
    found = defaultdict(set)
    for one, side in zip(twice(5), sides(twice(5), LO, HI, holdout=("3.mp4",), eval_fraction=0), strict=True):
        found[side].add(one["path"])
    assert found == {"eval": {"3.mp4"}, "train": {"0.mp4", "1.mp4", "2.mp4", "4.mp4"}}
