"""What the VAE and the text encoder take on this machine's device, and whether the stage keeps up with its VAE.

    python -m benchmarks.encode_rates [vae] [compiled] [stage] [captions]

On a GPU with models of the published sizes (random weights) at 81x480x832; on a CPU with the tiny ones at 17x96x160,
where tf32 is fp32 and captions are not replayed. vae, compiled: seconds a window by precision, and how far its latents
are from strict fp32's. stage: seconds a window of the worker, loading left out, against its VAE on the same pixels.
captions: a second, one by one, replayed as a CUDA graph, and in batches of 8, with the texts whose bits differ.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.encode import context_and_inputs, ours
from benchmarks.models import build_model
from sana.config.encode import VaePrecision
from sana.data.video.frames import read_window
from sana.data.video.video import to_pixels
from sana.model.compiled_vae import compile_encoder
from sana.model.device import provenance, resolve_device
from sana.model.text import TextEncoder
from sana.model.vae import encode_latents, load_vae
from tests.pipeline_runs import Place, run_stages
from tests.video_files import make_video

DEVICE = resolve_device("auto")
ON_GPU = DEVICE.type == "cuda"
BUCKET = "81x480x832" if ON_GPU else "17x96x160"
FRAMES, HEIGHT, WIDTH = (int(side) for side in BUCKET.split("x"))
REPEATS = 5
PRECISIONS: tuple[VaePrecision, ...] = ("fp32", "tf32", "bf16")


def seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the shortest time of `work`, after one for the warm-up, with the device's work done."""
    times = []
    for _ in range(repeats + 1):
        if ON_GPU:
            torch.cuda.synchronize()
        started = time.perf_counter()
        work()
        if ON_GPU:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def window(folder: Path) -> Tensor:
    """Pixels of a real window [1, 3, F, H, W]."""
    video = make_video(folder / "window.mp4", num_frames=FRAMES, width=WIDTH, height=HEIGHT)
    columns: dict[str, object] = {"bucket": BUCKET, "start_frame": 0, "window_fps": 0.0, "treatment": ""}
    columns |= {"crop_left": 0.0, "crop_top": 0.0, "crop_width": float(WIDTH), "crop_height": float(HEIGHT)}
    return torch.from_numpy(to_pixels(read_window(video, columns)))[None]


def vae(folder: Path, model: Path, *, compiled: bool = False) -> None:
    pixels = window(folder)
    strict = encode_latents(load_vae(str(model), precision="fp32", device=DEVICE), pixels, precision="fp32")
    for precision in PRECISIONS:
        one = load_vae(str(model), precision=precision, device=DEVICE)
        if compiled:
            compile_encoder(one, cache=None)
        started = time.perf_counter()
        latents = encode_latents(one, pixels, precision=precision)
        off = ((latents - strict).norm() / strict.norm()).item()
        first = time.perf_counter() - started
        took = seconds(partial(encode_latents, one, pixels, precision=precision))
        how = f"compiled (its first window {first:.0f} s)" if compiled else "eager"
        print(f"| VAE, {precision}, {how} | {took:.3f} s a window, {off:.1e} from strict fp32 |")


def stage(folder: Path, model: Path) -> None:
    """From twice as many windows less from once as many, so that loading is in neither."""
    num_few = 6 if ON_GPU else 20
    took = []
    for count in (num_few, 2 * num_few):
        place = Place(folder / str(count), model, str(folder / str(count) / "root"))
        place.clips.mkdir(parents=True)
        (place.folder / "work").mkdir()
        for number in range(count):
            path = place.clips / f"{'clip' if number else 'bunny'}-{number:03d}.mp4"  # the demo holds bunny out
            make_video(path, num_frames=FRAMES, width=WIDTH, height=HEIGHT, gop=12 + number)
            path.with_suffix(".txt").write_text("a clip")
        run_stages(place.context(f"bucket.buckets=[{BUCKET}]"), last="bucket")
        given = context_and_inputs(place, BUCKET, "decode_threads=4")
        started = time.perf_counter()
        ours(*given)
        took.append(time.perf_counter() - started)
    pixels, one = window(folder), load_vae(str(model), device=DEVICE)
    bare, a_window = seconds(lambda: encode_latents(one, pixels)), (took[1] - took[0]) / num_few
    print(f"| the VAE alone on {BUCKET} | {bare:.3f} s |")
    print(f"| the stage, a window | {a_window:.3f} s: {bare / a_window:.3f} of the VAE's rate |")


def captions(_folder: Path, model: Path) -> None:
    texts = [f"a {'very ' * (number % 9)}small red ball rolls across table {number}" for number in range(32)]
    encoder, never = (TextEncoder.load(str(model), device=DEVICE) for _ in range(2))
    plain = [_plain(never, text) for text in texts]
    ways: dict[str, Callable[[], list[Tensor]]] = {
        "one by one": lambda: [_plain(never, text) for text in texts],
        "one by one, replayed": lambda: [_encoded(encoder, [text])[0] for text in texts],
        "in batches of 8": lambda: [one for at in range(0, 32, 8) for one in _encoded(encoder, texts[at : at + 8])],
    }
    for name, work in ways.items():
        differ = sum(not torch.equal(one, other) for one, other in zip(work(), plain, strict=True))
        print(f"| captions {name} | {32 / seconds(work, 2):.1f} a second, {differ} of 32 with other bits |")


def _encoded(encoder: TextEncoder, texts: list[str]) -> list[Tensor]:
    return [one.tokens for one in encoder.encode(texts, template="video")]


def _plain(encoder: TextEncoder, text: str) -> Tensor:
    encoder._forward._num_calls.clear()  # so that it is never captured
    return _encoded(encoder, [text])[0]


def main() -> None:
    names = sys.argv[1:] or (["vae", "compiled", "stage", "captions"] if ON_GPU else ["vae", "stage", "captions"])
    print(f"{provenance(DEVICE, 'tf32')}\n\n| what | value |\n|---|---|")
    if not ON_GPU:
        torch.set_num_threads(1)
    parts = {"vae": vae, "stage": stage, "captions": captions}
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        build_model(model, device=DEVICE)
        for part in names:
            folder = Path(name) / part
            folder.mkdir()
            if part == "compiled":
                vae(folder, model, compiled=True)
            else:
                parts[part](folder, model)


if __name__ == "__main__":
    main()
