"""Training where keys mean something together: batch, schedule, optimizer, clipping and EMA weights."""

import math

from sana.config.section import union_members
from sana.config.training.conflicts import fused_backward_conflict
from sana.config.training.offload import GroupOffload
from sana.config.training.optimization.optimizer_support import SUPPORT
from sana.config.training.resources import TrainResources
from sana.config.training.train import TrainConfig
from sana.convert.conversion import Conversion, Keys
from sana.convert.mapping import Run
from sana.errors import ConfigError

WARMUP_STEPS = 500  # officially
MAX_GRAD_NORM = 0.1  # officially
# SimpleTuner's names of optimizers that are here, and of the numbers in optimizer_config
OPTIMIZERS = {
    "adamw_bf16": "adamw_bf16",
    "optimi-adamw": "optimi_adamw",
    "ao-adamw8bit": "adamw_8bit",
    "bnb-adamw8bit": "adamw_8bit",
    "bnb-adamw8bit-paged": "adamw_8bit",
    "ao-adamw4bit": "adamw_8bit",
    "ao-adamfp8": "adamw_8bit",
    "ao-adamwfp8": "adamw_8bit",
    "bnb-adamw": "adamw",
    "bnb-adamw-paged": "adamw",
    "adafactor": "adafactor",
    "prodigy": "prodigy",
    "came": "came",
    "muon": "muon",
}
OPTIMIZER_SETTINGS = {"eps": "epsilon", "d0": "initial_distance", "d_coef": "distance_factor"}
SIMPLETUNER_MAX_GRAD_NORM = 2.0  # its default; with its default method it bounds each number, not the norm
NOT_CLIPPED = "officially, as one bad batch can ruin a run; 0 there clips nothing, which --keep-clipping keeps"
EMA_DECAY = 0.995  # SimpleTuner's default
HALF_PERIOD = 1000  # SimpleTuner's, where lr_warmup_steps is 0
POWER = 0.8  # SimpleTuner's default lr_power
END_LEARNING_RATE = 4e-7  # SimpleTuner's default lr_end


def convert_steps(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.max_steps`. Raises ConfigError: the number of steps is not given."""
    steps = keys.integer("max_train_steps", 0)
    if steps < 1:
        raise ConfigError(
            f"{keys.where}: max_train_steps is {steps}, and a run is counted in steps here, not in epochs; "
            "give it a number: num_train_epochs x clips / (train_batch_size x processes)"
        )
    conversion.set("train.max_steps", steps, "raise it later: the run resumes", "max_train_steps")


def convert_batch(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.global_batch_size`. Raises ConfigError: no sample is left in a step."""
    ranks = keys.integer("num_processes", run.num_processes)
    per_rank, accumulated = keys.integer("train_batch_size", 4), keys.integer("gradient_accumulation_steps", 1)
    if min(ranks, per_rank, accumulated) < 1:
        raise ConfigError(
            f"{keys.where}: train_batch_size {per_rank} x gradient_accumulation_steps {accumulated} x processes {ranks}"
            " leaves no sample in a step; each must be at least 1"
        )
    conversion.set(
        "train.global_batch_size",
        per_rank * accumulated * ranks,
        f"samples a step: batch {per_rank} x accumulation {accumulated} x processes {ranks}",
        *keys.present("train_batch_size", "gradient_accumulation_steps", "num_processes"),
    )


def convert_micro_batch(conversion: Conversion, keys: Keys, run: Run) -> None:
    at, ranks = "train.resources", keys.integer("num_processes", run.num_processes)
    conversion.set(f"{at}.num_processes", ranks, "GPUs of this machine", *keys.present("num_processes"))
    conversion.set(f"{at}.micro_batch_size", keys.integer("train_batch_size", 4), "per forward pass and GPU",
                   *keys.present("train_batch_size"))  # fmt: skip


def convert_schedule(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.lr_schedule`: the one of the same name, or the nearest that falls once and stays down."""
    at, name = "train.lr_schedule", keys.text("lr_scheduler", "constant_with_warmup")
    scheduler, warmups = keys.present("lr_scheduler"), keys.present("lr_warmup_steps")
    given = keys.integer("lr_warmup_steps", 0)
    end = min(keys.number("learning_rate", 4e-7), keys.number("lr_end", END_LEARNING_RATE))
    power = keys.number("lr_power", POWER)
    if name != "polynomial":
        _of_no_effect(conversion, keys, name, "lr_power")
    if name in ("constant", "constant_with_warmup"):
        warms = name == "constant_with_warmup"
        conversion.set(f"{at}.name", "constant", "officially too", *scheduler)
        conversion.set(f"{at}.warmup_steps", given if warms else 0, "linear, from 0", *(warmups if warms else []))
        _of_no_effect(conversion, keys, name, "lr_end", *([] if warms else ["lr_warmup_steps"]))
        return
    half = given if given > 0 else HALF_PERIOD
    if name == "sine":  # there it begins in the middle and rises for half of lr_warmup_steps, its half period
        conversion.set(f"{at}.name", "sine", "as there: a wave without end", *scheduler)
        conversion.set(f"{at}.warmup_steps", half // 2, "there it rises to the first peak in as many, from the middle")
        conversion.set(f"{at}.period_steps", 2 * half, "lr_warmup_steps is half a period there", *warmups)
        conversion.set(f"{at}.min_learning_rate", end, "lr_end there", *keys.present("lr_end"))
        return
    # of these two, lr_warmup_steps is the half period there (x processes, which the counter is too); there is no
    # warm-up, and afterwards the learning rate rises again
    if name in ("cosine", "cosine_with_restarts"):
        warmup = WARMUP_STEPS, "officially 500; SimpleTuner's cosine has none"
        period, why = half, "the half period there"
        of_warmup, of_period = [], warmups
    else:
        warmup = given, "as there"
        period, why = max(1, keys.integer("max_train_steps", 0) - given), "from the warm-up to max_train_steps"
        of_warmup, of_period = warmups, []
    ours = name if name in ("linear", "polynomial") else "cosine"
    other = "as there; " if name == ours else f"there: {name}, which is not here; "
    conversion.set(f"{at}.name", ours, f"{other}falls once and stays down", *scheduler)
    conversion.set(f"{at}.warmup_steps", *warmup, *of_warmup)
    conversion.set(f"{at}.decay_steps", period, f"{why}; fixed, so that max_steps may be raised", *of_period)
    if ours == "polynomial":
        conversion.set(f"{at}.power", power, "as there", *keys.present("lr_power"))
    if ours == "linear":  # diffusers' own, which ends at 0
        _of_no_effect(conversion, keys, name, "lr_end")
    else:
        conversion.set(f"{at}.min_learning_rate", end, "lr_end there", *keys.present("lr_end"))


def _of_no_effect(conversion: Conversion, keys: Keys, scheduler: str, *names: str) -> None:
    for key in keys.present(*names):
        conversion.leave_out(key, keys.take(key), f"of no effect with lr_scheduler: {scheduler}")


def convert_optimizer(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.optimizer` and `train.weights_dtype`: the one of that name, or AdamW for one that is not here.

    Raises:
        ConfigError: optimizer_config is not name=number, ...
    """
    at, name = "train.optimizer", keys.text("optimizer", "adamw_bf16")
    given = _numbers(keys)
    ours = OPTIMIZERS.get(name, "adamw")
    known = union_members(TrainConfig.model_fields["optimizer"].annotation)[ours].model_fields
    why = "as there" if name.replace("-", "_") == ours else f"there: {name}"
    conversion.set(f"{at}.name", ours, why if name in OPTIMIZERS else f"{why}, which is not here",
                   *keys.present("optimizer"))  # fmt: skip
    for beta, default in (("beta1", 0.9), ("beta2", 0.999)):
        key = f"optimizer_{beta}"
        decay = keys.number(key, given.pop(beta, default))
        if beta in known:
            conversion.set(f"{at}.{beta}", decay, f"officially {default}", *keys.present(key))
        elif keys.has(key):
            conversion.leave_out(key, decay, f"{ours} has no such setting here")
    if ours in ("adamw", "adamw_bf16", "optimi_adamw"):
        conversion.set(f"{at}.epsilon", given.pop("epsilon", 1e-10), "official; adamw_bf16 has 1e-6 there")
    conversion.set(f"{at}.weight_decay", given.pop("weight_decay", 0.0), "official; adamw_bf16 has 0.01",
                   *keys.present("optimizer_config"))  # fmt: skip
    for setting, number in given.items():
        if setting in known:
            conversion.set(f"{at}.{setting}", number, "as there")
        else:
            conversion.leave_out(f"optimizer_config.{setting}", number, f"{ours} has no such setting here")
    _convert_weights_dtype(conversion, keys, ours)


def _numbers(keys: Keys) -> dict[str, float]:
    """Return the numbers of optimizer_config, by the names that their settings have here where there are such."""
    given: dict[str, float] = {}
    for pair in filter(None, (part.strip() for part in keys.text("optimizer_config").split(","))):
        key, _, value = pair.partition("=")
        try:
            given[OPTIMIZER_SETTINGS.get(key.strip(), key.strip())] = float(value)
        except ValueError:
            raise ConfigError(f"{keys.where}: optimizer_config: {pair!r} is not name=number") from None
    return given


def _convert_weights_dtype(conversion: Conversion, keys: Keys, optimizer: str) -> None:
    """There the weights are bf16 unless base_model_default_dtype says otherwise; here where the optimizer allows it."""
    named, wanted = keys.present("base_model_default_dtype"), keys.text("base_model_default_dtype", "bf16")
    there = wanted == "bf16" and keys.text("mixed_precision", "bf16") == "bf16"
    if conversion.value("train.method.name") != "full":
        conversion.set("train.weights_dtype", "fp32", "of what learns, which is little; the base is bf16 then", *named)
        return
    bf16 = there and SUPPORT[optimizer].bf16_weights
    why = "fp32 master weights; " + (f"in bf16 {optimizer} would round small steps away" if there else "as there")
    conversion.set("train.weights_dtype", "bf16" if bf16 else "fp32",
                   "as there; fp32 master weights are safer, and take twice the memory" if bf16 else why,
                   *named)  # fmt: skip


def convert_precision(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.mixed_precision`: without autocast SimpleTuner multiplies in TF32, unless it is disabled."""
    named, precision = keys.present("mixed_precision"), keys.text("mixed_precision", "bf16")
    strict, disabled = keys.present("disable_tf32"), keys.flag("disable_tf32")
    if precision in ("no", "fp32"):
        why = "strict float32, as there" if disabled else "TF32 as there, on a GPU; fp32 here is strict"
        conversion.set("train.mixed_precision", "fp32" if disabled else "tf32", why, *named, *strict)
        return
    other = "" if precision == "bf16" else f"; {precision} is not here, it overflows"
    conversion.set("train.mixed_precision", "bf16", f"as there{other}; the weights themselves: weights_dtype", *named)
    for key in strict:
        conversion.leave_out(key, disabled, "of no effect in bf16; precisions are named, each where it holds")


def convert_clipping(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write how gradients are clipped: as there, but to the official norm where nothing was clipped.

    Raises:
        ConfigError: the method is none of SimpleTuner's two.
    """
    given, bound = keys.present("max_grad_norm"), keys.number("max_grad_norm", SIMPLETUNER_MAX_GRAD_NORM)
    named, method = keys.present("grad_clip_method"), keys.text("grad_clip_method", "value")
    if method not in ("value", "norm"):
        raise ConfigError(f"{keys.where}: grad_clip_method is {method!r}, neither value nor norm")
    clipped_there = bound > 0 and (bool(given) or run.keep_clipping)
    if clipped_there and method == "value":
        conversion.set("train.gradient_clipping", "value", "as there; officially the norm, to 0.1", *named)
        conversion.set("train.max_grad_value", bound, "as there; it was called max_grad_norm", *given)
        return
    if bound <= 0 and run.keep_clipping:
        conversion.set(
            "train.gradient_clipping", "none", "as there, by --keep-clipping; officially to norm 0.1", *given
        )
        for key in named:
            conversion.leave_out(key, method, f"of no effect with max_grad_norm {bound:g}")
        return
    conversion.set("train.gradient_clipping", "norm", "officially" if not clipped_there else "as there",
                   *(named if method == "norm" else []))  # fmt: skip
    for key in named if method == "value" else []:
        conversion.leave_out(key, method, f"of no effect with max_grad_norm {bound:g}" if given else NOT_CLIPPED)
    why = "as there" if clipped_there else NOT_CLIPPED if given else "officially; SimpleTuner's default is +-2 by value"
    conversion.set("train.max_grad_norm", bound if clipped_there else MAX_GRAD_NORM, why, *given)


def convert_release(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.resources.fused_backward` where the settings before allow it, else say which does not."""
    named = keys.present("optimizer_release_gradients")
    if not named:
        return
    at, release = "train.resources", keys.flag("optimizer_release_gradients")
    sizes = {name: conversion.value(f"{at}.{name}") for name in ("num_processes", "micro_batch_size")}
    offload = GroupOffload(type=conversion.value(f"{at}.offload.type"))
    conflict = fused_backward_conflict(
        TrainResources().model_copy(update={"fused_backward": release, **sizes, "offload": offload}),
        optimizer=conversion.value("train.optimizer.name"),
        max_skipped_steps=0,
        gradient_clipping=conversion.value("train.gradient_clipping"),
        global_batch_size=conversion.value("train.global_batch_size"),
    )
    if conflict:
        conversion.leave_out(named[0], release, conflict)
    else:
        conversion.set(f"{at}.fused_backward", release, "true: no gradient waits for the others", *named)


def convert_ema(conversion: Conversion, keys: Keys, run: Run) -> None:
    """Write `train.ema_decay`: a step of decay d every n steps there is one of d ** (1 / n) every step here.

    Raises:
        ConfigError: the decay is not from 0 to below 1.
    """
    theirs = keys.present("use_ema", "ema_decay", "ema_update_interval")
    if not keys.flag("use_ema"):
        conversion.set("train.ema_decay", 0.0, "no EMA: the EMA weights are the live weights", *theirs[:1])
        for key in theirs[1:]:
            conversion.leave_out(key, keys.take(key), "of no effect without use_ema")
        return
    decay, every = keys.number("ema_decay", EMA_DECAY), max(1, keys.integer("ema_update_interval", 1))
    if not 0 <= decay < 1:
        raise ConfigError(f"{keys.where}: ema_decay is {decay:g}; a number from 0 to below 1 is needed")
    each_step = round(math.pow(decay, 1 / every), 6)
    why = f"every step, in fp32: {decay:g} every {every} steps there" if every > 1 else "every step, in fp32"
    conversion.set("train.ema_decay", each_step, f"{why}; officially 0.9999", *theirs)
