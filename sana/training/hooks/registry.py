"""Which hooks a training has beside the eval loss: one line each."""

import logging
import os

from sana.runtime.job import Job
from sana.runtime.launcher import EXIT_TRY_AGAIN, error_path
from sana.runtime.specs import TrainSpec
from sana.store import Store
from sana.training.hooks.hook import Hook

_log = logging.getLogger(__name__)


def hooks_of(job: Job[TrainSpec], store: Store) -> list[Hook]:
    """Return the hooks that the config of a job asks for, in the order in which they are called.

    Raises:
        ConfigError: the prompts of validation are not encoded.
    """
    config, hooks = job.config, list[Hook]()
    if config.train.validation.every:
        # here: the pipeline of diffusers takes seconds to import, and needs what a worker hides that does not sample
        from sana.training.hooks.validation import Validation
        from sana.training.validation.maker import Maker
        from sana.training.validation.shots import Library

        library = Library.read(store, job.spec.captions, config)
        maker = Maker(config, job.spec.model, library, store, job.spec.latents)
        hooks.append(Validation(maker, trajectory=job.spec.trajectory, give_up=lambda message: give_up(job, message)))
    return hooks


def give_up(job: Job[TrainSpec], message: str) -> None:
    """End this process at once, from any thread, such that whoever started it may start it again; does not return."""
    _log.critical("%s", message)
    error_path(job.path).write_text(message, encoding="utf-8")
    os._exit(EXIT_TRY_AGAIN)
