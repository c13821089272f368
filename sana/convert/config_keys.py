"""The keys of config.json that are carried over, in the order of our sections: data, and a function where it is needed.

A key that is new here is one more row; it then goes out of its family in unsupported_keys.py.
"""

from sana.convert.conversion import Conversion, Keys
from sana.convert.datasets import convert_datasets
from sana.convert.features.crepa import KEYS as KEYS_OF_CREPA
from sana.convert.features.crepa import convert_crepa
from sana.convert.features.masks import convert_masked_loss
from sana.convert.features.method import OF_LORA, convert_base_weights, convert_loss, convert_method
from sana.convert.features.notifications import convert_webhooks
from sana.convert.features.publish import KEYS as KEYS_OF_PUBLISH
from sana.convert.features.publish import convert_publish
from sana.convert.features.rollout import KEYS as KEYS_OF_ROLLOUT
from sana.convert.features.rollout import convert_rollout
from sana.convert.features.tracking import KEYS as KEYS_OF_TRACKERS
from sana.convert.features.tracking import convert_trackers
from sana.convert.mapping import Group, Row, Run, Table, at_least
from sana.convert.offload import KEYS, convert_activations, convert_offload
from sana.convert.places import convert_places
from sana.convert.sampling import convert_bucket, convert_prompts, convert_validation, convert_weights
from sana.convert.training import (
    convert_batch,
    convert_clipping,
    convert_ema,
    convert_micro_batch,
    convert_optimizer,
    convert_precision,
    convert_release,
    convert_schedule,
    convert_steps,
)
from sana.errors import ConfigError

MODEL = "Efficient-Large-Model/SANA-Video_2B_480p_diffusers"


def _model(conversion: Conversion, keys: Keys, run: Run) -> None:
    family = keys.text("model_family", "sanavideo")
    if family != "sanavideo":
        raise ConfigError(f"model_family is {family!r}; only Sana Video (sanavideo) is trained here")
    named = keys.present("model_family", "pretrained_model_name_or_path")
    path = keys.text("pretrained_model_name_or_path", MODEL)
    conversion.set("model.path", path, "transformer, text encoder and VAE in diffusers layout", *named)
    vae = keys.take("pretrained_vae_model_name_or_path")
    if vae is not None:
        same = "the same repository" if vae == path else "another VAE makes latents this model has never seen"
        conversion.leave_out("pretrained_vae_model_name_or_path", vae, f"the VAE is always the model's own: {same}")


CONFIG_KEYS: Table = (
    Group("output_dir", convert_places),
    Group("model_family pretrained_model_name_or_path pretrained_vae_model_name_or_path", _model),
    Row("model.revision", "revision", None, "resolved to a commit at every run"),
    Group("resolution resolution_type", convert_datasets),
    Row("probe.duplicates", "", "keep",
        "there every copy of a video is trained on; reject keeps the first in a data set. All copies are in one split"),
    Row("encode_captions.template", "sana_complex_human_instruction", "True",
        "the instruction diffusers puts before a caption",
        lambda text: "none" if text.lower() in ("none", "false") else "video"),
    Row("encode_captions.dtype", "", "bf16", "the text encoder ships in bf16"),
    Row("encode_captions.batch_size", "text_encoder_batch_size", 1, "batches change the last bits", at_least(1)),
    Row("encode_latents.dtype", "", "fp16", "of what is stored: 73.6 dB of normalised latents, bf16 has 55.6"),
    Row("encode_latents.vae_precision", "vae_dtype", "tf32",
        "encoding in bf16, SimpleTuner's default, drifts; fp32 on a GPU means TF32 convolutions there",
        lambda dtype: "bf16" if dtype == "bf16" else "tf32"),
    Row("encode_latents.batch_size", "vae_batch_size", 1, "batches change the last bits", at_least(1)),
    Row("encode_latents.tiling", "vae_enable_tiling", False, "true: less memory, other latents"),
    Row("train.seed", "seed", 42,
        "of shuffling, noise, noise levels and caption dropout; below 0 there: another each time", at_least(0)),
    Group("max_train_steps", convert_steps),
    Group(f"model_type {OF_LORA}", convert_method),
    Group("masked_loss_probability", convert_masked_loss),
    Group("loss_type huber_c snr_gamma offset_noise noise_offset noise_offset_probability", convert_loss),
    Group("train_batch_size gradient_accumulation_steps num_processes", convert_batch),
    Row("train.learning_rate", "learning_rate", 4e-7, "officially 5e-5"),
    Group("lr_scheduler lr_warmup_steps lr_end lr_power", convert_schedule),
    Group("optimizer optimizer_config optimizer_beta1 optimizer_beta2 base_model_default_dtype", convert_optimizer),
    Group("max_grad_norm grad_clip_method", convert_clipping),
    Row("train.caption_dropout", "caption_dropout_probability", 0.1, "what makes guidance possible"),
    Group("use_ema ema_decay ema_update_interval", convert_ema),
    Group("mixed_precision disable_tf32", convert_precision),
    Group(KEYS_OF_CREPA, convert_crepa),
    Group(KEYS_OF_ROLLOUT, convert_rollout),
    Row("train.timestep_sampling.name", "", "logit_normal",
        "official; SimpleTuner drew evenly from an unshifted table"),
    Row("train.timestep_sampling.shift", "", 3.0, "official, in training; samples use the checkpoint's own scheduler"),
    Group("num_processes train_batch_size", convert_micro_batch),
    Group(f"{KEYS} num_processes", convert_offload),
    Group("base_model_precision quantize_via", convert_base_weights),
    Group("gradient_checkpointing", convert_activations),
    Row("train.resources.ema_device", "ema_device", "auto", "auto: beside the weights; cpu: in the host's memory",
        lambda device: "cpu" if device == "cpu" else "auto"),
    Group("optimizer_release_gradients", convert_release),
    Row("train.resources.checkpoint_every", "checkpointing_steps checkpoint_step_interval", 500, "steps", at_least(1)),
    Row("train.resources.max_checkpoints", "checkpoints_total_limit", 5, "checkpoints; 0 there: no limit",
        lambda limit: limit if limit > 0 else 1000),
    Row("train.resources.eval_every", "eval_steps_interval validation_steps validation_step_interval", 500,
        "steps between eval losses", at_least(0)),
    Group("validation_steps validation_step_interval validation_disable validation_on_startup ema_validation use_ema "
          "validation_resolution validation_num_video_frames validation_preview validation_preview_steps",
          convert_validation),
    Row("evaluate.num_sigmas", "eval_timesteps", 8, "fixed noise levels: midpoints of equal slices of (0, 1)"),
    Row("evaluate.max_samples", "num_eval_images", 256, "the standard error falls with its root"),
    Group("validation_resolution validation_num_video_frames", convert_bucket),
    Row("sample.num_inference_steps", "validation_num_inference_steps", 50, "officially 50", at_least(1)),
    Row("sample.guidance_scale", "validation_guidance", 6.0, "1 is off", at_least(1)),
    Row("sample.fps", "framerate", 16.0, "of what is written, as there; clips keep their own"),
    Row("sample.vae_tiling", "vae_enable_tiling", False, "of decoding; true: less memory, other pixels"),
    Row("sample.seed", "validation_seed", 0, "of the starting noise", at_least(0)),
    Row("sample.negative_prompt", "validation_negative_prompt", "", "empty: null caption"),
    Group("use_ema ema_validation", convert_weights),
    Group("validation_prompt user_prompt_library", convert_prompts),
    Group(KEYS_OF_PUBLISH, convert_publish),
    Group("webhook_config webhook_reporting_interval webhook_progress_interval", convert_webhooks),
    Row("tracking.experiment", "tracker_project_name", "sana-video", "of MLflow; the project of wandb too"),
    Group(KEYS_OF_TRACKERS, convert_trackers),
)  # fmt: skip
