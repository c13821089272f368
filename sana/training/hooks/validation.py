"""Validation while training: videos of the prompts, every `train.validation.every` steps, beside the weights at work.

A checkpoint is committed before, so nothing is lost where the process does not survive it. What goes wrong on any rank
is agreed on by all, told, and kept in the store as the reason; training goes on with the same bits as without.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from sana import metrics as m
from sana.errors import RankLostError
from sana.progress import PreviewReady, ValidationDone
from sana.training.checkpoints.ownership import RankExchange
from sana.training.validation import record as kept
from sana.training.validation.maker import Maker
from sana.training.validation.record import ValidationRecord
from sana.training.validation.shots import Shot, ShotList, shot_list
from sana.training.validation.unharmed import FAILURES, unharmed
from sana.training.validation.watchdog import Watchdog
from sana.training.validation.work import RankWork
from sana.wording import one_line

if TYPE_CHECKING:
    from sana.training.loop import Trainer

REPORT_EVERY_S = 1.0
MARK_S = 20.0  # to note in the store that a validation hangs; storage may hang as well
MAX_HUNG = 2  # a flow starts a trainer three times
OTHERS_WAIT_S = 30.0  # rank 0 tells why, and whoever started the ranks ends the others

_log = logging.getLogger(__name__)


class Said(NamedTuple):
    """What one rank says after a round."""

    failure: str
    ended: bool
    stop: bool


class Validation:
    """The hook. `give_up(message)` ends this process such that it is started again, and does not return."""

    def __init__(self, maker: Maker, *, trajectory: str, give_up: Callable[[str], None]) -> None:
        self._maker, self._trajectory, self._give_up = maker, trajectory, give_up
        self._config = maker.config.train.validation
        self._looked_at = -1  # the last step that was looked at
        self._exchange = RankExchange(0, 1)
        self._given_up = ""  # why no more are made in this run

    def before_training(self, trainer: "Trainer") -> None:
        """Open the way by which ranks agree, one of its own beside that of the steps, and look at what hung before."""
        self._exchange = RankExchange(trainer.parallel.rank, trainer.parallel.num_ranks)
        self._given_up = self._exchange.from_main(self._why_not() if trainer.parallel.is_main else "")

    def _why_not(self) -> str:
        """Return why no more are made, empty where they are: whoever starts the trainer again does so a few times."""
        timeout_s = self._config.timeout_s
        hung = {
            record.step: record.attempts
            for record in kept.records(self._maker.store, self._trajectory)
            if record.ended_trainer and record.timeout_s >= timeout_s
        }
        if sum(hung.values()) < MAX_HUNG:
            return ""
        return (
            f"{'that of step' if len(hung) == 1 else 'those of steps'} {', '.join(map(str, hung))} ended the trainer"
            f"{' twice' if len(hung) == 1 else ''}, so no more are made in this run: look at "
            f"its logs, or raise train.validation.timeout_s above {timeout_s:g}; sana sample makes them"
        )

    def before_step(self, trainer: "Trainer") -> bool:
        """Make the videos if it is time, once; False when a stop was requested meanwhile."""
        step = trainer.state.step
        if not trainer.is_due(self._config.every) or (step == 0 and not self._config.at_start):
            return True
        if step == self._looked_at:
            return True
        self._looked_at = step
        shots = shot_list(self._maker.config, self._maker.library, step=step)
        state = self._state(step, shots) if trainer.parallel.is_main else ""
        if found := self._exchange.from_main(state):
            if trainer.parallel.is_main:
                self._tell_found(trainer, shots, found)
            if found == kept.BEGUN:  # now it is one that ended the trainer
                self._given_up = self._exchange.from_main(self._why_not() if trainer.parallel.is_main else "")
            return True
        if self._given_up:
            if trainer.parallel.is_main:
                _log.warning("step %d: no validation: %s", step, self._given_up)
                trainer.say(happened=[ValidationDone(step, "", {}, 0.0, error=self._given_up)])
            return True
        trainer.save()
        trainer.checkpoints.finish(partial(trainer.say, "saving a checkpoint before validation"))
        return self._validate(trainer, shots)

    def _state(self, step: int, shots: ShotList) -> str:
        """Return how far the validation of a step is; "" where it is to be made: also one that was cut off once."""
        store = self._maker.store
        state = kept.state_of(store, self._trajectory, step, shots.digest)
        if state == kept.BEGUN and not self._given_up:
            attempts = kept.attempts_of(store, self._trajectory, step, shots.digest)
            if attempts < kept.MAX_ATTEMPTS:
                _log.info("step %d: the trainer ended while its validation was made, so it is made again", step)
                return ""
        return state

    def _tell_found(self, trainer: "Trainer", shots: ShotList, state: str) -> None:
        """Tell again of a validation that ended before training resumed: its row came after the checkpoint."""
        store, step = self._maker.store, trainer.state.step
        if state == kept.BEGUN:
            attempts = kept.attempts_of(store, self._trajectory, step, shots.digest)
            times = "twice " if attempts > 1 else ""
            why = f"the trainer ended {times}while it was made; sana sample CONFIG --step {step} makes it"
            kept.end(store, replace(self._ended(self._failed(step, shots, why, 0.0)), attempts=attempts))
            state = kept.FAILED
        try:
            found = kept.read(store, f"{kept.folder_of(self._trajectory, step, shots.digest)}/{state}")
        except FAILURES as error:
            _log.warning("the validation of step %d is not told again: %s", step, error)
            return
        self._tell(trainer, found, is_news=bool(found.failed))

    def _validate(self, trainer: "Trainer", shots: ShotList) -> bool:
        """Make the videos and commit them; returns whether training goes on."""
        parallel, step, started = trainer.parallel, trainer.state.step, time.monotonic()
        work = RankWork(self._maker, parallel, shots, self._trajectory, step)
        trainer.say("validating")
        if parallel.is_main:
            kept.begin(self._maker.store, self._trajectory, step, shots.digest)
        watchdog = Watchdog(
            self._config.timeout_s,
            still_there=lambda seconds: trainer.say(f"validating, for {seconds:.0f} s"),
            on_timeout=partial(self._timed_out, trainer, shots),
        )
        with unharmed(trainer.trainable.model, parallel.device), watchdog:
            failures, stop = self._rounds(trainer, work)
            made = self._exchange.to_main(() if failures or stop else tuple(work.made))
        if not parallel.is_main:
            return not stop
        if stop:
            kept.take_back(self._maker.store, self._trajectory, step, shots.digest)
            return False
        seconds = time.monotonic() - started
        failed = self._failed(step, shots, "; ".join(failures), seconds)
        try:
            done = failed if failures else work.record([one for rank in made for one in rank], seconds)
            kept.end(self._maker.store, done)
        except FAILURES as error:  # storage: training will meet it again where it matters
            done = replace(failed, failed=one_line(error, with_type=True))
        self._tell(trainer, done)
        self._prune(step)
        return True

    def _rounds(self, trainer: "Trainer", work: RankWork) -> tuple[list[str], bool]:
        """Take this rank's rounds; returns why ranks failed, if any did, and whether a stop was requested.

        Raises:
            RankLostError: this rank failed in a forward pass in which sharded ranks wait for each other.
        """
        parallel, live = trainer.parallel, nullcontext
        rounds = work.rounds(
            trainer.trainable.model,
            {"live": live, "ema": trainer.state.ema.swapped_in},
            on_step=partial(_on_step, trainer),
            on_preview=partial(_on_preview, trainer),
        )
        with closing(rounds), trainer.compute.eager():
            while True:
                failure, ended = "", False
                try:
                    ended = bool(next(rounds, True))
                except _StoppedError:
                    _log.info("validation of step %d is stopped, and made when training resumes", work.step)
                except FAILURES as error:
                    of_rank = f"rank {parallel.rank}: " if parallel.num_ranks > 1 else ""
                    failure = of_rank + one_line(error, with_type=True)
                    _log.warning("validation of step %d failed", work.step, exc_info=error)
                    if parallel.is_sharded and work.computes_together:
                        self._leave_others(work, failure, error)
                said = self._exchange.to_all(Said(failure, ended, bool(trainer.stop.requested)))
                failures = [one.failure for one in said if one.failure]
                stop = any(one.stop for one in said)
                if failures or stop or ended:
                    return failures, stop

    def _leave_others(self, work: RankWork, failure: str, error: BaseException) -> None:
        """Mark the validation as failed and end this rank, so that all are started again."""
        kept.end(self._maker.store, self._ended(self._failed(work.step, work.shots, failure, 0.0)))
        raise RankLostError(
            f"the validation of step {work.step} failed in a forward pass of sharded weights, where all ranks wait for "
            f"each other ({failure}). It is marked as failed: start again, and training resumes from the checkpoint of "
            "this step without it"
        ) from error

    def _timed_out(self, trainer: "Trainer", shots: ShotList) -> None:
        """Mark the validation as failed, tell it and end the process; called in the watchdog's thread."""
        step = trainer.state.step
        why = f"it took longer than train.validation.timeout_s, {self._config.timeout_s:g} s"
        if trainer.parallel.is_main:
            done = self._ended(self._failed(step, shots, why, self._config.timeout_s))
            mark = threading.Thread(target=kept.end, args=(self._maker.store, done), daemon=True)
            mark.start()
            mark.join(MARK_S)
            trainer.say(f"validation failed: {why}", happened=_events_of(done))
        else:
            time.sleep(OTHERS_WAIT_S)
        self._give_up(
            f"the validation of step {step} hangs: {why}. It is marked as failed, and the trainer is ended: started "
            f"again, it resumes from the checkpoint of step {step} without it"
        )

    def _failed(self, step: int, shots: ShotList, why: str, seconds: float) -> ValidationRecord:
        return ValidationRecord(self._trajectory, step, shots.digest, seconds, failed=why or "unknown")

    def _ended(self, failed: ValidationRecord) -> ValidationRecord:
        return replace(failed, ended_trainer=True, timeout_s=self._config.timeout_s)

    def _tell(self, trainer: "Trainer", done: ValidationRecord, *, is_news: bool = True) -> None:
        """Write its row of metrics, and report its event, if it is news."""
        row = {m.STEP: done.step, m.VALIDATION_FAILED: float(bool(done.failed)), m.VALIDATION_S: done.seconds}
        if done.failed:
            _log.warning("step %d: the validation failed, training continues: %s", done.step, done.failed)
            said = f"validation failed: {done.failed}"
        else:
            said = f"validation: {len(done.videos)} videos in {done.seconds:.0f} s"
        trainer.write([row], said)
        if is_news:
            trainer.say(happened=_events_of(done))

    def _prune(self, step: int) -> None:
        try:
            kept.prune(self._maker.store, self._trajectory, max_kept=self._config.max_kept, newest=step)
        except FAILURES as error:
            _log.warning("old validations are not removed: %s", error)


class _StoppedError(Exception):
    """A stop was requested while this rank made a video."""


def _on_step(trainer: "Trainer", what: str, done: int, total: int) -> None:
    """Report how far a video is.

    Raises:
        _StoppedError: a stop was requested, and no rank waits for this one's weights.
    """
    if trainer.stop.requested and not trainer.parallel.is_sharded:
        raise _StoppedError
    if time.perf_counter() - trainer.last_report > REPORT_EVERY_S:
        trainer.say(f"validating: {what} {done} of {total}")


def _on_preview(trainer: "Trainer", shot: Shot, done: int, steps: int, path: Path) -> None:
    trainer.say(
        f"validating: {shot.name}", happened=[PreviewReady(trainer.state.step, shot.name, done, steps, str(path))]
    )


def _events_of(done: ValidationRecord) -> list[ValidationDone]:
    """Return the events of a validation: one for each set of weights."""
    if done.failed:
        return [ValidationDone(done.step, "", {}, done.seconds, error=one_line(done.failed), record=done.key)]
    several = len({(video.bucket, video.seed) for video in done.videos}) > 1
    events = []
    for weights in dict.fromkeys(video.weights for video in done.videos):
        videos = {
            f"{video.prompt} {video.bucket} seed {video.seed}" if several else video.prompt: done.files[video.file].key
            for video in done.videos
            if video.weights == weights
        }
        events.append(ValidationDone(done.step, weights, videos, done.seconds, record=done.key))
    return events
