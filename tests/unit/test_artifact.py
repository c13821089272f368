"""Artifacts: same inputs, same address; committed once; what changed is named."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sana.artifact import Draft, Recipe, config_diff, digest_of, find, latest
from sana.counts import Counts
from sana.errors import SanaError
from sana.store import open_store

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)


def recipe(**changes) -> Recipe:
    return Recipe(**{"stage": "probe", "version": 1, "config": {"a": 1}, "inputs": {"videos": "d1"}, **changes})


def commit(store, content: str = "c1", **changes):
    draft = Draft(store, recipe(**changes))
    draft.add("table.json", b"{}")
    return draft.commit(content={"rows": content}, counts=Counts.all_kept(1))


@given(value=st.dictionaries(st.text(), json_values, max_size=5))
def test_a_digest_does_not_depend_on_the_order_of_keys(value: dict) -> None:
    assert digest_of(value) == digest_of(dict(reversed(list(value.items()))))


@pytest.mark.parametrize(
    "change", [{"stage": "bucket"}, {"version": 2}, {"config": {"a": 2}}, {"inputs": {"videos": "d2"}}]
)
def test_everything_in_a_recipe_changes_its_fingerprint(change: dict) -> None:
    assert recipe(**change).fingerprint != recipe().fingerprint
    assert recipe().fingerprint == recipe().fingerprint


def test_an_artifact_is_there_once_it_is_committed_and_not_before(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert find(store, recipe()) is None
    assert latest(store, "probe") is None
    draft = Draft(store, recipe())
    draft.add("table.json", b"{}")
    assert find(store, recipe()) is None
    committed = draft.commit(content={"rows": "c"}, counts=Counts.all_kept(0))
    assert find(store, recipe()) == committed
    assert latest(store, "probe") == committed
    assert store.read(committed.files["table.json"].key) == b"{}"


def test_equal_content_is_reproduced_and_other_content_takes_effect_beside_the_old(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    first = commit(store)
    again = commit(store)
    assert again.reproduced and not first.reproduced
    assert again.created_at == first.created_at
    changed = commit(store, content="c2")
    assert find(store, recipe()) == changed
    assert store.exists(f"{first.key}/artifact.json") and store.exists(f"{first.key}/artifact.0001.json")


def test_racing_commits_of_one_content_leave_one_artifact(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    results = []
    threads = [threading.Thread(target=lambda: results.append(commit(store))) for _ in range(12)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 12
    assert sum(not r.reproduced for r in results) == 1
    assert not store.exists("probe/" + recipe().fingerprint + "/artifact.0001.json")


def test_config_diff_names_what_differs(tmp_path: Path) -> None:
    before = commit(open_store(str(tmp_path)))
    assert config_diff(recipe(), before) == []
    assert config_diff(recipe(), None) == []
    after = recipe(version=2, config={"a": 2, "b": {"c": 3}}, inputs={"videos": "d2"})
    said = ["stage version 1 -> 2", "a 1 -> 2", "b.c (not set) -> 3", "input videos changed"]
    assert config_diff(after, before) == said
    assert config_diff(recipe(config={"a": False}), before)[0] == "a 1 -> false"


def test_config_diff_names_the_key_of_the_data_set_that_differs(tmp_path: Path) -> None:
    def of(*datasets: tuple[str, str]) -> Recipe:
        listed = [{"id": name, "captions": {"trigger": word, "columns": []}} for name, word in datasets]
        return Recipe("download", 1, {"datasets": listed}, {})

    Draft(open_store(str(tmp_path)), of(("a", "x"), ("b", "y"))).commit(content={}, counts=Counts.all_kept(0))
    before = latest(open_store(str(tmp_path)), "download")  # as it is read back, with sorted keys
    assert config_diff(of(("a", "x"), ("b", "y")), before) == []
    assert config_diff(of(("a", "x"), ("b", "z")), before) == ["datasets.b.captions.trigger y -> z"]
    assert config_diff(of(("b", "y"), ("a", "x")), before) == ['datasets ["a", "b"] -> ["b", "a"]']
    assert config_diff(of(("a", "x")), before) == ['datasets ["a", "b"] -> ["a"]']
    assert config_diff(of(("a", "x"), ("b", "y"), ("c", "x")), before) == ['datasets ["a", "b"] -> ["a", "b", "c"]']


def test_a_damaged_commit_file_is_named(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    path = store.local_path(f"probe/{recipe().fingerprint}/artifact.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"format": 2, ')
    with pytest.raises(SanaError, match="is damaged"):
        find(store, recipe())
    path.write_bytes(b'{"format": 99}')
    with pytest.raises(SanaError, match="another version"):
        find(store, recipe())
