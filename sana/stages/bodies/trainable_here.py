"""Whether a config's training can be done by this model on this device, as far as its config files tell.

What `sana calibrate` measured not to fit cannot; estimates refuse nothing.
"""

from pathlib import Path

from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.config.training.optimization.parameter_names import check_parameter_names, has_parameter_names
from sana.context import Context
from sana.costs.calibration import FOLDER, Calibration, find_calibration
from sana.costs.parameter_shapes import parameter_shapes
from sana.costs.training import how_to_keep, kept_activations
from sana.errors import ConfigError
from sana.model.model_configs import ModelSizes, read_model_sizes

GIB = 2**30


def largest_bucket(config: Config) -> Bucket:
    """Return the bucket with the most tokens that a config may give samples of."""
    shapes = {shape for dataset in config.download.enabled for shape in config.rules_of(dataset).shapes}
    return max(shapes, key=lambda shape: (shape.num_tokens, shape))


def why_not_trainable(context: Context) -> str:
    """Return why this model cannot be trained so on this device, and what can be done; "" where nothing says so.

    Raises:
        SanaError: its config files cannot be read, or a calibration is damaged.
    """
    try:
        check_named_parameters(context.config, work_dir=context.work_dir, read_only=context.read_only)
    except ConfigError as error:
        return str(error)
    return _measured_not_to_fit(context)


def check_named_parameters(config: Config, *, work_dir: Path, read_only: bool = False) -> None:
    """Check that what a config says of parameters and blocks is said of some. No weight is read.

    Raises:
        ConfigError: a glob matches no parameter of the model, which names what may be meant; or there is no such block.
        SanaError: the model's config files cannot be read.
    """
    crepa = config.train.crepa
    if crepa is None and not has_parameter_names(config.train):
        return
    sizes = read_model_sizes(config.model, work_dir=work_dir, read_only=read_only)
    if has_parameter_names(config.train):
        check_parameter_names(config.train, parameter_shapes(sizes.transformer))
    if crepa is not None and crepa.block_index >= sizes.transformer.num_layers:
        last = sizes.transformer.num_layers - 1
        raise ConfigError(
            f"train.crepa.block_index is {crepa.block_index}, and the blocks of {config.model.path} are 0 to {last}; "
            f"use one about half-way, such as {(last + 1) // 2}"
        )


def _measured_not_to_fit(context: Context) -> str:
    if not any((context.work_dir / FOLDER).glob("*.json")):
        return ""  # no config file is read
    config = context.config
    sizes = read_model_sizes(config.model, work_dir=context.work_dir, read_only=context.read_only)
    calibration = find_calibration(config, sizes.configs, str(largest_bucket(config)))
    return "" if calibration is None else why_not(config, calibration, sizes)


def why_not(config: Config, calibration: Calibration, sizes: ModelSizes) -> str:
    """Return why a config's setting cannot train on the device that was measured, or "" where nothing says so."""
    kept = kept_activations(config.train, on_gpu=calibration.machine.is_gpu)
    if config.train.resources.activation_memory == "auto":
        kept = 0.0  # it keeps no more than fits
    micro = config.train.resources.micro_batch_size
    failed = [
        one
        for one in calibration.trials
        if not one.fits and one.kept <= kept and one.micro_batch_size <= micro
        and one.num_layers <= sizes.transformer.num_layers
    ]  # fmt: skip
    if not failed:
        return ""
    chosen, usable = calibration.chosen, f"{calibration.capacity_bytes / GIB:.1f} GiB"
    text = (
        f"train does not fit on {calibration.machine.device}: with {kept:.0%} of the activations kept and "
        f"micro_batch_size {micro} {calibration.bucket} was measured to need more than {usable}"
    )
    if chosen is None:
        return f"{text}, and so does every other setting that was tried; use smaller buckets or another device"
    fits = f"-s {how_to_keep(chosen.kept)} -s train.resources.micro_batch_size={chosen.micro_batch_size}"
    return f"{text}; this fits: {fits}"
