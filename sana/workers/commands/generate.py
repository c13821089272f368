"""Worker: one video of a prompt that no config has, from a checkpoint."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
from pathlib import Path

from torch import Tensor

from sana.atomic_io import atomic_write
from sana.data.shards.shard import DTYPES
from sana.data.video.video import write_mp4
from sana.model.device import out_of_memory_explained, resolve_device
from sana.model.pipeline import SanaPipeline
from sana.model.sampling.clean_estimate import Preview
from sana.model.text import TextEncoder
from sana.progress import PreviewReady, Progress
from sana.runtime.command_specs import GenerateSpec
from sana.runtime.job import Job, run_worker
from sana.training.validation.previews import open_previews
from sana.workers.sample import load_trained, read_image, sample_one


@out_of_memory_explained("sample.vae_tiling=true, or sample.resources.offload.type=block_level")
def generate(job: Job[GenerateSpec]) -> None:
    """Encode the prompt as encode_captions does, free the text encoder, sample, and write the video."""
    config, spec = job.config.sample, job.spec
    steps = config.num_inference_steps
    first = None if spec.image is None else read_image(job.config, spec.image, where="--image")
    job.report(Progress(0, steps, "sampler steps", phase="encoding the prompt"))
    embeds, negative = _embeddings(job)  # the encoder is freed before the transformer is loaded: 5 GB of the 2B model
    job.report(Progress(0, steps, "sampler steps", phase="loading the model"))
    pipe = load_trained(job.config, job.open_store(), spec.model, spec.checkpoint)

    def on_step(done: int, total: int) -> None:
        job.report(Progress(done, total, "sampler steps", phase="" if done < total else "decoding the latents"))

    preview = _preview(job, pipe)
    video = sample_one(
        job.config, pipe, embeds, negative, on_step, name="the prompt", preview=preview, first_frame=first
    )
    with atomic_write(Path(spec.out)) as temp:
        write_mp4(temp, video, fps=config.fps)


def _preview(job: Job[GenerateSpec], pipe: SanaPipeline) -> Preview | None:
    """Return what writes pictures of the video on its way, each under the number of its sampler step."""
    config, spec = job.config, job.spec
    if spec.previews is None:
        return None
    folder = Path(spec.previews)
    previews = open_previews(
        config,
        job.open_store(),
        spec.latents,
        every=config.sample.preview_every,
        folder=folder.parent,
        device=pipe.vae.device,
        vae=lambda: pipe.vae,
    )

    def show(done: int, steps: int, latents: Tensor) -> None:
        path = previews.write(folder.name, done, steps, latents)
        told = PreviewReady(spec.checkpoint.step, "the prompt", done, steps, str(path))
        job.report(Progress(done, steps, "sampler steps", happened=(told,)))

    return Preview(previews.every, show)


def _embeddings(job: Job[GenerateSpec]) -> tuple[Tensor, Tensor]:
    """Return the embeddings of the prompt and of the negative prompt: [L, C] each, real tokens only."""
    captions, model = job.config.encode_captions, job.spec.model
    device = resolve_device(captions.resources.device)
    encoder = TextEncoder.load(
        model.path,
        revision=model.revision,
        dtype=DTYPES[captions.dtype],
        device=device,
        offload=captions.resources.offload,
        work_dir=job.work_dir,
    )

    def encode(text: str, template: str) -> Tensor:
        return encoder.encode([text], template=template, max_tokens=captions.max_tokens)[0].tokens

    return encode(job.spec.prompt, captions.template), encode(job.config.sample.negative_prompt, "none")


if __name__ == "__main__":
    run_worker(generate, GenerateSpec)
