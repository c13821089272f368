"""`sana calibrate`: measure this machine for a config, on random weights, and say what to set."""

from collections.abc import Sequence
from dataclasses import replace

import click

from flows.cli.options import FiniteRange, config_options, context_of, program, resolve, same_options
from flows.cli.output.json_output import emit, json_option
from flows.display.wrapping import say
from sana.bucket import Bucket
from sana.errors import ConfigError, SanaError

GIB = 2**30


@click.command()
@config_options
@click.option("--bucket", metavar="FxHxW", help="Frames x height x width; unset: the largest of the config's buckets.")
@click.option(
    "--memory-gib",
    type=FiniteRange(min=0.01),
    help="Find what fits into so much memory, as of a smaller device, and keep no record; unset: all that is free.",
)
@json_option("flows.cli.output.documents:CalibrateDocument")
def calibrate(
    config: str, overrides: Sequence[str], root: str | None, bucket: str | None, memory_gib: float | None
) -> None:
    """Measure seconds and peak memory of training, VAE and text encoder on this machine, and choose what is fastest.

    Needs the model's config files only: weights are random, and no clip is read. The record is kept under work_dir,
    and `sana plan` goes by it.
    """
    from flows.cli.output.documents import CalibrateDocument
    from flows.display.calibration import best_settings, calibration_lines
    from flows.display.progress_display import RunDisplay
    from sana.costs.calibration import Calibration, is_sharded, save_calibration
    from sana.model.model_configs import read_model_sizes
    from sana.pipeline.plan import check_work_dir
    from sana.runtime.command_specs import CalibrateSpec
    from sana.runtime.launcher import result_path
    from sana.runtime.worker import run_worker
    from sana.stages.bodies.trainable_here import largest_bucket

    settings = resolve(config, overrides, root).with_any_conditions
    if is_sharded(settings.train):
        raise ConfigError(
            f"train.resources.sharding is {settings.train.resources.sharding}: one rank is measured, which holds the "
            "whole state. -s train.resources.sharding=none measures that; of shards `sana plan` has estimates"
        )
    shape = largest_bucket(settings) if bucket is None else _parsed(bucket)
    context = context_of(settings)
    check_work_dir(context.work_dir)
    sizes = read_model_sizes(settings.model, work_dir=context.work_dir)
    spec = CalibrateSpec(
        model_configs=sizes.configs,
        bucket=str(shape),
        caption_tokens=settings.encode_captions.max_tokens,
        memory_bytes=round((memory_gib or 0) * GIB),
    )
    with RunDisplay() as display:
        job = run_worker(replace(context, report=display.reporter("calibrate")), spec, lock="calibrate")
    measured: Calibration = Calibration.load(result_path(job), repair_hint="run again")
    for line in calibration_lines(measured, settings, sizes):
        say(line)
    path = None
    if memory_gib is None:
        path = save_calibration(measured, context.work_dir)
        say(f"kept in {path}")
        command = f"{program()} plan {same_options(config, overrides, root)}"
        say(f"next, what a run takes: {command}", command=command)
    else:
        say("not kept, as it is of less memory than this device has")
    emit(CalibrateDocument(measured.to_value(), best_settings(measured), None if path is None else str(path)))
    if measured.chosen is None:
        raise SanaError(
            f"no setting fits: {shape} needs more than {measured.capacity_bytes / GIB:.1f} GiB even when all "
            "activations are computed again, one sample at a time; use smaller buckets, another optimizer, "
            "train.resources.ema_device=cpu, or a device with more memory"
        )


def _parsed(name: str) -> Bucket:
    try:
        return Bucket.parse(name)
    except ValueError as error:
        raise ConfigError(f"--bucket: {error}") from error
