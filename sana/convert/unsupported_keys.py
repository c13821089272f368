"""What is known of SimpleTuner's keys that have no setting here, and of its faults: data only.

A key that gets a setting is a row of config_keys.py, and goes out of its family here.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Family:
    """Keys of either file that are not carried over for one reason, which says what is used instead.

    `keys`: names, and patterns with `*`, between spaces.
    """

    keys: str
    reason: str

    @property
    def names(self) -> list[str]:
        return [key for key in self.keys.split() if "*" not in key]


# the first family that has a key is its own
FAMILIES = (
    Family("data_backend_config", "the second file of this conversion"),
    Family("resume_from_checkpoint", "not needed: every run resumes from its newest complete checkpoint"),
    Family("model_flavour", "the model is model.path"),
    Family("i_know_what_i_am_doing disable_benchmark", "nothing here asks for it"),
    # what is not here yet
    Family("push_* hub_* model_card_* publishing_config",
           "no counterpart; publish.to is a hub repository, a bucket or a folder"),
    Family("quantize* text_encoder_1_precision", "the text encoder runs in encode_captions.dtype, once"),
    Family("init_lora", "an adapter to begin from is train.init_from, a run of this root or a folder"),
    Family("lora* lycoris* peft_*", "no counterpart; train.method has what a LoRA has here"),
    Family("enable_model_cpu_offload optimizer_cpu_offload_method musubi_* ramtorch*",
           "train.resources.offload keeps weights, gradients and optimizer of the blocks in the host's memory"),
    Family("num_machines fsdp_* deepspeed* context_parallel*",
           "train.resources.sharding chooses DDP, FSDP2 or HSDP; on several machines torchrun or srun starts "
           "`sana train-worker CONFIG` on each"),
    Family("dynamo_*", "train.resources.compile: the transformer's blocks are compiled on a GPU, without asking"),
    Family("crepa_*", "no counterpart; train.crepa and encode_features have what there is"),
    Family("scheduled_sampling*", "no counterpart; train.rollout has what there is"),
    Family("tread_config layersync* distillation* twinflow* controlnet*",
           "not here yet; the model is trained on the videos and captions alone"),
    Family("conditioning conditioning_data conditioning_type conditioning*",
           "of conditioning data sets masks are read, as `masks` of the data set that names them; conditions are "
           "train.conditions"),
    Family("webhook*", "see notifications"),
    Family("audio", "sound is not trained"),
    # training
    Family("ignore_final_epochs strict_epoch_limit num_train_epochs validation_epoch_interval eval_epoch_interval "
           "checkpoint_epoch_interval",
           "epochs are not counted: a run ends at train.max_steps; intervals are in steps, see train.resources"),
    Family("weighting_scheme huber_schedule input_perturbation*",
           "of no effect on Sana Video there; here: train.loss_weighting, train.objective, train.noise_offset"),
    Family("flow_schedule_auto_shift flow_schedule_shift flow_use_uniform_schedule flow_use_beta_schedule "
           "flow_sigmoid_scale",
           "of no effect on Sana Video there; here: train.timestep_sampling (name: logit_normal or uniform; shift, "
           "officially 3; std)"),
    Family("lr_num_cycles lr_scale",
           "schedules are constant, cosine, linear, polynomial and sine, see train.lr_schedule; the peak is "
           "train.learning_rate"),
    Family("gradient_precision", "gradients have the dtype of the weights, train.weights_dtype"),
    Family("gradient_checkpointing_interval gradient_checkpointing_backend",
           "what is recomputed is chosen by memory: train.resources.activation_memory"),
    Family("attention_mechanism enable_xformers_memory_efficient_attention",
           "self-attention is linear; cross-attention uses torch's own"),
    Family("fuse_optimizer",
           "of offloaded optimizers there; here AdamW is one fused kernel on a GPU. Steps within the backward pass are "
           "train.resources.fused_backward"),
    Family("logging_dir tracker_* swanlab* wandb*",
           "every run is recorded in MLflow, and by the trackers of tracking.also, whose keys are variables of the "
           "environment; logs are under work_dir"),
    # eval loss and samples
    Family("eval_dataset_pooling eval_loss_disable evaluation_*",
           "the stage evaluate gives one eval loss over all held-out clips, noise levels and noise fixed, of the "
           "untrained weights too; sana run CONFIG --until train leaves it out"),
    Family("validation_prompt_library validation_guidance_rescale validation_noise_scheduler "
           "validation_*",
           "videos are made while training (train.validation) and after it (stage sample), with the checkpoint's own "
           "scheduler and your sample.prompts"),
    Family("sana_motion_score", "no key of SimpleTuner's; here: captions.motion_score_column of a data set"),
    Family("sana_*", "no counterpart; the instruction before a caption is encode_captions.template"),
    # data sets and what is encoded
    Family("delete_problematic_images delete_unwanted_images scan_for_errors metadata_backend",
           "sources are only read: probe opens every file once, and rejects.parquet lists what is rejected"),
    Family("allow_dataset_oversubscription disable_bucket_pruning",
           "a small bucket stays, and never aborts a run; see bucket.small_buckets"),
    Family("data_backend_sampling is_regularisation_data is_regularization_data",
           "how often a data set is drawn is set by its repeats and sampling_weight"),
    Family("aspect_bucket_alignment aspect_bucket_rounding crop_aspect_buckets",
           "a clip goes to the bucket with the nearest aspect ratio; sizes are the model's own, or those in "
           "bucket.buckets"),
    Family("vae_batch_size text_encoder_batch_size vae_enable_slicing",
           "set once for all data sets: encode_latents.batch_size and encode_captions.batch_size"),
    Family("compress_disk_cache", "latents are stored raw: gzip would save a fifth for 10 to 60 times the CPU time"),
    Family("cache_dir cache_dir_text cache_dir_vae csv_cache_dir_vae preserve_data_backend_cache "
           "text_cache_ondemand text_cache_disable vae_cache_ondemand vae_cache_disable vae_cache_scan_behaviour "
           "vae_cache_clear_each_epoch text_embeds image_embeds default skip_file_discovery override_dataset_config "
           "hash_filenames vae_cache*",
           "what is made is kept under root, addressed by what went into it: it is reused only where it is right, and "
           "only what is missing is made"),
    Family("aspect_bucket_worker_count write_batch_size read_batch_size image_processing_batch_size max_workers "
           "torch_num_threads metadata_update_interval aws_max_pool_connections dataloader_prefetch "
           "dataloader_prefetch_qlen",
           "its data pipeline's own speed; here: the `resources` of each stage, and OMP_NUM_THREADS"),
    Family("instance_data_root dataset_name_or_path streaming auto_load csv_cache_dir",
           "the videos are read from download.datasets.source; remote ones one by one, kept under work_dir within "
           "download.resources.cache_gib"),
    Family("disable_multiline_split caption_shuffle caption_filter_list use_captions parquet_caption_column "
           "huggingface* csv_* parquet*",
           "captions are used as they are: each line of a .txt, or each of captions.text_columns, is an alternative; "
           "captions.layout: none gives every clip the same"),
    Family("aws_region_name aws_endpoint_url aws_access_key_id aws_secret_access_key aws_*",
           "never in a file: AWS_REGION, AWS_ENDPOINT_URL and the ordinary AWS chain (AWS_PROFILE, roles, "
           "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"),
)  # fmt: skip


def family_of(name: str) -> Family | None:
    """Return the family of a key that is not carried over; None where it is not known."""
    patterns = ((family, pattern) for family in FAMILIES for pattern in family.keys.split())
    return next((family for family, pattern in patterns if fnmatchcase(name, pattern)), None)


SECRETS = ("secret", "token", "password", "access_key")  # parts of a key's name: its value is never shown

# data sets that are not videos: why each is not carried over
OTHER_TYPES = {
    "text_embeds": "stage encode_captions; what it makes is under root",
    "image_embeds": "stage encode_latents; what it makes is under root",
    "audio": "sound is not trained",
    "conditioning": "conditions are made of the clips themselves, see train.conditions",
    "caption": "captions are beside the videos, or in a table; see captions",
    "distillation": "no distillation here yet",
}


@dataclass(frozen=True)
class Fault:
    """What SimpleTuner does wrong: `needs` is the key without which it does not (empty: always), `ours` what is done
    here, `changes` what of the results is another by that, in a word or two; empty for nothing.
    """

    needs: str
    theirs: str
    ours: str
    changes: str


FAULTS = (
    Fault("", "feeds the VAE pixels in [0, 1], which expects [-1, 1]: every latent is off", "[-1, 1], VAE in TF32",
          "pixel range"),
    Fault("resolution", "resolution 480 with pixel_area silently becomes 704x384 at 16:9, not 832x480",
          "the model's own 480p table", "sizes"),
    Fault("delete_problematic_images", "deletes source files that it cannot read",
          "sources are only read; rejects.parquet lists them", ""),
    Fault("lr_warmup_steps", "with cosine, lr_warmup_steps is the half period and there is no warm-up",
          "train.lr_schedule.warmup_steps and decay_steps", "warm-up"),
    Fault("max_grad_norm", "max_grad_norm 0 turns clipping off", "clipped to a norm, officially 0.1", "clipping"),
    Fault("", "draws noise levels evenly over an unshifted table, whatever the checkpoint says",
          "train.timestep_sampling: the official logit-normal, shift 3", "noise levels"),
    Fault("use_ema", "keeps the EMA weights in bf16, where steps this small are rounded away", "fp32", "EMA"),
    Fault("base_model_precision", "base_model_precision: bf16 is rejected at start", "not needed", ""),
    Fault("max_train_steps", "max_train_steps with the default num_train_epochs is rejected at start",
          "steps are all that counts", ""),
    Fault("video", "rounds frame counts down to 8n + 1, and decodes whole files for their first frames",
          "4k + 1; reads only the frames it uses", "frame counts"),
    Fault("", "reuses cached latents and captions after the settings changed", "addressed by what went into them", ""),
    Fault("", "encodes the dropped caption and the negative prompt in different ways", "one null caption for both",
          "null caption"),
)  # fmt: skip
