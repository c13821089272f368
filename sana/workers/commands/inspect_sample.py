"""`python -m sana.workers.commands.inspect_sample JOB`: decode a stored latent, beside the source frames.

Its one row is of the bucket stage's clips.parquet. Writes `side_by_side.mp4` (source left, decoded right),
`contact_sheet.png` and `sample.json`, a SampleInspection, to the spec's `out_dir`.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sana.bucket import Bucket
from sana.data.shards.shard import Location, read_tensor
from sana.data.sources.source import open_sources
from sana.data.video.frames import read_window
from sana.data.video.video import write_mp4
from sana.model.device import resolve_device
from sana.model.vae import decode_latents, load_vae
from sana.progress import Progress
from sana.runtime.command_specs import InspectSampleSpec
from sana.runtime.job import Job, run_worker
from sana.runtime.results import SampleInspection, StoredLatent

_SHEET_FRAMES = 6
_GAP, _LINE, _MARGIN = 6, 22, 76
Frames = NDArray[np.uint8]  # [F, H, W, 3]


def inspect_sample(job: Job[InspectSampleSpec]) -> None:
    """Decode one sample, compare it with its source, and draw both."""
    spec = job.spec
    [window] = job.todo().to_pylist()
    config = job.config.encode_latents
    job.report(Progress(0, 2, "steps", phase="reading the source's frames"))
    source_of = open_sources(job.config, work_dir=job.work_dir)[window["dataset"]]
    with source_of.open_video(window["path"], digest=window["digest"]) as path:
        source = read_window(path, window)
    job.report(Progress(1, 2, "steps", phase="decoding the latent"))
    vae = load_vae(
        spec.model.path,
        revision=spec.model.revision,
        precision=config.vae_precision,
        device=resolve_device(config.resources.device),
        tiling=config.tiling,
    )
    stored = read_tensor(job.open_store(), Location(**vars(spec.latent)))
    pixels = decode_latents(vae, stored[None].float(), precision=config.vae_precision)[0].clamp(-1, 1)
    decoded = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy()
    inspection = SampleInspection(
        path=window["path"],
        bucket=window["bucket"],
        first_frame=window["start_frame"],
        last_frame=window["start_frame"] + Bucket.parse(window["bucket"]).num_frames - 1,
        psnr_db=round(psnr_db(source, decoded), 2),
        stored=StoredLatent(spec.latent.dtype, spec.latent.shape, round(float(stored.float().std()), 4)),
        captions=spec.captions,
    )
    out = Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    fps = window["window_fps"] or window["fps"] or 16.0
    write_mp4(out / "side_by_side.mp4", np.concatenate([source, decoded], axis=2), fps=fps)
    contact_sheet(source, decoded, inspection).save(out / "contact_sheet.png")
    (out / SampleInspection.FILE).write_bytes(inspection.to_json(ascii_only=False))
    job.report(Progress(2, 2, "steps"))


def psnr_db(first: Frames, second: Frames) -> float:
    """Return the peak signal-to-noise ratio of two videos of one shape, in dB; 99 for equal ones."""
    mse = float(np.mean((first.astype(np.float32) - second.astype(np.float32)) ** 2))
    return 99.0 if mse == 0 else float(10 * np.log10(255.0**2 / mse))


def contact_sheet(source: Frames, decoded: Frames, inspection: SampleInspection) -> Image.Image:
    """Draw evenly spaced frames of the source above those of the decoded latent, under a few lines of text."""
    height, width = source.shape[1:3]
    scale = 200 / width
    width, height = round(width * scale), round(height * scale)
    text = inspection.captions[0] if inspection.captions else "(no caption)"
    lines = [
        inspection.path,
        f"bucket {inspection.bucket}, frames {inspection.first_frame} to {inspection.last_frame}, "
        f"PSNR {inspection.psnr_db} dB",
        text,
    ]
    top = len(lines) * _LINE + 2 * _GAP
    sheet_width = _MARGIN + _SHEET_FRAMES * (width + _GAP) + _GAP
    sheet = Image.new("RGB", (sheet_width, top + 2 * (height + _GAP) + _LINE), "white")
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((_GAP, _GAP + number * _LINE), line[: sheet_width // 8], fill="black", font_size=14)
    columns = np.linspace(0, len(source) - 1, _SHEET_FRAMES).round().astype(int)
    for row, (name, video) in enumerate((("source", source), ("decoded", decoded))):
        y = top + row * (height + _GAP)
        draw.text((_GAP, y + height // 2 - 8), name, fill="black", font_size=14)
        for column, frame in enumerate(columns):
            x = _MARGIN + column * (width + _GAP)
            sheet.paste(Image.fromarray(video[frame]).resize((width, height)), (x, y))
            if row:
                draw.text((x, y + height + 2), f"frame {frame}", fill="gray", font_size=12)
    return sheet


if __name__ == "__main__":
    run_worker(inspect_sample, InspectSampleSpec)
