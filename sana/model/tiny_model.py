"""A tiny Sana Video with random weights, in the full diffusers layout: the whole pipeline on a CPU in seconds.

What the rest of the code relies on is kept real: compression 4x8x8, 16 latent channels with the published
`latents_mean` and `latents_std`, patch 1x2x2, a Gemma tokenizer, and the scheduler of the published checkpoint.
"""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    DPMSolverMultistepScheduler,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import Dinov2Config, Dinov2Model, Gemma2Config, Gemma2Model, GemmaTokenizer
from transformers.utils import logging as transformers_logging

HEADS, HEAD_DIM = 2, 12  # an even split of the head over time, height and width for the rotary embedding
CAPTION_CHANNELS = 16
VOCABULARY = 512
FEATURE_SIZE = 16  # of the tiny DINOv2
_SPACE = "\u2581"  # how SentencePiece, and so Gemma, writes a space

# What the merges are learned from. Any text can be tokenized (bytes are in the vocabulary); this one gets few tokens.
_CORPUS = """
a small red ball rolls slowly across a wooden table and stops near the edge
the camera follows a blue square moving from left to right in front of a grey wall
two green circles bounce up and down while the light fades from day into night
waves break on the shore under a cloudy sky, seen from high above, motion score: 30.
given a user prompt, generate a detailed visual description of colors, shapes, textures and motion
"""


def build_tiny_model(out: Path, *, seed: int = 0) -> None:
    """Write a checkpoint that `SanaVideoPipeline.from_pretrained(out)` loads: the same bytes for the same seed.

    The global random state is not changed. About 70 thousand parameters, 41 thousand of them the transformer's.

    Raises:
        FileExistsError: `out` exists and is not an empty directory.
    """
    _require_empty(out)
    tokenizer = _tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = SanaVideoPipeline(
            tokenizer=tokenizer,
            text_encoder=_text_encoder(len(tokenizer)),
            vae=_vae(),
            transformer=_transformer(),
            scheduler=DPMSolverMultistepScheduler(
                flow_shift=8.0, use_flow_sigmas=True, prediction_type="flow_prediction"
            ),
        )
    transformers_logging.disable_progress_bar()  # no bar for a hundred kilobytes
    pipeline.save_pretrained(out, safe_serialization=True)


def build_tiny_encoder(out: Path, *, seed: int = 0) -> None:
    """Write a tiny DINOv2 with random weights, for `encode_features.encoder`: the same bytes for the same seed.

    Raises:
        FileExistsError: `out` exists and is not an empty directory.
    """
    _require_empty(out)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = Dinov2Model(
            Dinov2Config(
                hidden_size=FEATURE_SIZE,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=56,
                initializer_range=0.2,  # features of two frames then differ
                use_swiglu_ffn=True,  # as the published giant one
            )
        ).eval()
    transformers_logging.disable_progress_bar()
    encoder.save_pretrained(out)


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not an empty directory; name a new one for the tiny checkpoint, or empty it")


def _tokenizer() -> GemmaTokenizer:
    bpe = Tokenizer(BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))  # noqa: S106 - not a password
    bpe.normalizer = normalizers.Replace(" ", _SPACE)
    bpe.pre_tokenizer = pre_tokenizers.Split(_SPACE, behavior="merged_with_next")
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    bpe.train_from_iterator(
        _CORPUS.strip().splitlines(),
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=pieces, show_progress=False),
    )
    model = json.loads(bpe.to_str())["model"]
    merges: list[Any] = [tuple(merge) for merge in model["merges"]]
    return GemmaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True, model_max_length=4096)


def _text_encoder(vocabulary: int) -> Gemma2Model:
    config = Gemma2Config(
        vocab_size=vocabulary,
        hidden_size=CAPTION_CHANNELS,
        intermediate_size=2 * CAPTION_CHANNELS,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=4096,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=2,
    )
    return Gemma2Model(config).eval()


def _vae() -> AutoencoderKLWan:
    # Four levels, three of them halving space and two halving time, as in the published one: 4x8x8.
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()


def _transformer() -> SanaVideoTransformer3DModel:
    width = HEADS * HEAD_DIM
    return SanaVideoTransformer3DModel(
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_DIM,
        num_layers=2,
        num_cross_attention_heads=HEADS,
        cross_attention_head_dim=HEAD_DIM,
        cross_attention_dim=width,
        caption_channels=CAPTION_CHANNELS,
        mlp_ratio=3.0,  # the constructor's 2.5 is not the published model's
    )
