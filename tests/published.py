"""The sizes of the published Sana Video 2B (480p), as its config files give them."""

from typing import Any

TRANSFORMER: dict[str, Any] = {
    "num_layers": 20, "num_attention_heads": 20, "attention_head_dim": 112, "num_cross_attention_heads": 20,
    "cross_attention_head_dim": 112, "cross_attention_dim": 2240, "caption_channels": 2304, "mlp_ratio": 3.0,
    "in_channels": 16, "out_channels": 16, "patch_size": [1, 2, 2], "qk_norm": "rms_norm_across_heads",
}  # fmt: skip
VAE: dict[str, Any] = {
    "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "temperal_downsample": [False, True, True], "attn_scales": [], "is_residual": False, "patch_size": None,
}  # fmt: skip
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
