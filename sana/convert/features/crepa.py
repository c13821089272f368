"""CREPA: the keys of the regulariser, whose features are made once here, by a stage of its own."""

from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run

BLOCK_INDEX = 10  # of the guide for Sana Video; the code's default there is 8
ENCODERS = {  # SimpleTuner's names, of torch.hub, and those of transformers
    "dinov2_vits14": "facebook/dinov2-small",
    "dinov2_vitb14": "facebook/dinov2-base",
    "dinov2_vitl14": "facebook/dinov2-large",
    "dinov2_vitg14": "facebook/dinov2-giant",
}
PATCH = 14
_NUMBERS = {  # theirs: (ours, default there)
    "crepa_lambda": ("weight", 0.5),
    "crepa_adjacent_tau": ("temporal_decay", 1.0),
}
_OF_NO_USE = {
    "crepa_drop_vae_encoder": "the trainer never holds a VAE: features are made of the clips' own frames, once",
    "crepa_use_tae": "the trainer never holds a VAE: features are made of the clips' own frames, once",
    "crepa_spatial_align": "tokens are always aligned in two dimensions, which there went wrong off the square",
    "crepa_encoder_frames_batch_size": "encode_features.frames_per_batch; only frames that latents keep are encoded",
    "crepa_normalize_by_frames": "the mean over frames, always",
    "crepa_feature_source": "features are an image encoder's; a teacher of the model's own is not here",
    "crepa_encoder_image_size": "a square of the frame there; here its shorter side, encode_features.short_side",
}
KEYS = " ".join(
    ("crepa_enabled crepa_block_index crepa_adjacent_distance crepa_cumulative_neighbors crepa_encoder crepa_model "
     "crepa_scheduler crepa_warmup_steps crepa_decay_steps crepa_lambda_end crepa_cutoff_step crepa_power",
     *_NUMBERS, *_OF_NO_USE)
)  # fmt: skip


def convert_crepa(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.crepa` and `encode_features.encoder` where it is enabled."""
    named = keys.present(*KEYS.split())
    if not keys.flag("crepa_enabled"):
        for key in named:
            conversion.leave_out(key, keys.take(key), "of no effect without crepa_enabled: true")
        return
    at = "train.crepa"
    conversion.set(f"{at}.block_index", keys.integer("crepa_block_index", BLOCK_INDEX),
                   "its output, from 0, of 20", *keys.present("crepa_enabled", "crepa_block_index"))  # fmt: skip
    for theirs, (ours, default) in _NUMBERS.items():
        conversion.set(f"{at}.{ours}", keys.number(theirs, default), "as there", *keys.present(theirs))
    conversion.set(f"{at}.adjacent_distance", keys.integer("crepa_adjacent_distance", 1), "in latent frames",
                   *keys.present("crepa_adjacent_distance"))  # fmt: skip
    conversion.set(f"{at}.cumulative_neighbors", keys.flag("crepa_cumulative_neighbors"), "as there",
                   *keys.present("crepa_cumulative_neighbors"))  # fmt: skip
    _convert_schedule(conversion, keys, f"{at}.schedule")
    if (cutoff := keys.integer("crepa_cutoff_step", 0)) > 0:
        conversion.set(f"{at}.cutoff_step", cutoff, "as there", *keys.present("crepa_cutoff_step"))
    else:
        for key in keys.present("crepa_cutoff_step"):
            conversion.leave_out(key, cutoff, "0: never")
    encoder = keys.text("crepa_encoder", keys.text("crepa_model", "dinov2_vitg14"))
    conversion.set("encode_features.encoder", ENCODERS.get(encoder, encoder), "through transformers",
                   *keys.present("crepa_encoder", "crepa_model"))  # fmt: skip
    for key in keys.present(*_OF_NO_USE):
        conversion.leave_out(key, keys.take(key), _OF_NO_USE[key])


def _convert_schedule(conversion: Conversion, keys: Keys, at: str) -> None:
    name = keys.text("crepa_scheduler", "constant")
    ours = name if name in ("linear", "cosine", "polynomial") else "constant"
    conversion.set(f"{at}.name", ours, "as there", *keys.present("crepa_scheduler"))
    conversion.set(f"{at}.warmup_steps", keys.integer("crepa_warmup_steps", 0), "as there",
                   *keys.present("crepa_warmup_steps"))  # fmt: skip
    if ours == "constant":
        for key in keys.present("crepa_decay_steps", "crepa_lambda_end", "crepa_power"):
            conversion.leave_out(key, keys.take(key), "of no effect with a constant weight")
        return
    steps = keys.integer("crepa_decay_steps", 0) or conversion.value("train.max_steps")
    conversion.set(f"{at}.decay_steps", steps, "of all steps where it is 0", *keys.present("crepa_decay_steps"))
    conversion.set(f"{at}.end_weight", keys.number("crepa_lambda_end", 0.0), "as there",
                   *keys.present("crepa_lambda_end"))  # fmt: skip
    if ours == "polynomial":
        conversion.set(f"{at}.power", keys.number("crepa_power", 1.0), "as there", *keys.present("crepa_power"))
    else:
        for key in keys.present("crepa_power"):
            conversion.leave_out(key, keys.take(key), f"of no effect with {ours}")
