"""Laws of conditions: what is drawn for which sample, what is measured, and what a config refuses."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from sana.config.load import load_config
from sana.config.training.conditions import ConditionConfig
from sana.costs.calibration import calibrated_settings
from sana.errors import ConfigError
from sana.stages.encode_masks import is_used
from sana.training.batch import BatchSlot, MicroBatch
from sana.training.metrics import Scalar, accumulate, to_host
from sana.training.objectives.clean_masks import draw_clean
from sana.training.objectives.conditions import ConditionsPart, ConditionTable

FRAMES, HEIGHT, WIDTH = 5, 8, 12


def condition(name: str, **settings: Any) -> ConditionConfig:
    values = {"name": name, "probability": 0.5, **settings}
    made: ConditionConfig = TypeAdapter(ConditionConfig).validate_python(values)
    return made


def part(*conditions: ConditionConfig, others: tuple[ConditionConfig, ...] | None = None) -> ConditionsPart:
    """Rows that are even have `conditions`, odd ones `others`, where these are given."""
    if others is None:
        return ConditionsPart(ConditionTable((conditions,)), seed=1)
    codes = np.arange(1000, dtype=np.uint16) % 2
    return ConditionsPart(ConditionTable((conditions, others), codes), seed=1)


def draw(one: ConditionsPart, slots: list[BatchSlot], frames: int = FRAMES) -> dict[str, torch.Tensor]:
    return one.draw(slots, {"latents": torch.empty(len(slots), 16, frames, HEIGHT, WIDTH)})


def slots(num: int, step: int = 3) -> list[BatchSlot]:
    return [BatchSlot(step, position, row=position) for position in range(num)]


I2V, SUFFIX = condition("image_to_video", probability=0.3), condition("extend", side="suffix", probability=0.2)
BOXES = condition("inpaint", probability=0.1)


def test_what_is_drawn_depends_on_the_position_alone() -> None:
    one = part(I2V, SUFFIX, BOXES)
    together = draw(one, slots(40))
    alone = [draw(one, [slot]) for slot in slots(40)]
    for name in ("clean", "condition"):
        assert torch.equal(together[name], torch.cat([drawn[name] for drawn in alone]))
    assert set(together["condition"].tolist()) == {0, 1, 2, 3}
    assert not torch.equal(draw(one, slots(40, step=4))["condition"], together["condition"])


def test_each_condition_has_its_share_and_the_rest_is_text_to_video() -> None:
    drawn = draw(part(I2V, SUFFIX, BOXES), slots(4000))
    shares = np.bincount(drawn["condition"], minlength=4) / 4000
    assert np.abs(shares - [0.4, 0.3, 0.2, 0.1]).max() < 0.025  # three standard deviations
    assert (drawn["clean"].flatten(1).any(1) == (drawn["condition"] > 0)).all()


def test_a_data_set_may_have_its_own() -> None:
    certain = condition("image_to_video", probability=1.0)
    drawn = draw(part(others=(certain,)), slots(20))["condition"]
    assert drawn.tolist() == [0, 1] * 10
    one = part(certain, others=(SUFFIX, certain.model_copy(update={"probability": 0.8})))
    assert one.table.labels == ("text_to_video", "image_to_video", "extend_suffix")
    drawn = draw(one, slots(200))["condition"]
    assert set(drawn[::2].tolist()) == {1} and set(drawn[1::2].tolist()) == {1, 2}


def test_an_image_has_nothing_left_to_learn_from_its_first_frame() -> None:
    """It stays text to video, and is counted as such; a box of it can be painted."""
    always = [condition(name, probability=1.0) for name in ("image_to_video", "extend", "inpaint")]
    found = [draw(part(one), slots(8), frames=1) for one in always]
    assert [set(drawn["condition"].tolist()) for drawn in found] == [{0}, {0}, {1}]
    assert not found[0]["clean"].any() and not found[1]["clean"].any()


def test_frames_that_are_given_are_first_or_last_and_in_range() -> None:
    counts = {}
    for side in ("prefix", "suffix"):
        one = condition("extend", side=side, min_latent_frames=2, max_latent_frames=9)
        masks = [draw_clean(one, (FRAMES, HEIGHT, WIDTH), key=(n,)) for n in range(600)]
        given = torch.stack([mask for mask in masks if mask is not None])[:, 0, :, 0, 0]
        counts[side] = Counter(given.sum(1).tolist())
        ordered = given.int().diff(dim=1)
        assert (ordered <= 0).all() if side == "prefix" else (ordered >= 0).all()
    assert counts["prefix"] == counts["suffix"] and set(counts["prefix"]) == {2, 3, 4}  # never all five
    assert min(counts["prefix"].values()) > 150
    short = draw_clean(condition("extend", min_latent_frames=4), (2, HEIGHT, WIDTH), key=(0,))
    assert short is not None and short[0, :, 0, 0].tolist() == [True, False]
    first = draw_clean(condition("image_to_video"), (FRAMES, HEIGHT, WIDTH), key=(0,))
    assert first is not None and first[0, 0].all() and not first[0, 1:].any()


@pytest.mark.parametrize("frames", ["all", "run"])
def test_boxes_are_of_whole_tokens_within_their_sizes(frames: str) -> None:
    one = condition("inpaint", min_size=0.25, max_size=0.75, frames=frames)
    outside = condition("inpaint", min_size=0.25, max_size=0.75, frames=frames, learn="outside")
    heights, runs = set(), set()
    for n in range(300):
        clean = draw_clean(one, (FRAMES, HEIGHT, WIDTH), key=(n,))
        other = draw_clean(outside, (FRAMES, HEIGHT, WIDTH), key=(n,))
        assert clean is not None and other is not None and torch.equal(clean, ~other)
        assert clean.shape == (1, FRAMES, HEIGHT, WIDTH)
        tokens = clean[0].unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).float().mean((2, 4))
        assert ((tokens == 0) | (tokens == 1)).all()
        where = torch.nonzero(tokens == 0)
        low, high = where.min(0).values, where.max(0).values + 1
        assert (high - low).prod() == len(where)  # one box
        heights.add(int((high - low)[1]))
        runs.add(int((high - low)[0]))
    assert heights == {1, 2, 3}  # of 4 rows
    assert runs == ({FRAMES} if frames == "all" else {1, 2, 3, 4, 5})


def test_a_box_that_covers_all_leaves_text_to_video() -> None:
    full = condition("inpaint", min_size=1.0, max_size=1.0, frames="run")
    found = [draw_clean(full, (2, HEIGHT, WIDTH), key=(n,)) for n in range(40)]
    assert any(one is None for one in found) and any(one is not None for one in found)


def test_a_clips_own_mask_says_what_is_learned() -> None:
    mask = torch.zeros(2, 1, FRAMES, HEIGHT, WIDTH, dtype=torch.float16)
    mask[0, 0, 2:, 2:5, 6:8] = 1.0  # rows 2 to 4: of two rows of tokens
    mask[0, 0, 0, 0, 0], mask[0, 0, 0, 7, 0] = 0.4, 0.6  # mostly black, mostly white
    always = condition("inpaint_mask", probability=1.0)
    drawn = part(always).draw(slots(2), {"latents": torch.empty(2, 16, FRAMES, HEIGHT, WIDTH), "loss_mask": mask})
    assert drawn["condition"].tolist() == [1, 0]  # all black: nothing to learn inside, so text to video
    learned = torch.zeros(FRAMES, HEIGHT, WIDTH, dtype=torch.bool)
    learned[2:, 2:6, 6:8] = True
    learned[0, 6:8, 0:2] = True
    assert torch.equal(drawn["clean"][0, 0], ~learned) and not drawn["clean"][1].any()
    outside = draw_clean(condition("inpaint_mask", learn="outside"), (FRAMES, HEIGHT, WIDTH), key=(0,), mask=mask[0])
    assert outside is not None and torch.equal(outside[0], learned)


def test_losses_are_those_of_each_conditions_own_samples() -> None:
    """Two micro batches; a loss that is not finite is of its own condition."""
    one = part(I2V, SUFFIX)
    step: dict[str, Scalar] = {}
    for codes, losses in (([0, 1], [1.0, 4.0]), ([1, 0], [2.0, torch.nan])):
        batch = MicroBatch({"latents": torch.empty(2), "condition": torch.tensor(codes)})
        accumulate(step, one.measure(batch, torch.tensor(losses)), part=0.5)
    (row,) = to_host([step], lambda tensor: 1.0 * tensor)
    assert np.isnan(row.pop("train/loss_text_to_video"))
    assert row == {
        "train/fraction_text_to_video": 0.5, "train/fraction_image_to_video": 0.5, "train/fraction_extend_suffix": 0.0,
        "train/loss_image_to_video": 3.0,
    }  # fmt: skip


def test_ratios_add_up_over_ranks_before_they_are_divided() -> None:
    def of_rank(total: float, count: float) -> dict[str, Scalar]:
        ratio = Scalar(torch.tensor([total, count]), "ratio")
        return {
            "ratio": ratio,
            "sum": Scalar(torch.tensor(count), "sum"),
            "norm": Scalar(torch.tensor(9.0), "equal"),
        }

    sent: list[torch.Tensor] = []
    to_host([of_rank(3.0, 1.0), of_rank(0.0, 0.0)], lambda tensor: sent.append(tensor) or tensor)
    rows = to_host([of_rank(5.0, 3.0), of_rank(0.0, 0.0)], lambda tensor: tensor + sent[0])
    assert rows == [{"ratio": 2.0, "sum": 4.0, "norm": 9.0}, {"sum": 0.0, "norm": 9.0}]


REFUSED = [
    ("train.conditions=[{probability: 0.5}]", "train.conditions.0.name: missing; known here: image_to_video, extend"),
    (
        "train.conditions=[{name: i2v, probability: 1}]",
        "train.conditions.0.name: there is no i2v; known here: image_to",
    ),
    ("train.conditions=[{name: extend}]", "train.conditions.0.probability: missing"),
    ("train.conditions=[{name: extend, probability: 0}]", "probability: must be above 0"),
    ("train.conditions=[{name: extend, probability: 1.5}]", "probability: must be at most 1"),
    (
        "train.conditions=[{name: extend, probability: 0.7}, {name: image_to_video, probability: 0.4}]",
        "train.conditions: probabilities of the conditions are 0.7 + 0.4 = 1.1 together, above 1",
    ),
    (
        "train.conditions=[{name: extend, probability: 0.2}, {name: extend, probability: 0.4}]",
        "train.conditions: two conditions are extend_prefix; keep one, with both probabilities",
    ),
    (
        "train.conditions=[{name: extend, probability: 0.2, min_latent_frames: 7}]",
        "min_latent_frames 7 is above max_latent_frames 6; swap them",
    ),
    (
        "train.conditions=[{name: inpaint, probability: 0.2, min_size: 0.8}]",
        "min_size 0.8 is above max_size 0.75; swap them",
    ),
    (
        "train.conditions=[{name: inpaint, probability: 0.2, min_size: 1, max_size: 1}]",
        "min_size 1 covers all of every frame",
    ),
    (
        "train.conditions=[{name: image_to_video, probability: 0.2, max_boxes: 2}]",
        "max_boxes: no setting of image_to_video, but of inpaint",
    ),
    (
        "train.conditions=[{name: extend, probability: 0.2, min_latent_frames: 5}]",
        "train.conditions.0: extend gives min_latent_frames 5 or more, and the longest bucket has 5, of which one "
        "is to be learned; use at most 4",
    ),
    (
        "train.conditions=[{name: image_to_video, probability: 0.2}] | bucket.buckets=[1x96x160]",
        "train.conditions.0: image_to_video leaves nothing to learn of samples of one frame",
    ),
    (
        "download.datasets.0.conditions=[{name: extend, probability: 0.2}] | bucket.buckets=[1x96x160]",
        "download.datasets[demo].conditions.0: extend leaves nothing to learn of samples of one frame",
    ),
    (
        "download.datasets.0.conditions=[{name: extend, probability: 1}, {name: extend, probability: 1}]",
        "download.datasets.0.conditions: two conditions are extend_prefix",
    ),
    (
        "train.conditions=[{name: inpaint_mask, probability: 0.2}]",
        "train.conditions.0: inpaint_mask looks inside masks, and no data set that it is of has any",
    ),
    (
        "download.datasets.0.conditions=[] | download.datasets.0.role=eval",
        "conditions say how samples are trained on, and role is eval; remove one",
    ),
]


@pytest.mark.parametrize(("overrides", "said"), REFUSED, ids=[said[:40] for _, said in REFUSED])
def test_what_cannot_hold_is_refused_when_the_config_is_loaded(overrides: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config("configs/demo.yaml", overrides.split(" | "))
    assert said in str(error.value)
    assert "1 mistake\n" in str(error.value)


def test_prefix_and_suffix_are_two_conditions() -> None:
    both = "[{name: extend, probability: 0.5}, {name: extend, probability: 0.5, side: suffix}]"
    config = load_config("configs/demo.yaml", [f"train.conditions={both}"])
    assert [one.label for one in config.train.conditions] == ["extend_prefix", "extend_suffix"]


def test_costs_are_those_of_a_timestep_by_token_if_any_data_set_has_conditions() -> None:
    listed = "conditions=[{name: image_to_video, probability: 0.5}]"
    plain, of_all, of_one = (
        load_config("configs/demo.yaml", overrides)
        for overrides in ([], [f"train.{listed}"], [f"download.datasets.0.{listed}"])
    )
    assert plain.with_any_conditions is plain and of_all.with_any_conditions is of_all
    assert of_one.with_any_conditions.train == of_all.train
    found = [calibrated_settings(config)["train"] for config in (plain, of_all, of_one)]
    assert found[1] == found[2] != found[0]


def test_masks_are_encoded_for_a_condition_that_looks_inside_them() -> None:
    masks = "download.datasets.0.masks={suffix: .mask}"
    listed = "conditions=[{name: inpaint_mask, probability: 0.5}, {name: inpaint, probability: 0.1}]"
    for owner in ("train", "download.datasets.0"):
        config = load_config("configs/demo.yaml", [masks, f"{owner}.{listed}"])
        assert is_used(config) and list(config.evaluated_conditions) == ["inpaint"]
    assert not is_used(load_config("configs/demo.yaml", [masks]))
