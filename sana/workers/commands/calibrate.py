"""Worker: measure this machine with random weights of the model's sizes. Each measurement is a process of its own.

This process imports what they need and touches no device; they are forked from it, so none waits for imports, and
what one of them leaves of a device's memory, or dies of, is gone with it.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import multiprocessing
import signal
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from sana.bucket import Bucket
from sana.costs.calibration import Calibration, Rate, Trial, calibrated_settings, configs_digest, sizes_digest
from sana.costs.machine import this_machine
from sana.costs.search import MOST_TRIALS, Search
from sana.costs.transformer import TransformerSizes
from sana.errors import SanaError
from sana.model.device import is_out_of_memory
from sana.progress import Progress
from sana.runtime.command_specs import CalibrateSpec
from sana.runtime.job import Job, run_worker
from sana.runtime.launcher import result_path
from sana.workers.commands.measurements import (
    capacity_bytes,
    is_gpu,
    measure_captions,
    measure_decoding,
    measure_encoding,
    measure_forward,
    measure_training,
)

T = TypeVar("T")


def calibrate(job: Job[CalibrateSpec]) -> None:
    """Measure, and leave a Calibration beside the job."""
    started = time.perf_counter()
    spec, config = job.spec, job.config
    bucket, sizes = Bucket.parse(spec.bucket), TransformerSizes.of(spec.model_configs["transformer"])
    reporter = _Steps(job, MOST_TRIALS + 4)  # the whole model, encode, decode and captions
    reporter.say("looking at the device")
    capacity = in_process(partial(capacity_bytes, config, spec.memory_bytes))
    if capacity is None:
        raise SanaError("the device has no memory left; end what else uses it, and run again")

    def measure(kept: float, micro_batch_size: int, num_layers: int) -> Trial:
        whole = " (the whole model)" if num_layers == sizes.num_layers else ""
        reporter.say(f"training step: {num_layers} layers{whole}, {kept:.0%} kept, micro batch {micro_batch_size}")
        part = config.train.global_batch_size // config.train.resources.num_processes
        samples = micro_batch_size * min(2, part // micro_batch_size)  # two micro batches tell what accumulating needs
        trial = Trial(num_layers, micro_batch_size, kept, fits=False, samples_per_step=samples)
        measured = in_process(partial(measure_training, job, trial, capacity))
        reporter.done += 1
        return trial if measured is None else measured

    on_gpu = in_process(partial(is_gpu, config)) or False
    search = Search(config.train, sizes, bucket, spec.caption_tokens, capacity, on_gpu, measure)
    chosen = search.run()
    reporter.done = max(reporter.done, MOST_TRIALS + 1)  # of the trials, what was not needed is done too
    rates: dict[str, Rate | None] = {"forward": None}
    if chosen is not None:
        rates["forward"] = in_process(partial(measure_forward, job, capacity))
    for name, what in (("encode", measure_encoding), ("decode", measure_decoding), ("captions", measure_captions)):
        reporter.say({"encode": "VAE, encoding", "decode": "VAE, decoding", "captions": "text encoder"}[name])
        rates[name] = in_process(partial(what, job, capacity))
        reporter.done += 1
    reporter.say("")
    calibration = Calibration(
        machine=this_machine(config.train.resources.device),
        capacity_bytes=capacity,
        model=configs_digest(spec.model_configs),
        transformer=sizes_digest(sizes),
        settings=calibrated_settings(config),
        bucket=spec.bucket,
        caption_tokens=spec.caption_tokens,
        trials=tuple(search.trials),
        chosen=chosen,
        seconds=time.perf_counter() - started,
        **rates,
    )
    result_path(job.path).write_bytes(calibration.to_json())


class _Steps:
    """Reports the measurements that are done, of so many at most, and what is measured now."""

    def __init__(self, job: Job[CalibrateSpec], total: int) -> None:
        self._job, self._total, self.done = job, total, 0

    def say(self, what: str) -> None:
        self._job.report(Progress(min(self.done, self._total), self._total, "measurements", detail=what))


def in_process(measure: Callable[[], T]) -> T | None:
    """Return what a function gives in a forked process; None: there was not enough memory for it.

    Raises:
        SanaError: it failed otherwise.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(measure, sender), daemon=True)
    process.start()
    sender.close()
    try:
        kind, value = receiver.recv()
    except EOFError:  # it died: a kernel that is out of memory kills
        kind, value = "died", None
    process.join()
    if kind == "error":
        raise SanaError(value)
    if kind == "died" and process.exitcode != -signal.SIGKILL:
        raise SanaError(f"a measurement ended with exit code {process.exitcode}; its output is in the log of this job")
    return value if kind == "measured" else None  # type: ignore[no-any-return]  # what `measure` gave


def _run(measure: Callable[[], Any], sender: Connection) -> None:
    """Measure, in the process that was forked for it, and send what came of it."""
    try:
        sender.send(("measured", measure()))
    except SanaError as error:
        sender.send(("error", str(error)))
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        sender.send(("full", None))


if __name__ == "__main__":
    run_worker(calibrate, CalibrateSpec)
