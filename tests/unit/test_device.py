"""A device is the configured one, or an error that says which there are."""

import pytest
import torch

from sana.errors import ConfigError
from sana.model.device import resolve_device

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
