"""Worker: one video per validation prompt and a contact sheet, from a checkpoint and cached embeddings."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sana.artifact import digest_of
from sana.config.pipeline import Config
from sana.data.shards.shard import Location, read_tensor
from sana.data.tables import read_table
from sana.data.video.contact_sheet import contact_sheet, sheet_row
from sana.data.video.first_frame import read_first_frame
from sana.data.video.given_video import GivenFrames, read_given
from sana.data.video.video import write_mp4
from sana.errors import SanaError
from sana.model.device import out_of_memory_explained, resolve_device
from sana.model.pipeline import SanaPipeline, load_pipeline, sample_video
from sana.model.precision import MODEL_MATH
from sana.model.sampling.clean_estimate import Preview
from sana.progress import PreviewReady, Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.results import SampleResult
from sana.runtime.specs import CheckpointName, ModelSource, SampleSpec
from sana.store import Store
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.trainables.registry import trained_transformer
from sana.training.validation.previews import Previews, open_previews
from sana.wording import as_file_name, counted

_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@out_of_memory_explained("sample.vae_tiling=true, or sample.resources.offload.type=block_level")
def sample(job: Job[SampleSpec]) -> None:
    """Sample every prompt of the library."""
    config, spec = job.config.sample, job.spec
    store = job.open_store()
    index = read_table(store, spec.captions, "index.parquet").to_pylist()
    prompts = {row["name"]: read_tensor(store, Location.of(row)) for row in index if row["role"] == "prompt"}
    texts = {row["name"]: row["text"] for row in index if row["role"] == "prompt"}
    negative = next(read_tensor(store, Location.of(row)) for row in index if row["role"] == "negative")

    steps = len(prompts) * config.num_inference_steps
    job.report(Progress(0, steps, "sampler steps", phase="loading the model"))
    pipe = load_trained(job.config, store, spec.model, spec.checkpoint)
    out = Path(spec.out_dir)
    previews = _previews(job, pipe) if config.preview_every else None
    job.report(Progress(0, steps, "sampler steps"))
    videos: dict[str, np.ndarray] = {}
    for number, (name, embeds) in enumerate(sorted(prompts.items())):

        def on_step(step: int, _steps: int, number: int = number, name: str = name) -> None:
            done = number * config.num_inference_steps + step
            of = f"prompt {number + 1} of {len(prompts)}: {name}" if done < steps else counted(len(prompts), "video")
            job.report(Progress(done, steps, "sampler steps", of))

        def on_preview(step: int, of: int, latents: Tensor, number: int = number, name: str = name) -> None:
            assert previews is not None
            picture = previews.write(as_file_name(name), step, of, latents)
            told = PreviewReady(spec.checkpoint.step, name, step, of, str(picture))
            done = number * config.num_inference_steps + step
            job.report(Progress(done, steps, "sampler steps", name, happened=(told,)))

        videos[name] = sample_one(
            job.config,
            pipe,
            embeds,
            negative,
            on_step,
            name=f"prompt {name}",
            preview=Preview(previews.every, on_preview) if previews else None,
            first_frame=_first_frame(job.config, name),
            given=_given(job.config, name),
        )
        write_mp4(out / f"{as_file_name(name)}.mp4", videos[name], fps=config.fps)
    rows = [sheet_row(f"{name}: {texts[name]}", video) for name, video in videos.items()]
    contact_sheet(rows).save(out / "contact_sheet.png")
    result = SampleResult(
        videos={name: f"{as_file_name(name)}.mp4" for name in videos},
        videos_digest=digest_of({name: digest_of(video.tobytes().hex()) for name, video in videos.items()}),
    )
    (out / SampleResult.FILE).write_bytes(result.to_json())


def _previews(job: Job[SampleSpec], pipe: SanaPipeline) -> Previews:
    """Return what makes previews; how good a fitted map is is in the artifact, as preview.json."""
    config, spec = job.config, job.spec
    previews = open_previews(
        config,
        job.open_store(),
        spec.latents,
        every=config.sample.preview_every,
        folder=job.work_dir / "previews" / "sample",
        device=pipe.vae.device,
        vae=lambda: pipe.vae,
    )
    if previews.fitted is not None:
        (Path(spec.out_dir) / "preview.json").write_bytes(previews.fitted.to_json())
    return previews


def _first_frame(config: Config, nickname: str) -> np.ndarray | None:
    path = config.sample.images.get(nickname)
    return None if path is None else read_image(config, path, where=f"sample.images.{nickname}")


def _given(config: Config, nickname: str) -> GivenFrames | None:
    """Read what is given of another video. Raises ConfigError: it cannot be read, or is too short."""
    settings = config.sample
    found = [(place, given) for place, given in enumerate(settings.videos) if given.prompt == nickname]
    if not found:
        return None
    place, given = found[0]
    return read_given(given, settings.shape, fps=settings.fps, where=f"sample.videos.{place}")


def read_image(config: Config, path: str, *, where: str) -> np.ndarray:
    """Read the picture that a video begins with, in its shape: uint8 [H, W, 3]. Raises ConfigError: it is none."""
    shape = config.sample.shape
    return read_first_frame(path, height=shape.height, width=shape.width, where=where)


def load_trained(config: Config, store: Store, model: ModelSource, checkpoint: CheckpointName) -> SanaPipeline:
    """Load the model with a checkpoint's weights, those of `sample.weights`, on the device of `sample.resources`."""
    weights = load_weights(store, checkpoint.trajectory, checkpoint.step, which=config.sample.weights)
    dtype = _DTYPES[config.train.mixed_precision]
    transformer = trained_transformer(model, config.train, weights, dtype=dtype)
    del weights  # another copy of the model
    device = resolve_device(config.sample.resources.device)
    return load_pipeline(
        model.path,
        transformer=transformer,
        revision=model.revision,
        vae_precision=config.sample.vae_precision,
        vae_tiling=config.sample.vae_tiling,
        device=device,
        offload=config.sample.resources.offload,
        work_dir=Path(config.work_dir).absolute(),
    )


def sample_one(
    config: Config,
    pipe: SanaPipeline,
    embeds: Tensor,
    negative: Tensor,
    on_step: Callable[[int, int], None],
    *,
    name: str,
    preview: Preview | None = None,
    first_frame: np.ndarray | None = None,
    given: GivenFrames | None = None,
) -> np.ndarray:
    """Sample one video as the sample settings say: uint8 [F, H, W, 3]; embeddings [L, C] of real tokens.

    It begins with `first_frame`, uint8 [H, W, 3], where that is there, or keeps what is `given`.

    Raises:
        SanaError: its numbers are not finite; names the video, which is `name`, and the weights.
    """
    try:
        return _sample(config, pipe, embeds, negative, on_step, preview, first_frame, given)
    except FloatingPointError as error:
        raise SanaError(
            f"sample: no video of {name} with the {config.sample.weights} weights: {error}. The weights or the "
            "prompt's embeddings are broken: look at the training's losses, sample from other weights "
            "(sample.weights, an earlier checkpoint), or decode in sample.vae_precision=fp32"
        ) from error


def _sample(
    config: Config,
    pipe: SanaPipeline,
    embeds: Tensor,
    negative: Tensor,
    on_step: Callable[[int, int], None],
    preview: Preview | None,
    first_frame: np.ndarray | None,
    given: GivenFrames | None,
) -> np.ndarray:
    settings = config.sample
    return sample_video(
        pipe,
        prompt_embeds=embeds,
        negative_embeds=negative,
        num_frames=settings.shape.num_frames,
        height=settings.shape.height,
        width=settings.shape.width,
        steps=settings.num_inference_steps,
        guidance=settings.guidance_scale,
        seed=settings.seed,
        math=MODEL_MATH[config.train.mixed_precision],
        vae_precision=settings.vae_precision,
        on_step=on_step,
        preview=preview,
        first_frame=first_frame,
        given=given,
    )


if __name__ == "__main__":
    run_worker(sample, SampleSpec)
