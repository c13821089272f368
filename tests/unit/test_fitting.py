"""Full or LoRA by what fits: the published model on cards of several sizes, and on a machine without one."""

import pytest

from sana.pipeline.starting.fitting import PUBLISHED, Room, fit, recommended
from sana.pipeline.starting.starter import Starter

GIB = 2**30
PLAIN: dict[str, object] = {}
ON_HOST = {"train.resources.ema_device": "cpu"}
BF16 = {"train.weights_dtype": "bf16", "train.optimizer.name": "adamw_bf16", **ON_HOST}
OFFLOAD = {"train.resources.offload.type": "block_level"}


@pytest.mark.parametrize(
    ("card_gib", "host_gib", "full", "full_fits", "lora_fits", "proposed"),
    [
        (141, 512, PLAIN, True, True, "full"),
        (80, 512, PLAIN, True, True, "full"),
        (48, 512, ON_HOST, True, True, "full"),
        (32, 512, BF16, True, True, "lora"),  # full fits, in another precision than usual
        (24, 512, OFFLOAD, True, True, "lora"),
        (24, 16, OFFLOAD, False, True, "lora"),  # the host has no room for what is offloaded
        (8, 512, OFFLOAD, False, False, "lora"),
    ],
)
def test_cards(
    card_gib: int, host_gib: int, full: dict[str, object], full_fits: bool, lora_fits: bool, proposed: str
) -> None:
    starter = Starter("clips", [])
    room = Room(card_gib * GIB, host_gib * GIB, on_gpu=True)
    fits = {method: fit(method, starter.tried, PUBLISHED, room) for method in ("full", "lora")}
    assert (fits["full"].settings, fits["full"].fits, fits["lora"].fits) == (full, full_fits, lora_fits)
    best = recommended(fits["full"], fits["lora"])
    assert best.method == proposed
    starter.choose(best.settings)  # what is proposed is a valid config


def test_without_a_gpu_the_memory_is_the_host_s() -> None:
    starter = Starter("clips", [])
    full, lora = (
        fit(method, starter.tried, PUBLISHED, Room(24 * GIB, 24 * GIB, on_gpu=False)) for method in ("full", "lora")
    )
    assert not full.fits and full.peak_bytes > 24 * GIB and recommended(full, lora) is lora
