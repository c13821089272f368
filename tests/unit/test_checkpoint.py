"""Checkpoints as the store shows them: one whose index is damaged is passed over, and named as damaged."""

from pathlib import Path

from sana.maintenance.verify import invalidate, verify
from sana.store import LocalStore
from sana.training.checkpoints.checkpoint import Checkpoint, DataPosition, commit, index_key, newest_checkpoint


def saved(step: int) -> Checkpoint:
    position = DataPosition(step=step, epoch=0, position=0)
    return Checkpoint("t", step, "a" * 12, {}, (), position, 0, {}, 0.0)


def test_a_damaged_index_is_passed_over_and_can_be_invalidated(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    for step in (1, 2):
        commit(store, saved(step))
    (tmp_path / index_key("t", 2)).write_bytes(b'{"broken')
    assert (found := newest_checkpoint(store, "t", at_most=9)) is not None and found.step == 1
    problems = verify(store).problems
    assert [(problem.state, problem.key) for problem in problems] == [("damaged", index_key("t", 2))]
    assert invalidate(store, problems) == [index_key("t", 2)] and not verify(store).problems


def test_an_index_of_another_version_is_left_alone(tmp_path: Path) -> None:
    store = LocalStore(str(tmp_path))
    store.put_if_absent(index_key("t", 2), b'{"format": 99}')
    problems = verify(store).problems
    assert [problem.state for problem in problems] == ["unreadable"] and invalidate(store, problems) == []
