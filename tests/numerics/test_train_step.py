"""One optimizer step of the loop is the textbook's: flow matching, mean over the batch, clip, AdamW, EMA."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel
from torch import Tensor

from sana.data.loading.epoch import epoch_plan
from sana.data.loading.loader import Reader, load_samples
from sana.data.shards.shard_cache import ShardFiles
from sana.metrics import parse_rows
from sana.model.random import philox_normal, philox_uniform
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.workers.train import train
from tests.training_store import build_encoded, train_config, train_job

pytestmark = pytest.mark.timeout(120)

SEED, BATCH, WARMUP, LR, BETA1, BETA2, EPS, DECAY, MAX_NORM = 5, 4, 3, 3e-3, 0.9, 0.99, 1e-8, 0.01, 0.3
DROPOUT, EMA_DECAY, SHIFT = 0.3, 0.95, 3.0
STEPS = 3


def drawn(reader: Reader, row: int, *, key: tuple) -> tuple[Tensor, Tensor, Tensor, Tensor, bool]:
    """Return what a position in a batch draws: latent, caption, noise, sigma [1], whether the caption is dropped."""
    drop = philox_uniform([1], key=(*key, "caption_dropout")).item() < DROPOUT
    pick = int(philox_uniform([1], key=(*key, "caption")).item() * reader.num_captions(row))
    x0, caption = reader.read(row, caption=None if drop else pick)
    noise = philox_normal(x0.shape, key=(*key, "noise"))
    u = philox_uniform([1], key=(*key, "sigma")).double()
    base = torch.sigmoid(math.sqrt(2) * torch.erfinv(2 * u - 1))
    return x0, caption, noise, (SHIFT * base / (1 + (SHIFT - 1) * base)).float(), drop


def adamw_step(name: str, weight: Tensor, grad: Tensor, first: Tensor, second: Tensor, step: int) -> None:
    """One step of AdamW in place, as Loshchilov and Hutter write it, under a linear warm-up."""
    rate = LR * (step + 1) / WARMUP
    if weight.ndim >= 2 and not name.endswith("scale_shift_table"):
        weight.mul_(1 - rate * DECAY)
    first.mul_(BETA1).add_(grad, alpha=1 - BETA1)
    second.mul_(BETA2).addcmul_(grad, grad, value=1 - BETA2)
    mean, variance = first / (1 - BETA1 ** (step + 1)), second / (1 - BETA2 ** (step + 1))
    weight.sub_(rate * mean / (variance.sqrt() + EPS))


def test_steps_equal_a_plain_rendering(tmp_path: Path, tiny_model: Path) -> None:
    encoded = build_encoded(tmp_path / "store")
    config = train_config(
        encoded, tmp_path / "work", tiny_model, max_steps=STEPS, global_batch_size=BATCH, micro_batch_size=2, seed=SEED,
        lr_schedule={"warmup_steps": WARMUP}, learning_rate=LR, max_grad_norm=MAX_NORM, caption_dropout=DROPOUT,
        optimizer={"beta2": BETA2, "epsilon": EPS, "weight_decay": DECAY}, ema_decay=EMA_DECAY,
    )  # fmt: skip
    job = train_job(encoded, config, tiny_model)
    train(job)

    samples = load_samples(encoded.store, encoded.latents, encoded.captions, "train")
    reader = Reader(ShardFiles(encoded.store), samples)
    model = SanaVideoTransformer3DModel.from_pretrained(tiny_model / "transformer")
    weights = dict(model.named_parameters())
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    first = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    second = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    plan = epoch_plan(samples.bucket_codes, seed=SEED, epoch=0, batch_size=BATCH)
    losses, norms, dropped = [], [], 0
    for step in range(STEPS):
        model.zero_grad()
        total = 0.0
        for position, row in enumerate(plan[step].tolist()):  # one by one: no padding, no batching
            x0, caption, noise, sigma, drop = drawn(reader, row, key=("train", SEED, step, position))
            dropped += drop
            velocity = model(
                ((1 - sigma) * x0 + sigma * noise)[None],
                encoder_hidden_states=caption.float()[None],
                timestep=1000 * sigma,
                return_dict=False,
            )[0][0]
            loss = torch.nn.functional.mse_loss(velocity, noise - x0) / BATCH
            loss.backward()
            total += loss.item()
        losses.append(total)
        norm = math.sqrt(sum(weight.grad.double().square().sum().item() for weight in weights.values()))
        norms.append(norm)
        ema = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, weight in weights.items():
                adamw_step(name, weight, weight.grad * min(1.0, MAX_NORM / norm), first[name], second[name], step)
                average[name].mul_(ema).add_(weight, alpha=1 - ema)

    rows = parse_rows((tmp_path / "work" / "train" / "t" / "metrics.jsonl").read_bytes())
    assert [row["train/loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx(norms, rel=1e-5)
    assert 0 < dropped < STEPS * BATCH and min(norms) > MAX_NORM  # the test exercises dropout and clipping
    live = load_weights(encoded.store, "t", STEPS, which="live")
    saved_ema = load_weights(encoded.store, "t", STEPS, which="ema")
    for found, expected in ((live, weights), (saved_ema, average)):
        worst = max((found[name] - weight).abs().max().item() for name, weight in expected.items())
        print(f"largest difference of a weight {worst:.1e}")
        assert worst < 1e-6
