"""What trains: all weights, or a LoRA beside them; and how its loss weighs errors."""

from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run
from sana.errors import ConfigError

RANK = 16  # SimpleTuner's default
DROPOUT = 0.1  # SimpleTuner's default of lora_dropout
HUBER_DELTA = 0.1  # SimpleTuner's huber_c
NOISE_OFFSET, NOISE_OFFSET_PROBABILITY = 0.1, 0.25  # SimpleTuner's, with offset_noise
OF_LORA = "lora_type lora_rank lora_alpha lora_dropout use_dora lycoris_config peft_lora_mode lora_init_type"


def convert_method(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.method`. Raises ConfigError: model_type is neither full nor lora."""
    at, kind, named = "train.method", keys.text("model_type", "full"), keys.present("model_type")
    if kind == "full":
        conversion.set(f"{at}.name", "full", "all weights learn", *named)
        for key in keys.present(*OF_LORA.split()):
            conversion.leave_out(key, keys.take(key), "of no effect with model_type: full")
        return
    if kind != "lora":
        raise ConfigError(f"{keys.where}: model_type is {kind!r}, neither full nor lora")
    conversion.set(f"{at}.name", "lora", "of to_q, to_k, to_v and to_out.0, as there", *named)
    rank = keys.integer("lora_rank", RANK)
    conversion.set(f"{at}.rank", rank, "as there", *keys.present("lora_rank"))
    # there lora_alpha is set to the rank, whatever it is
    for key in keys.present("lora_alpha"):
        alpha = keys.number("lora_alpha", rank)
        conversion.set(f"{at}.alpha", alpha, "the added part is times alpha / rank", key)
    dropout = keys.number("lora_dropout", DROPOUT)
    conversion.set(f"{at}.dropout", min(dropout, 0.99), "as there", *keys.present("lora_dropout"))
    dora = keys.present("use_dora")
    conversion.set(f"{at}.use_dora", keys.flag("use_dora"), "as there", *dora)
    if (style := keys.text("lora_type", "standard")) != "standard":
        why = f"{style} adapters are not here: a LoRA of the same rank is what stock diffusers loads"
        conversion.notes.append("a LoRA in place of LyCORIS")
        for key in keys.present("lora_type", "lycoris_config"):
            conversion.leave_out(key, keys.take(key), why)
    else:
        conversion.merge(f"{at}.name", *keys.present("lora_type"))
    for key in keys.present("peft_lora_mode", "lora_init_type"):
        conversion.leave_out(key, keys.take(key), "A begins as peft's own, keyed by train.seed, and B at 0")


def convert_base_weights(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.base_weights`, of what stays beside an adapter, after `train.method` and offload."""
    is_offloaded = conversion.value("train.resources.offload.type") == "block_level"
    if is_offloaded and conversion.value("train.method.dropout"):
        conversion.change("train.method.dropout", 0.0, "with train.resources.offload there is none")
    named, asked = keys.present("base_model_precision"), keys.text("base_model_precision", "no_change")
    for key in keys.present("quantize_via"):
        conversion.leave_out(key, keys.take(key), "weights are stored in 8 bits on the device that they are loaded to")
    if asked in ("no_change", "bf16", "fp32") or conversion.value("train.method.name") == "full":
        why = "train.weights_dtype and train.mixed_precision say it" if asked in ("no_change", "bf16", "fp32") else (
            f"{asked}: with all weights learning, small steps would be rounded away; less memory is adamw_bf16, "
            "adafactor, or train.resources.offload"
        )  # fmt: skip
        for key in named:
            conversion.leave_out(key, asked, why)
        return
    if is_offloaded:
        for key in named:
            conversion.leave_out(key, asked, "train.resources.offload moves whole weights; with type: none they may be")
        return
    ours = "fp8" if asked.startswith("fp8") else "int8"
    nearest = asked.startswith(("int8", "fp8"))
    conversion.set("train.base_weights", ours, f"by torchao; there {asked}" + ("" if nearest else ", smaller still"),
                   *named)  # fmt: skip


def convert_loss(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write what of the loss SimpleTuner ignores on Sana Video, and is trained here."""
    ignored = "of no effect on Sana Video there; here it is"
    if keys.text("loss_type", "l2") in ("huber", "smooth_l1"):
        conversion.set("train.objective.name", "huber", ignored, *keys.present("loss_type"))
        conversion.set("train.objective.delta", keys.number("huber_c", HUBER_DELTA),
                       "error from which on the loss is linear", *keys.present("huber_c"))  # fmt: skip
    else:
        for key in keys.present("loss_type", "huber_c"):
            conversion.leave_out(key, keys.take(key), "the loss is the mean squared error, as in the official training")
    gamma = keys.number("snr_gamma", 0.0)
    if gamma > 0:
        conversion.set("train.loss_weighting.name", "min_snr", f"{ignored}, in its form for velocities",
                       *keys.present("snr_gamma"))  # fmt: skip
        conversion.set("train.loss_weighting.gamma", gamma, "as there")
    else:
        for key in keys.present("snr_gamma"):
            conversion.leave_out(key, gamma, "0 or less: no weighting, as in the official training")
    offset = keys.present("offset_noise", "noise_offset", "noise_offset_probability")
    if keys.flag("offset_noise"):
        conversion.set("train.noise_offset.strength", keys.number("noise_offset", NOISE_OFFSET), "as there",
                       *keys.present("offset_noise", "noise_offset"))  # fmt: skip
        conversion.set("train.noise_offset.probability",
                       keys.number("noise_offset_probability", NOISE_OFFSET_PROBABILITY), "of a sample",
                       *keys.present("noise_offset_probability"))  # fmt: skip
    else:
        for key in offset:
            conversion.leave_out(key, keys.take(key), "of no effect without offset_noise: true")
