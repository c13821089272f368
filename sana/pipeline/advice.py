"""Advice: what a config allows and what cannot work well. A warning has the numbers, the key and what to set instead.

Some of it is known from the config alone, the rest once the bucket stage has counted the samples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sana.bucket import Bucket
from sana.config.encode import EncodeFeaturesConfig
from sana.config.pipeline import Config
from sana.config.places import is_below
from sana.config.training.optimization.schedule import FallingSchedule
from sana.facts import BucketFacts
from sana.wording import counted

FEW_EPOCHS, MANY_EPOCHS = 1, 200  # below and above, training is warned of
_MOST = 0.5  # of the sources
_SOUND_EPOCHS = 100  # what is proposed instead of too many
_SMALL_FACTOR = 0.1  # of Prodigy's step size: below it is meant as another optimizer's learning rate
_PASSES_OF_TRAINING = 3  # of one sample: forward, and a backward pass of twice that
_ROUNDING = 1e-6  # of a sum of probabilities
_EVALUATED = 2  # sets of weights in the loop: live and EMA
_EVAL_PART = 0.1  # of training, which eval losses are proposed to take
_WARMUP_PART = 20  # a warm-up that is proposed takes one of so many steps


@dataclass(frozen=True)
class Advice:
    """A warning of one line; it ends with the setting that ends it, `key` and `value`, where one does."""

    text: str
    key: str = ""
    value: int | float | str = ""

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else self.value
        return f"{self.text} -s {self.key}={value}" if self.key else self.text


def advice(config: Config, facts: BucketFacts | None = None) -> list[Advice]:
    """Return the warnings about a config; `facts` of its bucket stage, where it is known."""
    found = [
        *_of_roles(config),
        *_of_shares(config),
        *_of_schedule(config),
        *_of_optimizer(config),
        *_of_intervals(config),
        *_without_effect(config),
        *_of_conditions(config),
    ]
    found += _of_sampling(config, facts)
    return found if facts is None else [*found, *_of_samples(config, facts), *_of_evaluation(config, facts)]


def _of_roles(config: Config) -> Iterator[Advice]:
    """A data set of role eval that has the files of another: what they share has one split."""
    datasets = config.download.enabled
    for held in (dataset for dataset in datasets if dataset.role == "eval"):
        for other in (dataset for dataset in datasets if dataset.role != "eval"):
            whole = is_below(other.source, held.source)
            if not whole and not (other.role == "train" and is_below(held.source, other.source)):
                continue
            end = (
                "a run stops at the bucket stage, as training would see what the eval loss is measured on"
                if other.role == "train"
                else f"all of {other.id} is held out, as what they share has one split"
            )
            yield Advice(
                f"{held.where} has role: eval and {other.where} role: {other.role}, and they have the same files: "
                f"{end};",
                f"download.datasets.{held.id}.role",
                "split",
            )


def _without_effect(config: Config) -> Iterator[Advice]:
    """Settings that only another one makes use of."""
    masked = next((dataset for dataset in config.download.enabled if dataset.masks is not None), None)
    has_features = config.encode_features != EncodeFeaturesConfig()
    for where, reader, key in (
        (
            f"{masked.where}.masks" if masked is not None and not config.trains_with_masks else "",
            "train.masked_loss or a condition inpaint_mask nothing reads masks",
            "train.masked_loss",
        ),
        (
            "encode_features" if has_features and config.train.crepa is None else "",
            "train.crepa nothing reads features",
            "train.crepa",
        ),
    ):
        if where:
            yield Advice(f"{where} is set, and without {reader}: it has no effect;", key, "{}")


def _of_schedule(config: Config) -> Iterator[Advice]:
    train, schedule = config.train, config.train.lr_schedule
    if schedule.warmup_steps >= train.max_steps:
        yield Advice(
            f"train.lr_schedule.warmup_steps {schedule.warmup_steps:,} is not below train.max_steps "
            f"{train.max_steps:,}: the learning rate never stays at {train.learning_rate:g};",
            "train.lr_schedule.warmup_steps",
            max(0, train.max_steps // _WARMUP_PART),
        )
    elif isinstance(schedule, FallingSchedule) and schedule.decay_steps and not schedule.min_learning_rate:
        end = schedule.warmup_steps + schedule.decay_steps
        if end < train.max_steps:
            yield Advice(
                f"train.lr_schedule ends at step {end:,} with learning rate 0: the other {train.max_steps - end:,} of "
                f"train.max_steps {train.max_steps:,} change nothing;",
                "train.lr_schedule.decay_steps",
                train.max_steps - schedule.warmup_steps,
            )


def _of_optimizer(config: Config) -> Iterator[Advice]:
    rate = config.train.learning_rate
    if config.train.optimizer.name == "prodigy" and rate < _SMALL_FACTOR:
        yield Advice(
            f"train.optimizer.name prodigy finds its step size itself, and train.learning_rate {rate:g} is a factor on "
            "it: it learns that much slower;",
            "train.learning_rate",
            1,
        )


def _of_intervals(config: Config) -> Iterator[Advice]:
    train, resources = config.train, config.train.resources
    judged = train.early_stopping.every if train.early_stopping is not None else 0
    shown = 0 if train.validation.at_start else train.validation.every
    for name, every, never in (
        (
            "resources.checkpoint_every",
            resources.checkpoint_every,
            "a kill before the last step loses all of the training",
        ),
        ("resources.eval_every", resources.eval_every, "no eval loss is measured between the first step and the last"),
        ("resources.log_every", resources.log_every, "no loss is shown before the last step"),
        ("early_stopping.every", judged, "no step is judged: none is the best, and nothing stops early"),
        ("image_every", train.image_every or 0, "no step is of pictures"),
        ("validation.every", shown, "no video is made while it trains"),
    ):
        if every > train.max_steps:
            yield Advice(
                f"train.{name} {every:,} is above train.max_steps {train.max_steps:,}: {never};",
                f"train.{name}",
                max(1, train.max_steps // 20 if name == "resources.log_every" else train.max_steps // 4),
            )


def _of_conditions(config: Config) -> Iterator[Advice]:
    """What is chosen by the eval loss of text to video, which a run of conditions alone does not train."""
    listed = [config.conditions_of(dataset) for dataset in config.download.enabled if dataset.role != "eval"]
    if min(sum(one.probability for one in conditions) for conditions in listed) < 1 - _ROUNDING:
        return
    label = next(iter(config.evaluated_conditions), listed[0][0].label)
    resources = config.train.resources
    for used, key, off in (
        (config.train.early_stopping is not None, "train.early_stopping", "null"),
        (resources.keep_best_checkpoints > 0, "train.resources.keep_best_checkpoints", 0),
    ):
        if used:
            yield Advice(
                f"conditions leave no sample text to video, and {key} chooses by eval/loss_ema, which is of text to "
                f"video; look at eval/loss_ema_{label}, and",
                key,
                off,
            )


def _of_sampling(config: Config, facts: BucketFacts | None) -> Iterator[Advice]:
    """The videos that are sampled: of a shape and a rate that was trained on?"""
    datasets = [dataset for dataset in config.download.enabled if dataset.role != "eval"]
    trained = sorted({bucket for dataset in datasets for bucket in config.rules_of(dataset).shapes})
    which = "is none of the buckets"
    if facts is not None:
        trained = [bucket for bucket in trained if (of := facts.buckets.get(str(bucket))) and of.train]
        which = "has no train sample; the buckets that do are"
    sampled = config.sample.shape
    if trained and sampled not in trained:
        names = ", ".join(str(bucket) for bucket in trained[:6]) + (f", ... ({len(trained)})" if trained[6:] else "")
        yield Advice(
            f"sample.bucket {sampled} {which} {names}: its videos have a shape that training never sees;",
            "sample.bucket",
            str(_nearest(sampled, trained)),
        )
    rates = {config.rules_of(dataset).target_fps for dataset in datasets}
    rate = rates.pop() if len(rates) == 1 else None
    if rate is not None and rate != config.sample.fps:
        yield Advice(
            f"sample.fps {config.sample.fps:g} is not bucket.target_fps {rate:g}: sampled videos play at "
            f"{config.sample.fps / rate:.2g} times the speed of the clips;",
            "sample.fps",
            rate,
        )


def _of_shares(config: Config) -> Iterator[Advice]:
    """Shares of the data that leave little to learn from."""
    if config.bucket.eval_fraction > _MOST:
        yield Advice(
            f"bucket.eval_fraction {config.bucket.eval_fraction:g} holds out more than is trained on;",
            "bucket.eval_fraction",
            0.05,
        )
    if config.train.caption_dropout >= 1:
        yield Advice(
            f"train.caption_dropout {config.train.caption_dropout:g} replaces every caption: training sees no text;",
            "train.caption_dropout",
            0.1,
        )


def _nearest(bucket: Bucket, others: Sequence[Bucket]) -> Bucket:
    return min(others, key=lambda one: (abs(one.log_aspect - bucket.log_aspect), -one.num_frames, -one.height))


def _of_samples(config: Config, facts: BucketFacts) -> Iterator[Advice]:
    train = config.train
    samples = sum(of.train for of in facts.buckets.values())
    if not samples:
        return  # the run stops at the empty split
    if facts.small_buckets and set(facts.buckets) <= set(facts.small_buckets):
        yield Advice(
            f"bucket.min_bucket_samples {config.bucket.min_bucket_samples:,} is above what any bucket has, "
            f"{max(of.train for of in facts.buckets.values()):,}: all of them count as small; lower it"
        )
    at_once = train.resources.num_processes * train.resources.micro_batch_size
    if train.global_batch_size > samples:
        fewer = max(at_once, samples // at_once * at_once)
        text = (
            f"train.global_batch_size {train.global_batch_size:,} is above the {samples:,} train samples: a step sees "
            "some of them more than once;"
        )
        can_be_less = fewer < train.global_batch_size
        yield Advice(text, "train.global_batch_size", fewer) if can_be_less else Advice(f"{text} add clips")
    draws = [dataset.draws_per_epoch for dataset in config.download.enabled if dataset.role != "eval"]
    drawn, work = train.max_steps * train.global_batch_size, f"train.max_steps {train.max_steps:,} x "
    work += f"train.global_batch_size {train.global_batch_size:,}"
    # a data set of a higher weight is gone through more often; what is said holds for all of them
    fewest, most = drawn / (samples * max(draws)), drawn / (samples * min(draws))
    if most < FEW_EPOCHS:
        steps = -(-samples // train.global_batch_size)
        text = f"{work} is {most:.2g} epochs of {samples:,} train samples: not all are seen;"
        yield Advice(text, "train.max_steps", steps)
    if fewest > MANY_EPOCHS:
        steps = max(1, round(_SOUND_EPOCHS * samples * max(draws) / train.global_batch_size))
        text = f"{work} is {fewest:,.0f} epochs of {samples:,} train samples: they are likely to be memorised; "
        yield Advice(f"{text}add clips, or", "train.max_steps", steps)


def _of_evaluation(config: Config, facts: BucketFacts) -> Iterator[Advice]:
    """Eval losses in the loop that take longer than the training between them."""
    train, every = config.train, config.train.resources.eval_every
    samples = min(sum(of.eval for of in facts.buckets.values()), config.evaluate.max_samples)
    conditions = len(config.evaluated_conditions)
    passes = _EVALUATED * samples * config.evaluate.num_sigmas * (1 + conditions)
    also = f", and with {counted(conditions, 'condition')}" if conditions else ""
    of_step = _PASSES_OF_TRAINING * train.global_batch_size
    if 0 < every <= train.max_steps and passes > every * of_step:
        most = min(train.max_steps, -(-round(passes / _EVAL_PART) // of_step))
        yield Advice(
            f"train.resources.eval_every {every:,} is {every * of_step:,} forward passes of training, and an eval loss "
            f"takes {passes:,} ({samples:,} samples x {config.evaluate.num_sigmas} levels, live and EMA weights{also}"
            "): most of the time is evaluation; lower evaluate.max_samples, or",
            "train.resources.eval_every",
            most,
        )
