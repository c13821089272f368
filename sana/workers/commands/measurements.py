"""What calibration measures, each in a process of its own: a training step, a forward pass, VAE and text encoder."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sana.bucket import Bucket
from sana.config.encode import EncodeCaptionsConfig
from sana.config.pipeline import Config
from sana.costs.calibration import Rate, Trial
from sana.costs.machine import this_machine
from sana.costs.training import with_activations
from sana.costs.vae import VaeSizes
from sana.data.shards.shard import DTYPES
from sana.model.device import resolve_device
from sana.model.precision import VAE_DTYPES
from sana.model.random_weights import random_text_encoder, random_vae
from sana.model.text import TEMPLATES
from sana.model.vae import decode_latents, encode_latents
from sana.runtime.command_specs import CalibrateSpec
from sana.runtime.job import Job
from sana.training.peak_memory import PeakMemory
from sana.training.synthetic import SyntheticModel, SyntheticTraining

SHORT_FRAMES = 17  # of the clip that the VAE is measured on: it works through all clips in the same chunks
CHARACTERS_PER_TOKEN = 4  # of a prompt template, whose tokens no config file counts
SHORT_TOKENS = 128  # of a caption that is padded to the next multiple of 64
_KEPT_FREE = 0.9  # of a CPU's free memory: the rest of the machine goes on


def is_gpu(config: Config) -> bool:
    return _device(config).type == "cuda"


def _device(config: Config) -> torch.device:
    return resolve_device(config.train.resources.device)


def capacity_bytes(config: Config, limit: int) -> int:
    """Return the bytes of the device that may be used."""
    if is_gpu(config):
        free = torch.cuda.mem_get_info(_device(config))[0]
    else:
        lines = (line.partition(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in lines}
        free = min(round(_KEPT_FREE * sizes["MemAvailable"]), this_machine("cpu").memory_bytes)
    return min(free, limit) if limit else free


def _limit(device: torch.device, capacity: int) -> None:
    """Fail where more than the capacity is needed, before the kernel ends this or another process."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, capacity / total), device)
    else:
        status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        data = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (data + capacity, resource.RLIM_INFINITY))


def measure_training(job: Job[CalibrateSpec], trial: Trial, capacity: int) -> Trial:
    """Take three steps of the trainer, and return the trial with what they needed."""
    spec = job.spec
    config = with_activations(
        job.config.train,
        kept=trial.kept,
        micro_batch_size=trial.micro_batch_size,
        global_batch_size=trial.samples_per_step,
    )
    device = _device(job.config)
    _limit(device, capacity)
    peak = PeakMemory(device)
    training = SyntheticTraining(
        config,
        spec.model_configs["transformer"],
        work_dir=job.work_dir,
        bucket=Bucket.parse(spec.bucket),
        num_layers=trial.num_layers,
    )
    times = training.measure(caption_tokens=spec.caption_tokens)
    return Trial(
        trial.num_layers,
        trial.micro_batch_size,
        trial.kept,
        fits=True,
        samples_per_step=trial.samples_per_step,
        first_step_s=times.first_s,
        step_s=times.step_s,
        peak_bytes=peak.read(),
    )


def measure_forward(job: Job[CalibrateSpec], capacity: int) -> Rate:
    """Evaluate one sample at one noise level, without an optimizer."""
    spec, device = job.spec, _device(job.config)
    _limit(device, capacity)
    peak = PeakMemory(device)
    config = with_activations(job.config.train, kept=0.0, micro_batch_size=1, global_batch_size=1)
    evaluation = SyntheticModel(config, spec.model_configs["transformer"], work_dir=job.work_dir)
    seconds = evaluation.measure_forward(Bucket.parse(spec.bucket), caption_tokens=spec.caption_tokens)
    return Rate(seconds, peak.read())


def measure_encoding(job: Job[CalibrateSpec], capacity: int) -> Rate:
    """Encode a short clip, and say what a whole one takes."""
    config, spec = job.config.encode_latents, job.spec
    whole, short = _clips(spec.bucket)
    device = resolve_device(config.resources.device)
    _limit(device, capacity)
    peak = PeakMemory(device)
    dtype = VAE_DTYPES[config.vae_precision]
    vae = random_vae(spec.model_configs["vae"], device=device, dtype=dtype, tiling=config.tiling)
    pixels = torch.rand(1, 3, short.num_frames, short.height, short.width) * 2 - 1
    seconds = _second(lambda: encode_latents(vae, pixels, precision=config.vae_precision))
    flops = VaeSizes.of(spec.model_configs["vae"])
    longer = flops.encode_flops(whole, tiling=config.tiling) / flops.encode_flops(short, tiling=config.tiling)
    return Rate(seconds * longer, peak.read() + _pixel_bytes(whole) - _pixel_bytes(short))


def measure_decoding(job: Job[CalibrateSpec], capacity: int) -> Rate:
    """Decode a short clip, and say what a whole one takes."""
    config, spec = job.config.sample, job.spec
    whole, short = _clips(spec.bucket)
    device = resolve_device(config.resources.device)
    _limit(device, capacity)
    peak = PeakMemory(device)
    vae = random_vae(
        spec.model_configs["vae"], device=device, dtype=VAE_DTYPES[config.vae_precision], tiling=config.vae_tiling
    )
    latents = torch.randn(1, *short.latent_shape)
    seconds = _second(lambda: decode_latents(vae, latents, precision=config.vae_precision))
    flops = VaeSizes.of(spec.model_configs["vae"])
    # the frames so far are copied when the next ones are added
    more = 2 * (_pixel_bytes(whole) - _pixel_bytes(short))
    longer = flops.decode_flops(whole, tiling=config.vae_tiling) / flops.decode_flops(short, tiling=config.vae_tiling)
    return Rate(seconds * longer, peak.read() + more)


def measure_captions(job: Job[CalibrateSpec], capacity: int) -> Rate:
    """Encode one batch of captions that are as long as they can be, and say what one takes."""
    config, spec = job.config.encode_captions, job.spec
    device = resolve_device(config.resources.device)
    _limit(device, capacity)
    peak = PeakMemory(device)
    encoder = random_text_encoder(spec.model_configs["text_encoder"], device=device, dtype=DTYPES[config.dtype])
    length = padded_tokens(config)
    tokens = torch.ones(config.batch_size, length, dtype=torch.int64, device=device)

    @torch.no_grad()
    def encode() -> Tensor:
        hidden: Tensor = encoder(tokens, attention_mask=torch.ones_like(tokens))[0]
        return hidden

    return Rate(_second(encode) / config.batch_size, peak.read())


def padded_tokens(config: EncodeCaptionsConfig) -> int:
    """Return about how many tokens a caption is padded to, its template included."""
    template = len(TEMPLATES[config.template]) // CHARACTERS_PER_TOKEN
    return template + (config.max_tokens if config.padding == "pipeline" else SHORT_TOKENS)


def _clips(name: str) -> tuple[Bucket, Bucket]:
    """Return the bucket, and the same with few frames."""
    whole = Bucket.parse(name)
    return whole, Bucket(min(whole.num_frames, SHORT_FRAMES), whole.height, whole.width)


def _pixel_bytes(bucket: Bucket) -> int:
    return 3 * 4 * bucket.num_frames * bucket.height * bucket.width


def _second(work: Callable[[], Tensor]) -> float:
    """Return the seconds that the second of two calls takes."""
    for _ in range(2):
        started = time.perf_counter()
        work().flatten()[0].item()  # waits for the device
        elapsed = time.perf_counter() - started
    return elapsed
