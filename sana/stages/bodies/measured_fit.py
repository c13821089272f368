"""Whether `sana calibrate` measured on this device that a config's training does not fit. Estimates refuse nothing."""

from sana.bucket import Bucket
from sana.config.pipeline import Config
from sana.context import Context
from sana.costs.calibration import FOLDER, Calibration, find_calibration
from sana.costs.training import how_to_keep, kept_activations
from sana.model.model_configs import ModelSizes, read_model_sizes

GIB = 2**30


def largest_bucket(config: Config) -> Bucket:
    """Return the bucket with the most tokens that a config may give samples of."""
    shapes = {shape for dataset in config.download.enabled for shape in config.rules_of(dataset).shapes}
    return max(shapes, key=lambda shape: (shape.num_tokens, shape))


def measured_not_to_fit(context: Context) -> str:
    """Return why training was measured not to fit, with the nearest setting that does; "" where nothing says so.

    Reads a model's config files only where something was calibrated.

    Raises:
        SanaError: they cannot be read, or a calibration is damaged.
    """
    if not any((context.work_dir / FOLDER).glob("*.json")):
        return ""
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
