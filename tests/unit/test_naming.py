"""What a name means is found in one place: each door gives the same training, and the same error."""

from collections.abc import Callable, Sequence

import pytest

import sana
from flows.watch.reader import RunReader, Wanted
from sana.comparison.lineage import Lineage
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.report.training.find import find_subject as find_reported
from sana.runs.compared import find_subject
from sana.runs.naming import find_named
from sana.store import LocalStore
from sana.wording import age, clock, duration
from tests.made_up_runs import Clip, Made, make_data, make_training, put_run
from tests.watched_runs import put_run as put_watched_run
from tests.watched_runs import training

RUN, OTHER = "20261128-154012-3fa9c1", "20261128-164012-aaaaaa"
Door = Callable[[LocalStore, str], object]
DOORS: dict[str, Door] = {
    "compare": lambda store, name: find_subject(name, Lineage(store), "ema").trajectory,
    "report": lambda store, name: find_reported(Lineage(store), name).trajectory,
    "open_run": lambda store, name: sana.open_run(store.root, name).trajectory,
    "watch": lambda store, name: RunReader(store, Wanted(name=name)).read().trajectory,
}


@pytest.fixture
def store(tmp_path: object) -> LocalStore:
    return LocalStore(str(tmp_path))


def trained(store: LocalStore, step: int = 10) -> tuple[str, str]:
    losses = {"clip-a": [1.0, 2.0]}
    made = make_training(store, make_data(store, [Clip("clip-a")]), Made(losses, step=step)).train
    return made.fingerprint, TrainFacts.of(made).trajectory


@pytest.mark.parametrize("door", DOORS)
def test_each_door_takes_the_same_names(store: LocalStore, door: str) -> None:
    fingerprint, trajectory = trained(store)
    put_run(store, RUN, "cats", trajectory, fingerprint=fingerprint)
    put_watched_run(store, OTHER, stages=training(3), trajectory="beefbeefbeefbeef")
    for name in (fingerprint, fingerprint[:5], trajectory, trajectory[:5], RUN, RUN[:12]):
        assert DOORS[door](store, name) == trajectory, name
    assert find_named(Lineage(store), "d0d0d0d0").trajectory == "beefbeefbeefbeef"  # by an artifact of its run


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fff", "no training or run fff; it has .*at least 4 characters"),
        ("../../etc", "no training or run ../../etc; it has "),
        ("a\x1b[31m\nb", r"no training or run a\?\[31m b; it has "),
        ("NEAR", "did you mean "),
        ("20261128", f"20261128 is the beginning of 2 names, {RUN}, {OTHER}; write more of it"),
        ("20261128-16401", "20261128-164012-aaaaaa"),
    ],
)
def test_each_door_says_the_same_of_a_name_that_means_nothing_or_several(
    store: LocalStore, door: str, name: str, said: str
) -> None:
    fingerprint, trajectory = trained(store)
    for run_id in (RUN, OTHER):
        put_run(store, run_id, "cats", trajectory, fingerprint=fingerprint)
    if name == "20261128-16401":  # a beginning that is one run's
        assert DOORS[door](store, name) == trajectory
        return
    if name == "NEAR":
        name, said = f"{fingerprint[:-1]}x", f"did you mean {fingerprint}"
    with pytest.raises(SanaError, match=said) as raised:
        DOORS[door](store, name)
    assert "\x1b" not in str(raised.value)


def test_a_root_without_a_training_says_how_to_make_one(store: LocalStore) -> None:
    for name, said in (("abcd", "abcd"), ("", "''")):
        with pytest.raises(SanaError, match=f"no training or run {said}; nothing was trained there: sana run CONFIG"):
            find_named(Lineage(store), name)


def test_a_trajectory_is_found_when_its_checkpoints_are_gone(store: LocalStore) -> None:
    fingerprint, trajectory = trained(store)
    assert trajectory not in store.list_dirs("train"), "it has no checkpoint"
    assert find_named(Lineage(store), trajectory[:8]).trajectory == trajectory
    assert sana.open_run(store.root, trajectory).name == fingerprint


@pytest.mark.parametrize(
    ("write", "seconds", "said"),
    [
        (duration, [0, 9.4, 9.7, 59.6, 95, 3600], "0 s|9.4 s|10 s|1 min 0 s|1 min 35 s|1 h 0 min"),
        (duration, [90061, 400_000], "25 h 1 min|4 d 15 h"),
        (age, [-5, 89, 91, 5399, 9000, 172_800], "0 s|89 s|2 min|90 min|2.5 h|2 d"),
        (clock, [31, 3723], "0:31|1:02:03"),
    ],
)  # fmt: skip
def test_time_spans(write: Callable[[float], str], seconds: Sequence[float], said: str) -> None:
    assert "|".join(map(write, seconds)) == said
