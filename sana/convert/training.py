"""Training and evaluation: batch, schedule, optimizer, EMA and checkpoints."""

import math

from sana.convert.draft import Draft, Keys
from sana.errors import ConfigError

WARMUP_STEPS = 500  # officially
MAX_GRAD_NORM = 0.1  # officially
EMA_DECAY = 0.995  # SimpleTuner's default
HALF_PERIOD = 1000  # SimpleTuner's, where lr_warmup_steps is 0
END_LEARNING_RATE = 4e-7  # SimpleTuner's default lr_end


def convert_training(draft: Draft, keys: Keys, *, num_processes: int) -> None:
    """Write `train` and `evaluate`.

    Raises:
        ConfigError: the number of steps is not given.
    """
    seed = keys.integer("seed", 42)
    why = "of shuffling, noise, noise levels and caption dropout" if seed > 0 else f"{seed} meant: another each time"
    draft.set("train.seed", max(0, seed), why, *keys.present("seed"))
    steps = keys.integer("max_train_steps", 0)
    if steps < 1:
        raise ConfigError(
            f"{keys.where}: max_train_steps is {steps}, and a run is counted in steps here, not in epochs; "
            "give it a number: num_train_epochs x clips / (train_batch_size x processes)"
        )
    draft.set("train.max_steps", steps, "raise it later: the run goes on", "max_train_steps")
    _batch(draft, keys, num_processes)
    _schedule(draft, keys, steps)
    _optimizer(draft, keys)
    dropout = keys.number("caption_dropout_probability", 0.1)
    draft.set("train.caption_dropout", dropout, "what makes guidance possible",
              *keys.present("caption_dropout_probability"))  # fmt: skip
    _average(draft, keys)
    precision = keys.text("mixed_precision", "bf16")
    ours = "fp32" if precision in ("no", "fp32") else "bf16"
    why = "autocast; master weights stay fp32" if ours == precision or ours == "fp32" else f"{precision} overflows here"
    draft.set("train.mixed_precision", ours, why, *keys.present("mixed_precision"))
    at = "train.timestep_sampling"
    draft.set(f"{at}.name", "logit_normal", "official; SimpleTuner drew evenly from an unshifted table")
    draft.set(f"{at}.shift", 3.0, "official, in training; samples use the checkpoint's own scheduler")
    _resources(draft, keys, num_processes)
    levels = keys.integer("eval_timesteps", 8)
    draft.set("evaluate.num_sigmas", levels, "fixed noise levels: midpoints of equal slices of (0, 1)",
              *keys.present("eval_timesteps"))  # fmt: skip
    samples = keys.integer("num_eval_images", 256)
    draft.set("evaluate.max_samples", samples, "the standard error falls with its root",
              *keys.present("num_eval_images"))  # fmt: skip


def _batch(draft: Draft, keys: Keys, num_processes: int) -> None:
    ranks = keys.integer("num_processes", num_processes)
    per_rank, passes = keys.integer("train_batch_size", 4), keys.integer("gradient_accumulation_steps", 1)
    if min(ranks, per_rank, passes) < 1:
        raise ConfigError(
            f"{keys.where}: train_batch_size {per_rank} x gradient_accumulation_steps {passes} x processes {ranks} "
            "leaves no sample in a step; each must be at least 1"
        )
    draft.set(
        "train.global_batch_size",
        per_rank * passes * ranks,
        f"samples a step: batch {per_rank} x accumulation {passes} x processes {ranks}",
        *keys.present("train_batch_size", "gradient_accumulation_steps", "num_processes"),
    )


def _schedule(draft: Draft, keys: Keys, steps: int) -> None:
    rate = keys.number("learning_rate", 4e-7)
    draft.set("train.learning_rate", rate, "officially 5e-5", *keys.present("learning_rate"))
    at, name = "train.lr_schedule", keys.text("lr_scheduler", "constant_with_warmup")
    scheduler, warmups = keys.present("lr_scheduler"), keys.present("lr_warmup_steps")
    given = keys.integer("lr_warmup_steps", 0)
    end = min(rate, keys.number("lr_end", END_LEARNING_RATE))
    if name in ("constant", "constant_with_warmup"):
        warms = name == "constant_with_warmup"
        draft.set(f"{at}.name", "constant", "officially too", *scheduler)
        draft.set(f"{at}.warmup_steps", given if warms else 0, "linear, from 0", *(warmups if warms else []))
        for key in [*keys.present("lr_end"), *([] if warms else warmups)]:
            draft.leave(key, keys.take(key), f"of no effect with lr_scheduler: {name}")
        return
    # of these three, lr_warmup_steps is the half period there (x processes, which the counter is too); there is no
    # warm-up, and afterwards the learning rate rises again
    if name in ("cosine", "cosine_with_restarts", "sine"):
        warmup = WARMUP_STEPS, "officially 500; SimpleTuner's cosine has none"
        period, why = given if given > 0 else HALF_PERIOD, "the half period there"
        of_warmup, of_period = [], warmups
    else:
        warmup = given, "as there"
        period, why = max(1, steps - given), "from the warm-up to max_train_steps"
        of_warmup, of_period = warmups, []
    other = "" if name == "cosine" else f"there: {name}, which is not here; "
    draft.set(f"{at}.name", "cosine", f"{other}falls once and stays down", *scheduler)
    draft.set(f"{at}.warmup_steps", *warmup, *of_warmup)
    draft.set(f"{at}.decay_steps", period, f"{why}; fixed, so that max_steps may be raised", *of_period)
    draft.set(f"{at}.min_learning_rate", end, "lr_end there", *keys.present("lr_end"))


def _optimizer(draft: Draft, keys: Keys) -> None:
    name = keys.text("optimizer", "adamw_bf16")
    given: dict[str, float] = {}
    text = keys.text("optimizer_config")
    for pair in filter(None, (part.strip() for part in text.split(","))):
        key, _, value = pair.partition("=")
        try:
            given[key.strip()] = float(value)
        except ValueError:
            raise ConfigError(f"{keys.where}: optimizer_config: {pair!r} is not name=number") from None
    why = "AdamW with fp32 master weights" + ("" if name == "adamw_bf16" else f"; there: {name}")
    beta1 = keys.number("optimizer_beta1", given.pop("beta1", 0.9))
    beta2 = keys.number("optimizer_beta2", given.pop("beta2", 0.999))
    at = "train.optimizer"
    draft.set(f"{at}.name", "adamw", why, *keys.present("optimizer"))
    draft.set(f"{at}.beta1", beta1, "officially 0.9", *keys.present("optimizer_beta1"))
    draft.set(f"{at}.beta2", beta2, "officially 0.999", *keys.present("optimizer_beta2"))
    draft.set(f"{at}.epsilon", given.pop("eps", 1e-10), "official; adamw_bf16 has 1e-6")
    draft.set(f"{at}.weight_decay", given.pop("weight_decay", 0.0), "official; adamw_bf16 has 0.01",
              *keys.present("optimizer_config"))  # fmt: skip
    for knob, number in given.items():
        draft.leave(f"optimizer_config.{knob}", number, "AdamW has no such knob here")
    norm, method = keys.number("max_grad_norm", 2.0), str(keys.take("grad_clip_method", "value"))
    if keys.has("grad_clip_method"):
        draft.leave("grad_clip_method", method, "gradients are always clipped by their norm, as officially")
    keep = norm > 0 and method == "norm"
    why = "as there" if keep else "officially; 0 there is no clipping" if norm <= 0 else "officially; there by value"
    draft.set("train.max_grad_norm", norm if keep else MAX_GRAD_NORM, why, *keys.present("max_grad_norm"))


def _average(draft: Draft, keys: Keys) -> None:
    """SimpleTuner's EMA takes a step of decay d every n steps: here one of d ** (1 / n) every step."""
    theirs = keys.present("use_ema", "ema_decay", "ema_update_interval")
    if not keys.flag("use_ema"):
        draft.set("train.ema_decay", 0.0, "no EMA: the average is the weights themselves", *theirs[:1])
        for key in theirs[1:]:
            draft.leave(key, keys.take(key), "of no effect without use_ema")
        return
    decay, every = keys.number("ema_decay", EMA_DECAY), max(1, keys.integer("ema_update_interval", 1))
    if not 0 <= decay < 1:
        raise ConfigError(f"{keys.where}: ema_decay is {decay:g}; a number from 0 to below 1 is needed")
    a_step = round(math.pow(decay, 1 / every), 6)
    why = f"every step, in fp32: {decay:g} every {every} steps there" if every > 1 else "every step, in fp32"
    draft.set("train.ema_decay", a_step, f"{why}; officially 0.9999", *theirs)


def _resources(draft: Draft, keys: Keys, num_processes: int) -> None:
    limit = keys.integer("checkpoints_total_limit", 5)
    saves = "checkpointing_steps" if keys.has("checkpointing_steps") else "checkpoint_step_interval"
    looks = "validation_steps" if keys.has("validation_steps") else "validation_step_interval"
    evals = "eval_steps_interval" if keys.has("eval_steps_interval") else looks
    recompute = keys.flag("gradient_checkpointing", True)
    for ours, value, why, key in (
        ("num_processes", keys.integer("num_processes", num_processes), "GPUs of this machine", "num_processes"),
        ("micro_batch_size", keys.integer("train_batch_size", 4), "per forward pass and GPU", "train_batch_size"),
        ("gradient_checkpointing", recompute, "else a block's activations are 9 GiB", "gradient_checkpointing"),
        ("checkpoint_every", max(1, keys.integer(saves, 500)), "steps", saves),
        ("max_checkpoints", limit if limit > 0 else 1000, "checkpoints; 0 there: no limit", "checkpoints_total_limit"),
        ("eval_every", max(0, keys.integer(evals, 500)), "steps between eval losses; videos come at the end", evals),
    ):
        draft.set(f"train.resources.{ours}", value, why, *keys.present(key))
