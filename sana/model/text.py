"""Captions to Gemma-2 embeddings, bit for bit as diffusers' SanaVideoPipeline makes them.

Shapes in this module: B captions, L tokens, C channels of the text encoder (2304 in the published model).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

import torch
from torch import Tensor
from transformers import AutoTokenizer, Gemma2Model, PreTrainedTokenizerBase

from sana.config.training.offload import FrozenGroupOffload
from sana.model.cuda_graph import Replayed
from sana.model.offload.group_offload import OffloadedModel
from sana.model.precision import STRICT, float32_math
from sana.model.prompt_templates import IMAGE, VIDEO

# What is put before a caption. The template belongs in every cache key: it changes each token's embedding.
TEMPLATES: dict[str, str] = {
    "video": VIDEO,
    "image": IMAGE,
    "none": "",
}  # none: as for the negative prompt


class EncodedCaption(NamedTuple):
    """The embeddings of one caption."""

    tokens: Tensor  # [L, C] in the encoder's dtype, on the CPU: the real tokens only, 1 <= L <= max_tokens
    truncated: bool  # the caption was longer than max_tokens and lost its end


class TextEncoder:
    """A tokenizer and a Gemma-2 model."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, model: Gemma2Model, *, offloaded_from: torch.device | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self._device, self._is_offloaded = offloaded_from or model.device, offloaded_from is not None
        self._forward = Replayed(self._run)

    @classmethod
    def load(
        cls,
        path: str,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        device: str | torch.device = "cpu",
        offload: FrozenGroupOffload | None = None,
        work_dir: Path | None = None,
    ) -> Self:
        """Load `tokenizer` and `text_encoder` of a diffusers-layout checkpoint, frozen and in eval mode.

        `work_dir` is needed where `offload` has the weights on a disk.
        """
        revision = revision or "main"  # unlike diffusers, transformers has no None here
        tokenizer = AutoTokenizer.from_pretrained(path, subfolder="tokenizer", revision=revision, padding_side="right")
        model = Gemma2Model.from_pretrained(path, subfolder="text_encoder", revision=revision, dtype=dtype)
        model.requires_grad_(False).eval()
        if offload is None or not offload.is_on:
            return cls(tokenizer, model.to(device))
        OffloadedModel(model, offload, torch.device(device), work_dir=work_dir or Path())
        return cls(tokenizer, model, offloaded_from=torch.device(device))

    def _run(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden: Tensor = self.model(input_ids, attention_mask=attention_mask)[0]
        return hidden

    def padded_length(self, template: str, max_tokens: int) -> int:
        """Return the number of tokens that the pipeline pads a caption to, template included.

        Raises:
            ValueError: the template is unknown, or max_tokens is below 2.
        """
        if template not in TEMPLATES:
            raise ValueError(f"unknown template {template!r}; choose one of {sorted(TEMPLATES)}")
        if max_tokens < 2:
            raise ValueError(f"max_tokens is {max_tokens}; need at least 2, the first token and one of the caption")
        head = TEMPLATES[template]
        # Two less: the first token and the template's last one are among the tokens that are kept.
        return len(self.tokenizer.encode(head)) + max_tokens - 2 if head else max_tokens

    def num_tokens(self, texts: Sequence[str], *, template: str) -> list[int]:
        """Return how many tokens each caption has together with its template, before any is cut off."""
        return [len(ids) for ids in self.tokenizer([_prompt(text, template) for text in texts]).input_ids]

    @torch.no_grad()
    def encode(
        self, texts: Sequence[str], *, template: str, max_tokens: int = 300, length: int | None = None
    ) -> list[EncodedCaption]:
        """Encode captions in one forward pass; each result is what the pipeline's mask keeps.

        As in SanaVideoPipeline.encode_prompt: lower case, stripped, after the template, padded on the right to
        `padded_length`; then token 0 and the last max_tokens - 1 are kept. The batch changes the last bits, so encode
        captions one by one where the same bytes matter; so does a shorter `length` to pad to.

        Raises:
            ValueError: the template is unknown, max_tokens is below 2, or a caption has no token at all or
                does not fit into `length`.
        """
        full = self.padded_length(template, max_tokens)
        length = full if length is None else length
        prompts = [_prompt(text, template) for text in texts]
        sizes = self.num_tokens(texts, template=template)
        if length > full or (length < full and max(sizes) > length):
            raise ValueError(f"captions of {max(sizes)} tokens cannot be padded to {length}; the pipeline has {full}")
        batch = self.tokenizer(
            prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        ).to(self._device)
        with float32_math(STRICT):  # of an encoder in fp32: matrix products alone, where torch takes no TF32 either
            forward = self._run if self._is_offloaded else self._forward  # a graph reads weights where they were
            hidden = forward(batch.input_ids, batch.attention_mask)
        kept = [0, *range(full - max_tokens + 1, length)]
        captions = []
        for text, size, row, mask in zip(
            texts, sizes, hidden[:, kept], batch.attention_mask[:, kept].bool(), strict=True
        ):
            if not mask.any():
                raise ValueError(f"caption {text[:80]!r} has no token at all; does the tokenizer add <bos>?")
            captions.append(EncodedCaption(row[mask].cpu(), size > full))
        return captions


def _prompt(text: str, template: str) -> str:
    return TEMPLATES[template] + text.lower().strip()
