"""Curves as TensorBoard reads them: the only door to tensorboard. It needs no TensorFlow and no torch."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from sana.config.delivery.tracking import TrackerConfig
from sana.metrics import STEP, Row
from tasks.trackers.sent import Sent


class TensorBoard:
    """One folder of event files for each training; a training that is resumed goes on in its folder."""

    def __init__(self, config: TrackerConfig, *, folder: Path, name: str, sent: Sent) -> None:
        self._config, self._folder, self._name, self._sent = config, folder, name, sent
        self._writer: EventFileWriter | None = None

    def rows(self, rows: Sequence[Row]) -> None:
        """Write rows. Steps that an attempt before wrote, and that are done again, are taken back there.

        Raises:
            OSError: the folder cannot be written.
        """
        for row in rows:
            step = int(row[STEP])
            values = [Summary.Value(tag=name, simple_value=row[name]) for name in row if name != STEP]
            self._opened(step).add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if self._writer is not None:
            self._writer.flush()

    def results(self, results: Mapping[str, float]) -> None:
        """Write numbers of the whole training, at the last step that was written."""
        self.rows([{STEP: float(self._sent.step), **results}])

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, step: int) -> EventFileWriter:
        if self._writer is None:
            self._writer = EventFileWriter(str(self._folder / self._name))
            if step <= self._sent.step:
                start = Event(wall_time=time.time(), step=step, session_log=SessionLog(status=SessionLog.START))
                self._writer.add_event(start)
        return self._writer
