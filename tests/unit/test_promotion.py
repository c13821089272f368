"""Who may be champion: decided by paired differences on the same terms; noise alone promotes about one in forty."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sana.comparison.paired import pair
from sana.comparison.promotion import Candidate, candidate_of, decide
from sana.data.eval_table import EvalTable
from sana.store import Store, open_store
from tests.made_up_runs import Clip, Data, Losses, Made, make_data, make_training

NUM_CLIPS = 24
CLIPS = [*(Clip(f"clip-{n:02d}") for n in range(NUM_CLIPS)), Clip("clip-t", split="train")]


def losses(mean: float, noise: float, seed: int) -> Losses:
    """Losses of each clip at two levels: what makes one harder than another is the same for all seeds, noise is not."""
    hard = np.random.default_rng(0).normal(0.0, 0.2, NUM_CLIPS)
    noises = np.random.default_rng(seed).normal(0.0, noise, (NUM_CLIPS, 2))
    return {f"clip-{n:02d}": tuple((mean + hard[n] + noises[n]).tolist()) for n in range(NUM_CLIPS)}


# Clips differ by 0.2 of each other, and the noise of a training is 0.1 a level: that of a clip's difference is 0.1, and
# the standard error over 24 clips 0.02. The second is worse by 0.005, and luck makes its mean 0.026 lower, which is 1.4
# standard errors.
LUCKY = (1.0, 0.1, 2), (1.005, 0.1, 20)


class Desk:
    """A root, and the trainings that a test makes in it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.data = make_data(store, CLIPS)
        self._number = 0

    def train(self, of: Losses, *, data: Data | None = None, **made: object) -> Candidate:
        self._number += 1  # no two are the same training
        how = Made(of, settings={"learning_rate": self._number}, **made)  # type: ignore[arg-type]
        return candidate_of(self.store, make_training(self.store, data or self.data, how).train.fingerprint)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(open_store(str(tmp_path / "store")))


def test_the_first_is_champion_and_a_surely_better_one_follows(desk: Desk) -> None:
    first, better = desk.train(losses(1.0, 0.02, 1)), desk.train(losses(0.9, 0.02, 2))
    assert decide(first, None).moves
    decision = decide(better, first)
    assert decision.moves and decision.difference is not None
    assert decision.difference.difference == pytest.approx(-0.1, abs=0.02)
    assert not decide(first, better).moves and not decide(first, first).moves


FALSE_CHAMPIONS = {
    "lower by luck": (*LUCKY, "not surely below"),
    "worse": ((1.0, 0.02, 1), (1.1, 0.02, 2), "is above"),
    "equal": ((1.0, 0.02, 1), (1.0, 0.02, 1), "not surely below"),
}


@pytest.mark.parametrize("name", FALSE_CHAMPIONS)
def test_a_false_champion_is_not_promoted(desk: Desk, name: str) -> None:
    of_champion, of_other, said = FALSE_CHAMPIONS[name]
    decision = decide(desk.train(losses(*of_other)), desk.train(losses(*of_champion)))
    assert not decision.moves and said in decision.reason
    if name == "lower by luck":  # a comparison of the means alone would have moved the alias
        assert decision.difference is not None and decision.difference.stderr is not None
        assert -2 * decision.difference.stderr < decision.difference.difference < -decision.difference.stderr


def test_noise_alone_promotes_about_one_in_forty() -> None:
    """2.3 % of differences that are noise are 2 of their errors below 0, 2.9 % where 24 clips tell the error."""
    ids, random = tuple(map(str, range(NUM_CLIPS))), np.random.default_rng(5)
    hard = random.normal(0.0, 0.2, (NUM_CLIPS, 1))

    def table() -> EvalTable:
        return EvalTable(ids, (0.25, 0.75), 1.0 + hard + random.normal(0.0, 0.1, (NUM_CLIPS, 2)))

    better = sum(bool((found := pair(table(), table()).difference()) and found.is_better) for _ in range(1000))
    assert 14 <= better <= 46, better


OTHER_TERMS: dict[str, tuple[Callable[[Desk], Candidate], str]] = {
    "another base": (lambda desk: desk.train(losses(0.5, 0.02, 2), base="base-2"), "has another base"),
    "another eval list": (
        lambda desk: desk.train(losses(0.5, 0.02, 2), data=make_data(desk.store, [*CLIPS, Clip("clip-x")])),
        "another eval list",
    ),
    "fewer samples": (
        lambda desk: desk.train(dict(list(losses(0.5, 0.02, 2).items())[:20]), evaluate={"max_samples": 20}),
        "another eval list",
    ),
    "other noise levels": (lambda desk: desk.train(losses(0.5, 0.02, 2), sigmas=(0.1, 0.9)), "another eval list"),
    "another precision": (
        lambda desk: desk.train(losses(0.5, 0.02, 2), evaluate={"mixed_precision": "bf16"}),
        "other settings (mixed_precision)",
    ),
    "never evaluated": (lambda desk: desk.train({}), "it was never evaluated"),
}


@pytest.mark.parametrize("name", OTHER_TERMS)
def test_what_was_measured_on_other_terms_is_not_promoted(desk: Desk, name: str) -> None:
    make, said = OTHER_TERMS[name]
    decision = decide(make(desk), desk.train(losses(1.0, 0.02, 1)))
    assert not decision.moves and said in decision.reason


def test_of_several_evaluations_those_on_the_same_terms_are_compared(desk: Desk) -> None:
    """The champion was evaluated on the old list too, and last on a new one."""
    champion = desk.train(losses(1.0, 0.02, 1))
    new = make_data(desk.store, [*CLIPS, Clip("clip-x")])
    on_both = (desk.train(losses(1.0, 0.02, 1), data=new).evaluations[0], *champion.evaluations)
    assert decide(desk.train(losses(0.5, 0.02, 2)), Candidate(champion.trained, on_both)).moves


def test_a_champion_without_its_evaluation_stays(desk: Desk) -> None:
    champion, better = desk.train(losses(1.0, 0.02, 1)), desk.train(losses(0.5, 0.02, 2))
    decision = decide(better, Candidate(champion.trained, ()))
    assert not decision.moves and "the champion's evaluation is gone" in decision.reason


def test_one_sample_tells_nothing(desk: Desk) -> None:
    champion, better = desk.train({"clip-00": (1.0, 1.0)}), desk.train({"clip-00": (0.1, 0.1)})
    assert "the eval list has one sample" in decide(better, champion).reason


def test_data_sets_that_are_measured_by_themselves_decide_nothing(tmp_path: Path) -> None:
    desk = Desk(open_store(str(tmp_path / "other")))
    desk.data = make_data(desk.store, [*CLIPS, Clip("far-1", dataset="far"), Clip("far-2", dataset="far")])
    apart = {"separate_datasets": ["far"]}
    champion = desk.train({**losses(1.0, 0.02, 1), "far-1": (1.0, 1.0), "far-2": (1.0, 1.0)}, evaluate=apart)
    other = desk.train({**losses(1.01, 0.02, 2), "far-1": (0.0, 0.0), "far-2": (0.0, 0.0)}, evaluate=apart)
    decision = decide(other, champion)
    assert not decision.moves and decision.difference is not None and decision.difference.num_samples == NUM_CLIPS
