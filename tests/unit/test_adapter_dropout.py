"""Laws of an adapter's dropout: its mask is a function of sample, layer and place, and looks random."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sana.model.adapters.keyed_dropout import KeyedDropout, kept
from sana.model.random import philox_integers
from sana.training.batch import BatchSlot
from sana.training.trainables.adapter_dropout import AdapterDropout

SHAPE = (4, 50, 40)


def keys_of(*positions: int, step: int = 7) -> Tensor:
    return AdapterDropout(5).draw([BatchSlot(step, position, 0) for position in positions], {})["adapter_dropout_keys"]


def dropped(dropout: KeyedDropout, keys: Tensor, shape: tuple[int, ...]) -> Tensor:
    dropout.set_keys(keys)
    return dropout(torch.ones(shape))


def by_numpy(keys: Tensor, salt: int, size: int, p: float) -> np.ndarray:
    """The mask in numpy's wrapping arithmetic of 32 bits."""
    rows = []
    for pair in keys.tolist():
        low, high = (np.uint32((number + salt) % 2**32) for number in pair)
        bits = np.arange(size, dtype=np.uint32) + low
        for key in (np.uint32(0), high):
            bits ^= key
            for multiplier in (0x45D9F3B, 0x119DE1F3):
                bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(multiplier)
            bits ^= bits >> np.uint32(16)
        rows.append(bits >= round(p * 2**32))
    return np.stack(rows)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_the_mask_is_the_hash_and_the_rest_is_scaled(p: float) -> None:
    dropout = KeyedDropout(p, "transformer_blocks.0.attn1.to_q")
    keys = keys_of(0, 1, 2, 3)
    found = dropped(dropout, keys, SHAPE)
    expected = by_numpy(keys, dropout.salt, 2000, p).reshape(SHAPE)
    assert np.array_equal(found != 0, expected)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - p)])
    assert expected.mean() == pytest.approx(1 - p, abs=4 * (p * (1 - p) / 8000) ** 0.5)


def test_a_sample_has_its_mask_in_any_batch_and_with_frames_apart() -> None:
    dropout = KeyedDropout(0.3, "a")
    whole = dropped(dropout, keys_of(0, 1, 2, 3), SHAPE)
    assert torch.equal(dropped(dropout, keys_of(2, 3), (2, 50, 40)), whole[2:])
    frames = dropped(dropout, keys_of(0, 1, 2, 3), (4 * 5, 2, 10, 20))  # a convolution's input, 5 frames a sample
    assert torch.equal(frames.reshape(SHAPE), whole)
    # more caption tokens are more rows at the end
    assert torch.equal(dropped(dropout, keys_of(0, 1, 2, 3), (4, 64, 40))[:, :50], whole)


def test_masks_of_other_samples_layers_and_steps_are_independent() -> None:
    masks = [
        kept((keys_of(position, step=step) + salt) & 0xFFFFFFFF, torch.Size((1, 100_000)), 0.5).float().flatten()
        for position, step, salt in ((0, 7, 1), (1, 7, 1), (0, 8, 1), (0, 7, 2))
    ]
    correlations = torch.corrcoef(torch.stack(masks)) - torch.eye(4)
    assert correlations.abs().max() < 5 / 100_000**0.5
    follows = torch.corrcoef(torch.stack([masks[0][:-1], masks[0][1:]]))[0, 1]
    assert abs(follows) < 5 / 100_000**0.5


def test_nothing_is_dropped_in_evaluation_and_without_gradients() -> None:
    dropout = KeyedDropout(0.5, "a")
    x = torch.ones(SHAPE)
    with torch.no_grad():
        assert dropout(x) is x
    assert dropout.eval()(x) is x


def test_keys_have_not_changed() -> None:
    assert philox_integers([2], bits=32, key=("train", 0, 0, 0, "adapter_dropout")).tolist() == [3774383887, 158879464]
