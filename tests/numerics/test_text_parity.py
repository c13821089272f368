"""Captions are, bit for bit, what diffusers' SanaVideoPipeline feeds its transformer."""

import hashlib
import inspect
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaVideoPipeline
from transformers import Gemma2Model

from sana.model.text import TEMPLATES, TextEncoder
from sana.model.transformer import pad

CAPTIONS = {
    "short": "A small Red ball.",
    "padded with spaces": "   waves break on the shore \n",
    "motion score": "a blue square moving from left to right motion score: 30.",
    "empty": "",
    "unicode": "Kot \u017c\u00f3\u0142ty, \u732b\u304c\u8d70\u308b, \U0001f408 na parapecie",
    "too long": "two green circles bounce up and down while the light fades " * 30,
}
CHI = inspect.signature(SanaVideoPipeline.__call__).parameters["complex_human_instruction"].default


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def both(request: pytest.FixtureRequest, tiny_model: Path) -> tuple[TextEncoder, SanaVideoPipeline]:
    model = Gemma2Model.from_pretrained(tiny_model, subfolder="text_encoder", dtype=request.param)
    pipe = SanaVideoPipeline.from_pretrained(tiny_model, text_encoder=model)
    return TextEncoder.load(str(tiny_model), dtype=request.param), pipe


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("template", ["video", "none"])
def test_a_caption_equals_the_pipelines(both: tuple[TextEncoder, SanaVideoPipeline], template: str, name: str) -> None:
    encoder, pipe = both
    with torch.no_grad():
        positive, mask, negative, negative_mask = pipe.encode_prompt(
            CAPTIONS[name], True, negative_prompt=CAPTIONS[name], complex_human_instruction=CHI
        )
    if template == "none":
        positive, mask = negative, negative_mask
    caption = encoder.encode([CAPTIONS[name]], template=template)[0]
    assert caption.tokens.dtype == positive.dtype
    assert torch.equal(caption.tokens, positive[0][mask[0].bool()])
    assert caption.truncated == (name == "too long")
    embeds, padded_mask = pad([caption.tokens], length=300)
    assert torch.equal(padded_mask, mask)
    assert torch.equal(embeds[0][mask[0].bool()], positive[0][mask[0].bool()])


def test_a_batch_equals_the_pipelines_batch(both: tuple[TextEncoder, SanaVideoPipeline]) -> None:
    encoder, pipe = both
    texts = list(CAPTIONS.values())
    with torch.no_grad():
        embeds, mask, _, _ = pipe.encode_prompt(texts, False, complex_human_instruction=CHI, max_sequence_length=64)
    ours = encoder.encode(texts, template="video", max_tokens=64)
    assert all(torch.equal(a.tokens, b[m.bool()]) for a, b, m in zip(ours, embeds, mask, strict=True))


def test_the_templates_are_those_of_diffusers() -> None:
    """They are written out here: an upgrade that changes them fails here, instead of changing the captions of a run."""
    image = inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
    assert TEMPLATES["video"] == "\n".join(CHI)
    assert TEMPLATES["image"] == "\n".join(image).replace("'", '"')


def test_the_image_template_is_the_official_480p_instruction() -> None:
    # blake2b of "\n".join(text_encoder.chi_prompt) in NVlabs/Sana 98c4a1d, Sana_2000M_480px_AdamW_fsdp.yaml
    digest = hashlib.blake2b(TEMPLATES["image"].encode(), digest_size=16).hexdigest()
    assert digest == "399b95e84be638e4178cf25f5d3664bb"


def test_a_truncated_caption_keeps_its_beginning(tiny_model: Path) -> None:
    encoder = TextEncoder.load(str(tiny_model), dtype=torch.float32)
    text = CAPTIONS["too long"]
    short, whole = (encoder.encode([text], template="none", max_tokens=n)[0] for n in (40, 4000))
    assert short.truncated and not whole.truncated
    torch.testing.assert_close(short.tokens, whole.tokens[:40], rtol=0, atol=1e-5)


def test_a_caption_that_just_fits_is_not_truncated(tiny_model: Path) -> None:
    encoder = TextEncoder.load(str(tiny_model), dtype=torch.float32)
    size = len(encoder.encode([CAPTIONS["short"]], template="none")[0].tokens)
    fits, cut = (encoder.encode([CAPTIONS["short"]], template="none", max_tokens=n)[0] for n in (size, size - 1))
    assert (len(fits.tokens), fits.truncated) == (size, False)
    assert (len(cut.tokens), cut.truncated) == (size - 1, True)


def test_padding_is_zero_beyond_the_mask_and_masks_count_tokens() -> None:
    embeds, mask = pad([torch.ones(2, 4), torch.ones(5, 4)])
    assert embeds.shape == (2, 5, 4) and mask.tolist() == [[1, 1, 0, 0, 0], [1] * 5]
    assert torch.equal(embeds, mask[..., None].expand(-1, -1, 4).float())


def test_captions_that_cannot_be_padded_are_an_error() -> None:
    with pytest.raises(ValueError, match="one token"):
        pad([torch.ones(0, 4), torch.ones(5, 4)])
    with pytest.raises(ValueError, match="more than the 4"):
        pad([torch.ones(5, 4)], length=4)


def test_unknown_templates_and_lengths_are_an_error(tiny_model: Path) -> None:
    encoder = TextEncoder.load(str(tiny_model))
    with pytest.raises(ValueError, match="unknown template 'vidoe'"):
        encoder.encode(["a"], template="vidoe")
    with pytest.raises(ValueError, match="max_tokens is 1"):
        encoder.encode(["a"], template="none", max_tokens=1)
