"""A device is the configured one, or an error that says which there are."""

from collections.abc import Callable

import pytest
import torch

from sana.errors import ConfigError, SanaError
from sana.model.device import out_of_memory_explained, resolve_device
from sana.training.checkpoints.host_copy import StateCopy

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize(
    "name", ["cuda:99", pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="it has one"))]
)
def test_a_gpu_that_is_not_there_is_one_error(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"device {name} is not here: torch .* sees {torch.cuda.device_count()} GPUs"
    ):
        resolve_device(name)


def test_auto_is_always_there() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


def _too_much() -> None:
    torch.empty(2**56, dtype=torch.uint8)


@pytest.mark.parametrize("allocate", [_too_much, lambda: bytearray(2**62)])
def test_memory_that_is_not_there_is_told_with_what_needs_less(allocate: Callable[[], object]) -> None:
    with pytest.raises(SanaError, match="not enough memory .*; less is needed with a.b=1"):
        out_of_memory_explained("a.b=1")(allocate)()


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="must match"), out_of_memory_explained("a.b=1"):
        torch.ones(2) + torch.ones(3)


def test_no_memory_for_the_copy_of_a_checkpoint_names_the_setting() -> None:
    with pytest.raises(SanaError, match="train.resources.checkpoint_in_background=false"):
        StateCopy().allocate({"weights/a": torch.empty(2**54, device="meta")})
