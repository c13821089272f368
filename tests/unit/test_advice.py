"""Warnings: which configs give which, with the numbers, the key, and a value that ends the warning."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from sana.config.load import load_config
from sana.context import Context
from sana.facts import BucketFacts, BucketSummary, SmallBucket
from sana.pipeline.advice import Advice, advice
from sana.pipeline.advisor import Advisor
from sana.pipeline.observers import RunStart
from sana.store import LocalStore

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/demo.yaml"
SETS = "download.datasets=[{id: a, source: .}, {id: b, source: tests, role: eval, bucket: {buckets: [9x64x64]}}]"


def facts(train: int, held_out: int = 2, bucket: str = "17x96x160") -> BucketFacts:
    """The facts of a run with one bucket."""
    one = BucketSummary(train=train, eval=held_out, clips=train + held_out, crop_loss=0.0, upscaled=0.0)
    return BucketFacts({bucket: one}, sources=5, small_buckets={}, frames=9, frames_used=9, frames_dropped=0)


@pytest.mark.parametrize("path", [*(ROOT / "configs").glob("*.yaml"), *(ROOT / "examples").glob("*.yaml")])
def test_what_ships_gives_no_warning(path: Path) -> None:
    assert advice(load_config(path)) == []


def test_the_demo_gives_none_with_its_samples() -> None:
    assert advice(load_config(DEMO), facts(8, 5)) == []


# Overrides of the demo, train samples (None: not known yet), the warning.
CASES = [
    ("train.lr_schedule.warmup_steps=500", None,
     "train.lr_schedule.warmup_steps 500 is not below train.max_steps 120: the learning rate never stays at 0.003; "
     "-s train.lr_schedule.warmup_steps=6"),
    ("train.lr_schedule={name: cosine, warmup_steps: 120, decay_steps: 200}", None,
     "train.lr_schedule.warmup_steps 120 is not below train.max_steps 120: the learning rate never stays at 0.003; "
     "-s train.lr_schedule.warmup_steps=6"),
    ("train.lr_schedule={name: cosine, warmup_steps: 20, decay_steps: 50}", None,
     "train.lr_schedule ends at step 70 with learning rate 0: the other 50 of train.max_steps 120 change nothing; "
     "-s train.lr_schedule.decay_steps=100"),
    ("train.optimizer.name=prodigy", None,
     "train.optimizer.name prodigy finds its step size itself, and train.learning_rate 0.003 is a factor on it: it "
     "learns that much slower; -s train.learning_rate=1"),
    ("train.optimizer.name=prodigy | train.learning_rate=0.5", None, ""),
    ("encode_features.short_side=28", None,
     "encode_features is set, and without train.crepa nothing reads features: it has no effect; -s train.crepa={}"),
    ("train.conditions=[{name: image_to_video, probability: 1}] | train.resources.keep_best_checkpoints=1", None,
     "conditions leave no sample text to video, and train.resources.keep_best_checkpoints chooses by eval/loss_ema, "
     "which is of text to video; look at eval/loss_ema_image_to_video, and "
     "-s train.resources.keep_best_checkpoints=0"),
    ("train.conditions=[{name: image_to_video, probability: 0.9}] | train.resources.keep_best_checkpoints=1", None, ""),
    ("train.resources.checkpoint_every=500", None,
     "train.resources.checkpoint_every 500 is above train.max_steps 120: a kill before the last step loses all of the "
     "training; -s train.resources.checkpoint_every=30"),
    ("train.resources.eval_every=121", None,
     "train.resources.eval_every 121 is above train.max_steps 120: no eval loss is measured between the first step "
     "and the last; -s train.resources.eval_every=30"),
    ("train.resources.log_every=1000", None,
     "train.resources.log_every 1,000 is above train.max_steps 120: no loss is shown before the last step; "
     "-s train.resources.log_every=6"),
    ("train.early_stopping={every: 121}", None,
     "train.early_stopping.every 121 is above train.max_steps 120: no step is judged: none is the best, and nothing "
     "stops early; -s train.early_stopping.every=30"),
    ("train.validation.every=500", None,
     "train.validation.every 500 is above train.max_steps 120: no video is made while it trains; "
     "-s train.validation.every=30"),
    ("train.validation={every: 500, at_start: true}", None, ""),
    ("train.image_every=500 | bucket.buckets=[1x96x160, 17x96x160]", None,
     "train.image_every 500 is above train.max_steps 120: no step is of pictures; -s train.image_every=30"),
    ("download.datasets.0.masks={suffix: .mask}", None,
     "download.datasets[demo].masks is set, and without train.masked_loss or a condition inpaint_mask nothing reads "
     "masks: it has no effect; -s train.masked_loss={}"),
    ("download.datasets.0.masks={suffix: .mask} | train.masked_loss={}", None, ""),
    ("sample.bucket=81x480x832", None,
     "sample.bucket 81x480x832 is none of the buckets 9x96x160, 9x128x128, 9x160x96, 17x96x160, 17x128x128, 17x160x96: "
     "its videos have a shape that training never sees; -s sample.bucket=17x96x160"),
    ("sample.bucket=17x160x96", 200,
     "sample.bucket 17x160x96 has no train sample; the buckets that do are 17x96x160: its videos have a shape that "
     "training never sees; -s sample.bucket=17x96x160"),
    (f"{SETS} | sample.bucket=9x64x64", None,
     "sample.bucket 9x64x64 is none of the buckets 9x96x160, 9x128x128, 9x160x96, 17x96x160, 17x128x128, 17x160x96: "
     "its videos have a shape that training never sees; -s sample.bucket=17x128x128"),
    ("download.datasets=[{id: a, source: x, role: train}, {id: b, source: ./x/, role: eval}]", None,
     "download.datasets[b] has role: eval and download.datasets[a] role: train, and they have the same files: a run "
     "stops at the bucket stage, as training would see what the eval loss is measured on; "
     "-s download.datasets.b.role=split"),
    ("download.datasets=[{id: a, source: x, role: train}, {id: b, source: x/y, role: eval}]", None,
     "download.datasets[b] has role: eval and download.datasets[a] role: train, and they have the same files: a run "
     "stops at the bucket stage, as training would see what the eval loss is measured on; "
     "-s download.datasets.b.role=split"),
    ("download.datasets=[{id: a, source: s3://b/x}, {id: b, source: s3://b, role: eval}]", None,
     "download.datasets[b] has role: eval and download.datasets[a] role: split, and they have the same files: all of a "
     "is held out, as what they share has one split; -s download.datasets.b.role=split"),
    ("download.datasets=[{id: a, source: x}, {id: b, source: x/y, role: eval}]", None, ""),  # the rest is trained on
    ("download.datasets=[{id: a, source: x, role: train}, {id: b, source: x, role: train}, {id: c, source: y}]", None,
     ""),
    ("bucket.target_fps=8", None,
     "sample.fps 16 is not bucket.target_fps 8: sampled videos play at 2 times the speed of the clips; "
     "-s sample.fps=8"),
    ("bucket.eval_fraction=0.6", None,
     "bucket.eval_fraction 0.6 holds out more than is trained on; -s bucket.eval_fraction=0.05"),
    ("train.caption_dropout=1", None,
     "train.caption_dropout 1 replaces every caption: training sees no text; -s train.caption_dropout=0.1"),
    ("train.max_steps=130", 3,
     "train.global_batch_size 4 is above the 3 train samples: a step sees some of them more than once; add clips"),
    ("train.global_batch_size=64 | train.max_steps=70", 30,
     "train.global_batch_size 64 is above the 30 train samples: a step sees some of them more than once; "
     "-s train.global_batch_size=28"),
    ("train.resources.eval_every=2", 8,
     "train.resources.eval_every 2 is 24 forward passes of training, and an eval loss takes 32 (2 samples x 8 "
     "levels, live and EMA weights): most of the time is evaluation; lower evaluate.max_samples, or "
     "-s train.resources.eval_every=27"),
    ("train.resources.eval_every=2 | evaluate.max_samples=1", 8, ""),
    ("train.max_steps=120", 10_000,
     "train.max_steps 120 x train.global_batch_size 4 is 0.048 epochs of 10,000 train samples: not all are seen; "
     "-s train.max_steps=2500"),
    ("train.max_steps=20_000", 8,
     "train.max_steps 20,000 x train.global_batch_size 4 is 10,000 epochs of 8 train samples: they are likely to be "
     "memorised; add clips, or -s train.max_steps=200"),
    ("train.max_steps=2000 | download.datasets.demo.repeats=9", 8,
     ""),  # each is drawn ten times in an epoch: 100 epochs
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "train", "warning"), CASES, ids=[f"{one}, {num}" for one, num, _ in CASES])
def test_a_warning_says_numbers_key_and_remedy_and_the_remedy_ends_it(
    overrides: str, train: int | None, warning: str
) -> None:
    known = None if train is None else facts(train)
    found = advice(load_config(DEMO, overrides.split(" | ")), known)
    assert [str(one) for one in found] == ([warning] if warning else [])
    if remedy := re.search(r"-s (\S+)$", warning):
        assert advice(load_config(DEMO, [*overrides.split(" | "), remedy[1]]), known) == []


def test_a_limit_that_makes_every_bucket_small_is_said() -> None:
    config = load_config(DEMO, ["bucket.small_buckets=merge", "bucket.min_bucket_samples=50"])
    small = {name: SmallBucket(8, None, {}, 8) for name in facts(8).buckets}
    assert advice(config, replace(facts(8), small_buckets=small)) == [
        Advice("bucket.min_bucket_samples 50 is above what any bucket has, 8: all of them count as small; lower it")
    ]


def test_nothing_is_said_of_what_is_off_or_never_trained() -> None:
    assert advice(load_config(DEMO, ["train.resources.eval_every=0"]), facts(8)) == []
    assert advice(load_config(DEMO), facts(0)) == []  # the run stops at the empty split


def test_an_advisor_says_each_warning_once_though_it_learns_more(tmp_path: Path) -> None:
    said: list[str] = []
    config = load_config(DEMO, ["sample.bucket=81x480x832", "train.max_steps=4000"])
    advisor = Advisor(config, said.append)
    advisor.advise_on([])
    assert len(said) == 1
    advisor.on_run_start(RunStart("again", Context(config, LocalStore(str(tmp_path)), tmp_path)))
    assert len(said) == 1
    for _ in range(2):
        advisor.advise(facts(8))
    assert [line.partition(" ")[0] for line in said] == ["sample.bucket", "train.max_steps"]
