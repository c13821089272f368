"""Curves on Weights & Biases: the only door to wandb. Its key and server are its own environment variables."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb
from wandb.sdk.mailbox import HandleAbandonedError

from sana.config.delivery.tracking import TrackerConfig
from sana.metrics import STEP, Row
from tasks.trackers.sent import Sent

TROUBLE = (wandb.Error, HandleAbandonedError)  # the second: its own process has ended meanwhile
_INIT_TIMEOUT_S = 15.0  # a server that answers does so in a few; less than the end of a run waits


class WeightsAndBiases:
    """One run for each training, found again by its id when the training is resumed."""

    def __init__(
        self, config: TrackerConfig, *, folder: Path, name: str, sent: Sent, project: str, run_id: str, settings: Any
    ) -> None:
        self._config, self._folder, self._name, self._sent = config, folder, name, sent
        self._project, self._run_id, self._settings = project, run_id, settings
        self._run: Any = None

    def rows(self, rows: Sequence[Row]) -> None:
        """Log rows of steps that it has not had; a step that is done again has the same numbers.

        Raises:
            wandb.Error: no key, no such project, or the server does not answer.
            OSError: the folder cannot be written.
        """
        for row in rows:
            if row[STEP] > self._sent.step:
                self._opened().log(dict(row))

    def results(self, results: Mapping[str, float]) -> None:
        """Set numbers of the whole training, which its table of runs shows."""
        self._opened().summary.update(dict(results))

    def close(self) -> None:
        """Send what is left."""
        if self._run is not None:
            self._run.finish()

    def _opened(self) -> Any:
        if self._run is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._run = wandb.init(
                project=self._project,
                name=self._name,
                id=self._run_id,
                # offline there is nobody to ask: the same id continues the run when it is sent
                resume="allow" if self._config.mode == "online" else None,
                mode=self._config.mode,
                dir=str(self._folder),
                config=self._settings,
                settings=wandb.Settings(
                    console="off", silent=True, x_disable_stats=True, save_code=False, init_timeout=_INIT_TIMEOUT_S
                ),
            )
            self._run.define_metric("*", step_metric=STEP)  # its own steps never go back
        return self._run
