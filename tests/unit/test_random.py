"""Laws of the counter-based generator: a draw depends on its key and on nothing else."""

import numpy as np
import pytest
import torch

from sana.model.random import philox_normal, philox_uniform

# Recorded once (numpy 2.4.6). A change here changes every training run, resumed run and eval loss: raise VERSIONs.
GOLDEN_KEY = ("train", 0, 7, 3)
GOLDEN_NORMAL = [
    0.09692928194999695, -0.05011431872844696, 1.7545825242996216,
    -0.35985109210014343, -0.8346988558769226, -0.9276410937309265,
]  # fmt: skip
GOLDEN_UNIFORM = [
    0.7310430407524109, 0.0513419508934021, 0.4721446633338928,
    0.9851002097129822, 0.5277121663093567, 0.7259581685066223,
]  # fmt: skip


def test_golden_vectors_have_not_changed() -> None:
    assert philox_normal([6], key=GOLDEN_KEY).tolist() == GOLDEN_NORMAL
    assert philox_uniform([6], key=GOLDEN_KEY).tolist() == GOLDEN_UNIFORM


def test_a_draw_ignores_the_global_state_and_what_was_drawn_before() -> None:
    first = philox_normal([3, 4], key=("eval", "clip", 8, 2))
    torch.manual_seed(1)
    np.random.seed(1)
    philox_normal([100], key=("eval", "clip", 8, 3))
    assert torch.equal(philox_normal([3, 4], key=("eval", "clip", 8, 2)), first)


@pytest.mark.parametrize(
    "other",
    [("train", 0, 7, 4), ("train", 0, 73), ("train", 0, "7", 3), ("eval", 0, 7, 3), ("train", 0, 7, 3, 0), ()],
)
def test_keys_that_differ_anywhere_give_other_draws(other: tuple[str | int, ...]) -> None:
    assert not torch.equal(philox_normal([8], key=GOLDEN_KEY), philox_normal([8], key=other))


def test_normal_and_uniform_of_one_key_are_unrelated() -> None:
    normal = philox_normal([20_000], key=("a", 1))
    uniform = philox_uniform([20_000], key=("a", 1))
    assert abs(np.corrcoef(normal.numpy(), uniform.numpy())[0, 1]) < 0.03


def test_draws_follow_their_distributions() -> None:
    normal = philox_normal([200, 1000], key=("law",))
    assert normal.dtype == torch.float32 and normal.shape == (200, 1000)
    assert abs(normal.mean()) < 0.01 and abs(normal.std() - 1) < 0.01 and abs((normal**4).mean() - 3) < 0.1
    uniform = philox_uniform([200_000], key=("law",))
    assert uniform.dtype == torch.float32
    assert uniform.min() > 0 and uniform.max() < 1
    assert torch.histc(uniform, 10, 0, 1).sub(20_000).abs().max() < 700  # 5 standard deviations


def test_a_key_of_other_types_is_an_error() -> None:
    with pytest.raises(TypeError):
        philox_normal([1], key=("train", np.int64(3)))  # type: ignore[arg-type]
