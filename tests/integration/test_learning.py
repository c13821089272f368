"""It learns: each way of training knows four clips by heart, and samples them again."""

from pathlib import Path
from typing import Any

import pytest

from tests.feature_store import build_features
from tests.learning_lab import (
    Question,
    build_clips,
    build_half_masks,
    build_wide_model,
    know_other_clips,
    learn,
)
from tests.training_lab import Lab

pytestmark = [pytest.mark.slow(group="learning"), pytest.mark.timeout(200), pytest.mark.usefixtures("own_sigterm")]

STEPS = 300
SETTINGS: dict[str, Any] = {
    "max_steps": STEPS, "global_batch_size": 4, "micro_batch_size": 4, "learning_rate": 4e-3,
    "lr_schedule": {"name": "cosine", "warmup_steps": 20, "decay_steps": STEPS}, "ema_decay": 0.95,
    "caption_dropout": 0.0, "log_every": 100, "checkpoint_every": STEPS, "max_grad_norm": 1.0,
    "timestep_sampling": {"name": "logit_normal", "shift": 2.0},
}  # fmt: skip
LORA = {"name": "lora", "rank": 32, "alpha": 64.0, "targets": ["self_attention", "cross_attention", "feed_forward"]}
MASKS: dict[str, Any] = {
    "masked_loss": {"probability": 1.0},
    "datasets": [{"id": "test", "source": "unused", "masks": {"suffix": ".mask"}}],
}
WAYS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora": {"method": LORA},
    "dora": {"method": {**LORA, "use_dora": True}},
    "int8_lora": {"method": LORA, "base_weights": "int8"},
    "rollout": {"rollout": {"max_step_offset": 2, "probability_end": 0.5, "num_inference_steps": 20, "shift": 2.0}},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Lab:
    folder = tmp_path_factory.mktemp("learning")
    base = know_other_clips(build_wide_model(tiny_model, folder / "wide"), folder / "base")
    return Lab(build_clips(folder / "store"), folder / "runs", base)


@pytest.mark.parametrize("way", WAYS)
def test_four_clips_are_known_by_heart(lab: Lab, way: str) -> None:
    learned = learn(lab, way, **{**SETTINGS, **WAYS[way]})
    assert learned.drop(Question.plain()) < 0.1
    assert min(learned.correlations(Question.plain())) >= 0.9


def test_beside_features(lab: Lab) -> None:
    crepa: dict[str, Any] = {"features": build_features(lab.encoded), "crepa": {"block_index": 1, "weight": 0.5}}
    learned = learn(lab, "crepa", **{**SETTINGS, **crepa})
    assert learned.drop(Question.plain()) < 0.1
    assert min(learned.correlations(Question.plain())) >= 0.9
    similarity = [row["train/crepa_similarity"] for row in lab.rows(lab.at("crepa", STEPS)) if "train/loss" in row]
    assert similarity[-1] > similarity[0] + 0.2


def test_a_clip_is_known_from_its_first_frame(lab: Lab) -> None:
    question = Question.from_first_frame()
    given = {"conditions": [{"name": "image_to_video", "probability": 1.0}]}
    learned = learn(lab, "image_to_video", is_given_first_frame=True, **{**SETTINGS, **given})
    assert learned.drop(question) < 0.1
    assert min(learned.correlations(question)) >= 0.9


def test_inside_a_mask_alone(lab: Lab) -> None:
    masks = build_half_masks(lab.encoded)
    learned = learn(lab, "masked", masks=masks, **{**SETTINGS, **MASKS})
    inside, outside = Question.inside_left_half(), Question.outside_left_half()
    assert learned.drop(inside) < 0.1 < learned.drop(outside)
    assert min(learned.correlations(inside)) >= 0.9
    assert max(learned.correlations(outside)) < 0.9
