"""What a plan costs: hours, bytes written and peak memory of each stage that is to be run, on this machine.

Counts come from what is stored already; what is not counted yet is said to be unknown. Speeds and peaks are those that
`sana calibrate` measured here, or estimates, which refuse nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from sana.bucket import LATENT_CHANNELS, Bucket
from sana.config.pipeline import Config
from sana.context import Context
from sana.costs.calibration import Calibration, Rate, find_calibration, is_sharded
from sana.costs.features import feature_bytes
from sana.costs.machine import host_memory, this_machine
from sana.costs.rates import ESTIMATED, MEASURED, SCALED, Rates, checkpoint_bytes, export_bytes
from sana.errors import ConfigError
from sana.facts import WEIGHTS, BucketFacts
from sana.model.features.encoder_files import resolve_encoder
from sana.model.model_configs import read_model_sizes
from sana.pipeline.plan import CACHED, StagePlan
from sana.runtime.specs import CheckBaseSpec
from sana.stages.bodies.trainable_here import largest_bucket, why_not_trainable
from sana.wording import in_units

HOUR_S = 3600.0
NO_SPEED, UNCOUNTED = "speed of this device not known", "not counted yet"


@dataclass(frozen=True)
class StageCost:
    """What one stage would take; None is unknown, and `unknown` says why. `basis` is of seconds and peak memory."""

    name: str
    basis: str
    seconds: float | None = None
    written_bytes: int | None = None
    peak_bytes: int | None = None
    unknown: str = ""
    host_bytes: int | None = None  # of the host's memory, beside the peak of a GPU's


@dataclass(frozen=True)
class PlanCosts:
    """The costs of the stages that would run; those that take no device are left out."""

    stages: tuple[StageCost, ...]
    device: str
    memory_bytes: int  # of the device; 0: unknown
    is_calibrated: bool
    host_memory_bytes: int = 0  # 0: unknown
    is_sharded: bool = False

    @property
    def seconds(self) -> float:
        """All that is known."""
        return sum(one.seconds or 0.0 for one in self.stages)


def plan_costs(context: Context, plans: Sequence[StagePlan]) -> PlanCosts:
    """Return the costs of what is to be run.

    Raises:
        SanaError: the model's config files cannot be read, or a calibration is damaged.
    """
    config = context.config.with_any_conditions
    sizes = read_model_sizes(config.model, work_dir=context.work_dir, read_only=context.read_only)
    machine = this_machine(config.train.resources.device)
    calibration = find_calibration(config, sizes.configs, str(largest_bucket(config)))
    rates = Rates(config, sizes.transformer, sizes.vae, sizes.text_encoder, machine, calibration)
    counts = _Counts(context, plans)
    made = [_COSTS[plan.name](counts, rates, plan) for plan in plans if plan.state != CACHED and plan.name in _COSTS]
    of_machine = (machine.device, machine.memory_bytes, calibration is not None, host_memory())
    return PlanCosts(tuple(made), *of_machine, is_sharded=is_sharded(config.train))


Plans = Sequence[StagePlan] | Callable[[], Sequence[StagePlan]]  # made only if they are needed


def not_trainable(context: Context, plans: Plans) -> str:
    """Return why training, if it is to be run, cannot be on this device, and what can; "" where nothing says so.

    What was measured not to fit cannot; estimates refuse nothing.
    """
    if not (why := why_not_trainable(context)):
        return ""
    planned = plans() if callable(plans) else plans
    return why if any(plan.name == "train" and plan.state != CACHED for plan in planned) else ""


def check_trainable(context: Context, plans: Plans) -> None:
    """Refuse to train where it cannot be.

    Raises:
        ConfigError: it was measured not to fit, or names of parameters in the config match none; says what would do.
    """
    if why := not_trainable(context, plans):
        raise ConfigError(why)


class _Counts:
    """What is stored of a plan's data, counted."""

    def __init__(self, context: Context, plans: Sequence[StagePlan]) -> None:
        self.context, self.config = context, context.config
        made = {plan.name: plan.artifact for plan in plans}.get(BucketFacts.STAGE)
        self.facts = None if made is None else BucketFacts.of(made)

    def samples(self) -> Mapping[Bucket, tuple[int, int]]:
        """Return the train and eval samples of each bucket; empty while they are not counted."""
        if self.facts is None:
            return {}
        return {Bucket.parse(name): (of.train, of.eval) for name, of in self.facts.buckets.items()}

    def mean(self, seconds: Callable[[Bucket], Rate], split: int) -> float:
        """Return the mean seconds of a split's samples; where they are not counted, of the largest bucket."""
        weights = {bucket: counts[split] for bucket, counts in self.samples().items() if counts[split]}
        weights = weights or {largest_bucket(self.config): 1}
        return sum(seconds(bucket).seconds * count for bucket, count in weights.items()) / sum(weights.values())

    def mean_step(self, seconds: Callable[[Bucket], Rate]) -> float:
        """Return the mean seconds of a train sample, as often as training takes those of each bucket."""
        every = self.config.train.image_every
        of_kind = {False: [0.0, 0], True: [0.0, 0]}  # seconds and samples; True: buckets of one frame
        for bucket, (train, _) in self.samples().items() if every is not None else ():
            kind = of_kind[bucket.num_frames == 1]
            kind[0] += seconds(bucket).seconds * train
            kind[1] += train
        if every is None or not all(count for _, count in of_kind.values()):
            return self.mean(seconds, 0)
        videos, images = (total / count for total, count in of_kind.values())
        return videos + (images - videos) / every

    def peak(self, rate: Callable[[Bucket], Rate]) -> int:
        """Return the peak memory of the largest bucket that has samples."""
        buckets = list(self.samples()) or [largest_bucket(self.config)]
        return max(rate(bucket).peak_bytes for bucket in buckets)


def _cost(
    rates: Rates, name: str, basis: str, seconds: float, written: int | None, peak: int, unknown: str = ""
) -> StageCost:
    """Return a cost; 0 seconds of an item mean that nothing tells the speed of the device."""
    unknown = unknown if seconds else NO_SPEED
    return StageCost(name, basis, seconds or None, written, peak, unknown)


def _basis(rates: Rates, of: Callable[[Calibration], Rate | None]) -> str:
    return ESTIMATED if rates.calibration is None or of(rates.calibration) is None else MEASURED


def _features(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    """The bytes, which a disk may not have; how fast an encoder is nothing tells."""
    context, config = counts.context, counts.config.encode_features
    sizes = resolve_encoder(config, work_dir=context.work_dir, read_only=context.read_only).sizes
    bytes_of = partial(feature_bytes, tokens_per_cell=config.tokens_per_cell, sizes=sizes)
    left, samples = plan.work, counts.samples()
    if left is None or not samples:
        largest = largest_bucket(counts.config)
        each = f"{in_units(bytes_of(largest))} for each train sample of {largest}"
        return StageCost(plan.name, ESTIMATED, unknown=f"{each}; {UNCOUNTED}")
    share = (left[1] - left[0]) / max(1, left[1])  # of each bucket alike
    written = round(share * sum(bytes_of(bucket) * train for bucket, (train, _) in samples.items()))
    return StageCost(plan.name, ESTIMATED, written_bytes=written, unknown="the encoder's speed is not known")


def _captions(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    rate, config, left = rates.caption(), counts.config.encode_captions, plan.work
    basis = _basis(rates, lambda measured: measured.captions)
    if left is None:
        return StageCost(plan.name, basis, peak_bytes=rate.peak_bytes, unknown=UNCOUNTED)
    texts = left[1] - left[0]
    # at most: only a caption's own tokens are stored
    written = texts * config.max_tokens * rates.text_encoder.hidden_size * (4 if config.dtype == "fp32" else 2)
    return _cost(rates, plan.name, basis, texts * rate.seconds, written, rate.peak_bytes)


def _latents(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    basis = _basis(rates, lambda measured: measured.encode)
    peak, left, samples = counts.peak(rates.encode), plan.work, counts.samples()
    if left is None or not samples:
        return StageCost(plan.name, basis, peak_bytes=peak, unknown=UNCOUNTED)
    share = (left[1] - left[0]) / max(1, left[1])  # of each bucket alike
    seconds = sum(rates.encode(bucket).seconds * sum(of) for bucket, of in samples.items())
    written = sum(bucket.latent_bytes(counts.config.encode_latents.dtype) * sum(of) for bucket, of in samples.items())
    return _cost(rates, plan.name, basis, share * seconds, round(share * written), peak)


def _train(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    config = counts.config.train
    resources = config.resources
    left = plan.work or (0, config.max_steps)
    steps = left[1] - left[0]
    per_rank = config.global_batch_size / resources.num_processes
    seconds = steps * per_rank * counts.mean_step(rates.train)
    if resources.eval_every:
        forward = partial(rates.forward, offload=resources.offload)
        evals = steps // resources.eval_every
        seconds += evals * 2 * _eval_passes(counts) * counts.mean(forward, 1)
    seconds += _validation_s(counts.config, rates, steps)
    saves = -(-steps // resources.checkpoint_every)
    written = saves * checkpoint_bytes(counts.config, rates.transformer)
    written += export_bytes(counts.config, rates.transformer)
    basis = ESTIMATED if rates.trial is None else MEASURED if rates.is_own(rates.trial) else SCALED
    unknown = "" if counts.samples() else f"at most: as if all were {largest_bucket(counts.config)}"
    cost = _cost(rates, plan.name, basis, seconds, written, counts.peak(rates.train), unknown)
    # of all buckets alike
    return (
        replace(cost, host_bytes=rates.train_host_bytes(largest_bucket(counts.config)))
        if rates.machine.is_gpu
        else cost
    )


def _validation_s(config: Config, rates: Rates, steps: int) -> float:
    """Return the seconds of the validation videos of so many steps: each rank makes its part of them."""
    wanted, sample = config.train.validation, config.sample
    if not wanted.every:
        return 0.0
    num_steps = wanted.num_inference_steps or sample.num_inference_steps
    guided = 2 if (wanted.guidance_scale or sample.guidance_scale) > 1 else 1
    shapes = [Bucket.parse(name) for name in wanted.buckets] or [sample.shape]
    each: float = sum(
        num_steps * guided * rates.forward(shape, config.train.resources.offload).seconds + rates.decode(shape).seconds
        for shape in shapes
    )
    num_videos = len(wanted.prompts or sample.prompts) * len(wanted.seeds or (sample.seed,))
    times = (steps // wanted.every + wanted.at_start) * (2 if wanted.weights == "both" else 1)
    return times * num_videos * each / config.train.resources.num_processes


def _eval_passes(counts: _Counts) -> int:
    """Return the forward passes by which one set of weights is evaluated, with each condition too."""
    config = counts.config
    return _eval_samples(counts) * config.evaluate.num_sigmas * (1 + len(config.evaluated_conditions))


def _eval_samples(counts: _Counts) -> int:
    """Return how many samples an evaluation takes; as many as it may while they are not counted."""
    held_out = sum(of[1] for of in counts.samples().values())
    most = counts.config.evaluate.max_samples
    return min(held_out, most) if counts.samples() else most


def _check_base(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    passes = min(_eval_samples(counts), CheckBaseSpec.MAX_SAMPLES) * CheckBaseSpec.PASSES_PER_SAMPLE
    basis = _basis(rates, lambda measured: measured.forward)
    forward = partial(rates.forward, offload=counts.config.train.resources.offload)
    unknown = "" if counts.samples() else f"at most: {UNCOUNTED}"
    return _cost(rates, plan.name, basis, passes * counts.mean(forward, 1), None, counts.peak(forward), unknown)


def _evaluate(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    passes = _eval_passes(counts) * len(WEIGHTS)
    basis = _basis(rates, lambda measured: measured.forward)
    unknown = "" if counts.samples() else f"at most: {UNCOUNTED}"
    own, training = counts.config.evaluate.resources.offload, counts.config.train.resources.offload
    forward = partial(rates.forward, offload=own if own.is_on else training)
    seconds = passes * counts.mean(forward, 1)
    return _cost(rates, plan.name, basis, seconds, None, counts.peak(forward), unknown)


def _sample(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    config = counts.config.sample
    forward, decode = rates.forward(config.shape, config.resources.offload), rates.decode(config.shape)
    guided = 2 if config.guidance_scale > 1 else 1
    seconds = len(config.prompts) * (config.num_inference_steps * guided * forward.seconds + decode.seconds)
    basis = _basis(rates, lambda measured: measured.decode)
    return _cost(rates, plan.name, basis, seconds, None, max(forward.peak_bytes, decode.peak_bytes))


def _masks(counts: _Counts, rates: Rates, plan: StagePlan) -> StageCost:
    left, samples = plan.work, counts.samples()
    if left is None or not samples:
        return StageCost(plan.name, ESTIMATED, unknown=UNCOUNTED)
    share = (left[1] - left[0]) / max(1, left[1])
    # a latent's shape without its channels, fp16
    written = sum(bucket.latent_bytes("fp16") // LATENT_CHANNELS * sum(of) for bucket, of in samples.items())
    return StageCost(plan.name, ESTIMATED, written_bytes=round(share * written), unknown="as fast as videos decode")


_COSTS: Mapping[str, Callable[[_Counts, Rates, StagePlan], StageCost]] = {
    "encode_masks": _masks,
    "encode_features": _features,
    "encode_captions": _captions,
    "encode_latents": _latents,
    "check_base": _check_base,
    "train": _train,
    "evaluate": _evaluate,
    "sample": _sample,
}
