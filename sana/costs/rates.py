"""Seconds and peak memory of one item of each stage: measured on this machine, or else estimated."""

from dataclasses import dataclass, replace

from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.config.training.offload import GroupOffload
from sana.costs.calibration import Calibration, Rate, Trial
from sana.costs.learned import learned_part, training_passes
from sana.costs.machine import Machine
from sana.costs.memory import MASTER_BYTES, TrainingMemory, training_memory
from sana.costs.offload import text_encoder_parameters_on_device, transformer_parameters_on_device
from sana.costs.text import TextSizes
from sana.costs.training import kept_activations, optimizer_bytes, training_setting
from sana.costs.transformer import StepFlops, TransformerSizes
from sana.costs.vae import VaeSizes, tiles_of

MEASURED, SCALED, ESTIMATED = "measured", "scaled", "estimated"  # scaled: from what was measured of another setting
# Dense bf16 TFLOP/s of a data sheet, by what a card's name contains; the first that fits
_TFLOPS = {
    "B200": 2250, "GH200": 989, "H200": 989, "H100": 989, "H800": 989, "A100": 312, "A800": 312, "L40S": 362,
    "RTX 5090": 210, "RTX 4090": 165, "RTX 3090": 71, "L40": 181, "L4": 121, "A10": 125,
}  # fmt: skip
# Shares of it that an H200 reached: eager training (computed again included) and forward passes; the VAE in TF32; the
# text encoder, a caption at a time
_SHARE_MODEL, _SHARE_VAE, _SHARE_TEXT = 0.26, 0.096, 0.066
_VAE_TENSORS = 10.5  # of the VAE's largest layer that exist at once, with cuDNN's workspace: 7.3 GiB on an H200
_TEMPLATE_TOKENS = 300  # before a caption, with a template
_CHUNK = 4  # frames that the VAE works on at once


@dataclass(frozen=True)
class Rates:
    """What one item takes on a machine: 0 seconds where nothing tells the device's speed."""

    config: Config
    transformer: TransformerSizes
    vae: VaeSizes
    text_encoder: TextSizes
    machine: Machine
    calibration: Calibration | None = None

    @property
    def trial(self) -> Trial | None:
        """What was measured of the config's own setting; else of the chosen one."""
        if self.calibration is None:
            return None
        whole = [one for one in self.calibration.whole_model(self.transformer.num_layers) if one.fits]
        return next((one for one in whole if self.is_own(one)), self.calibration.chosen)

    @property
    def kept(self) -> float:
        """The share of activations that the config keeps; `auto` keeps what was measured to fit."""
        resources = self.config.train.resources
        chosen = None if self.calibration is None else self.calibration.chosen
        is_auto = resources.activation_memory == "auto"
        if is_auto and chosen is not None and chosen.micro_batch_size >= resources.micro_batch_size:
            return chosen.kept
        return kept_activations(self.config.train, on_gpu=self.machine.is_gpu)

    def is_own(self, trial: Trial) -> bool:
        """Whether a trial had the config's own setting."""
        own = (self.kept, self.config.train.resources.micro_batch_size)
        return (trial.kept, trial.micro_batch_size) == own

    def train(self, bucket: Bucket) -> Rate:
        """Training, per sample; of another setting or bucket than was measured, scaled by what is counted of both."""
        kept, micro = self.kept, self.config.train.resources.micro_batch_size
        tokens = self.config.encode_captions.max_tokens
        passes = training_passes(self.config.train, self.transformer)
        step = self.transformer.flops(bucket, caption_tokens=tokens, passes=passes)
        flops = step.with_recompute(kept) + self._rollout(step)
        counted = self._counted(bucket, kept, micro)
        trial, measured = self.trial, self.calibration
        if trial is None or measured is None:
            return self._estimated(flops, _SHARE_MODEL, counted)
        at = Bucket.parse(measured.bucket)
        there = self.transformer.flops(at, caption_tokens=measured.caption_tokens, passes=passes)
        of = there.with_recompute(trial.kept)
        ratio = counted / self._counted(at, trial.kept, trial.micro_batch_size)
        return Rate(trial.sample_s * flops / of, round(trial.peak_bytes * ratio))

    def _rollout(self, step: StepFlops) -> int:
        """Return what rollout computes beside a training step, on average; it is not measured."""
        train = self.config.train
        return 0 if train.rollout is None else round(train.rollout.mean_passes(train.max_steps) * step.forward)

    def train_host_bytes(self, bucket: Bucket) -> int:
        """What a GPU's training holds in the host's memory: what is offloaded, and the copy for a checkpoint."""
        resources = self.config.train.resources
        held = self._memory(bucket, self.kept, resources.micro_batch_size).host
        return held + resources.checkpoint_in_background * checkpoint_bytes(self.config, self.transformer)

    def _counted(self, bucket: Bucket, kept: float, micro_batch_size: int) -> int:
        return self._memory(bucket, kept, micro_batch_size).peak

    def _memory(self, bucket: Bucket, kept: float, micro_batch_size: int) -> TrainingMemory:
        setting = training_setting(
            self.config.train,
            self.transformer,
            caption_tokens=self.config.encode_captions.max_tokens,
            on_gpu=self.machine.is_gpu,
            kept=kept,
            micro_batch_size=micro_batch_size,
        )
        return training_memory(self.transformer, bucket, setting)

    def forward(self, bucket: Bucket, offload: GroupOffload) -> Rate:
        """A forward pass of one sample, with the stage's own offload."""
        flops = self.transformer.flops(bucket, caption_tokens=self.config.encode_captions.max_tokens).forward
        held = transformer_parameters_on_device(self.transformer, offload)
        if self.calibration is not None and self.calibration.forward is not None:
            at = Bucket.parse(self.calibration.bucket)
            of = self.transformer.flops(at, caption_tokens=self.calibration.caption_tokens).forward
            measured = _scaled(self.calibration.forward, flops, of)
            # training's own offload was measured
            there = transformer_parameters_on_device(self.transformer, self.config.train.resources.offload)
            return replace(measured, peak_bytes=max(0, measured.peak_bytes + MASTER_BYTES * (held - there)))
        tokens, width = self.transformer.num_tokens(bucket), self.transformer.width
        # of the feed-forward network two tensors in bf16, and six of the width in fp32
        working = tokens * (2 * 2 * self.transformer.hidden * 2 + 6 * width * 4)
        # and the weights with their copies in bf16
        weights = (MASTER_BYTES + 2) * held
        return self._estimated(flops, _SHARE_MODEL, weights + working)

    def encode(self, bucket: Bucket) -> Rate:
        """Encoding a clip."""
        tiling = self.config.encode_latents.tiling
        flops = self.vae.encode_flops(bucket, tiling=tiling)
        if self.calibration is not None and self.calibration.encode is not None:
            at = Bucket.parse(self.calibration.bucket)
            return _scaled(self.calibration.encode, flops, self.vae.encode_flops(at, tiling=tiling))
        peak = self._vae_bytes(bucket, self.config.encode_latents.vae_precision, tiling=tiling)
        return self._estimated(flops, _SHARE_VAE, peak)

    def decode(self, bucket: Bucket) -> Rate:
        """Decoding a clip."""
        tiling = self.config.sample.vae_tiling
        flops = self.vae.decode_flops(bucket, tiling=tiling)
        if self.calibration is not None and self.calibration.decode is not None:
            at = Bucket.parse(self.calibration.bucket)
            return _scaled(self.calibration.decode, flops, self.vae.decode_flops(at, tiling=tiling))
        peak = self._vae_bytes(bucket, self.config.sample.vae_precision, tiling=tiling)
        return self._estimated(flops, _SHARE_VAE, peak)

    def caption(self) -> Rate:
        """Encoding a caption."""
        config = self.config.encode_captions
        held = text_encoder_parameters_on_device(self.text_encoder, config.resources.offload)
        element = 4 if config.dtype == "fp32" else 2
        if self.calibration is not None and self.calibration.captions is not None:
            measured, left = self.calibration.captions, element * (self.text_encoder.num_parameters - held)
            return replace(measured, peak_bytes=max(0, measured.peak_bytes - left))
        tokens = config.max_tokens + (_TEMPLATE_TOKENS if config.template != "none" else 0)
        working = 8 * config.batch_size * tokens * self.text_encoder.intermediate_size * 4
        return self._estimated(self.text_encoder.flops(tokens), _SHARE_TEXT, element * held + working)

    def _estimated(self, flops: float, share: float, peak_bytes: float) -> Rate:
        name = self.machine.device.upper() if self.machine.is_gpu else ""
        tflops = next((speed for known, speed in _TFLOPS.items() if known in name), None)
        return Rate(0.0 if tflops is None else flops / (share * tflops * 1e12), round(peak_bytes))

    def _vae_bytes(self, bucket: Bucket, precision: str, *, tiling: bool) -> float:
        element = 2 if precision == "bf16" else 4
        tile = tiles_of(bucket)[0] if tiling else bucket
        largest = min(bucket.num_frames, _CHUNK) * tile.height * tile.width * self.vae.base_dim
        pixels = 3 * 4 * bucket.num_frames * bucket.height * bucket.width
        return element * (self.vae.num_parameters + _VAE_TENSORS * largest) + pixels


def _scaled(rate: Rate, flops: float, of: float) -> Rate:
    return replace(rate, seconds=rate.seconds * flops / of)


def checkpoint_bytes(config: Config, transformer: TransformerSizes) -> int:
    """Return the bytes of a checkpoint: weights, EMA and the optimizer's state; what is frozen is there twice."""
    weights = 2 if config.train.weights_dtype == "bf16" else MASTER_BYTES
    moments = optimizer_bytes(config.train, transformer)
    learned = learned_part(config.train, transformer)
    if learned is None:
        return (weights + MASTER_BYTES) * transformer.num_parameters + moments
    kept_twice = learned.fixed_bytes if config.train.method.name == "full" else 0
    return (weights + MASTER_BYTES) * learned.num_parameters + 2 * kept_twice + moments


def export_bytes(config: Config, transformer: TransformerSizes) -> int:
    """Return the bytes of what training exports: all weights, or an adapter's, with all weights where it is merged."""
    train = config.train
    learned = learned_part(train, transformer)
    if learned is None or train.method.name == "full":
        return MASTER_BYTES * transformer.num_parameters
    merged = transformer.num_parameters if train.resources.export_merged else 0
    return MASTER_BYTES * (learned.num_parameters + merged)
