"""A transformer built with other weights is the one that is loaded and given them, to the bit."""

from pathlib import Path

import pytest
import torch
from diffusers import SanaVideoTransformer3DModel

from sana.model.transformer import load_transformer, predict, transformer_with

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_the_loaded_one_and_reads_no_weights(
    tiny_model: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    loaded = load_transformer(str(tiny_model), dtype=dtype)
    others = {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in loaded.state_dict().items()}
    loaded.load_state_dict(others)
    monkeypatch.setattr(SanaVideoTransformer3DModel, "from_pretrained", None)
    before = torch.get_default_dtype()
    built = transformer_with(str(tiny_model), others, dtype=dtype)
    assert torch.get_default_dtype() == before and not built.training
    tensors, expected = ({**dict(model.named_parameters()), **dict(model.named_buffers())} for model in (built, loaded))
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():  # rotary tables among them, in float32
        assert tensor.dtype == expected[name].dtype and torch.equal(tensor, expected[name]), name
    inputs = torch.randn(1, 16, 2, 8, 12, generator=generator)
    captions, mask = torch.randn(1, 5, 16, generator=generator), torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        outputs = [predict(model, inputs, torch.tensor([300.0]), captions, mask) for model in (built, loaded)]
    assert torch.equal(*outputs)


def test_a_missing_weight_is_an_error(tiny_model: Path) -> None:
    weights = load_transformer(str(tiny_model)).state_dict()
    del weights["proj_out.bias"]
    with pytest.raises(RuntimeError, match="proj_out.bias"):
        transformer_with(str(tiny_model), weights)
