"""A notification: what is told of a run, as a webhook gets it and in words. docs/notifications.md has its schema."""

import json
import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from sana.config.delivery.notifications import LEVELS, Kind, Level, NotificationTarget
from sana.delivery.secrets import Redactor
from sana.wording import duration

SCHEMA_VERSION = 1  # raised when a field is removed or means something else; a field may be added

EventKind = Kind | Literal["test"]


@dataclass(frozen=True)
class Notification:
    """What is told. None or empty: not known, or of no meaning for this event."""

    event: EventKind
    state: str  # started, running, cached, completed, reproduced, failed, stopped, saved, done, ready, sent
    level: Level
    title: str  # one line
    run: Mapping[str, str]  # name, config_digest, host
    stage: str | None = None
    step: int | None = None  # done, of `total`, in `unit`
    total: int | None = None
    unit: str | None = None
    loss: float | None = None  # the last training loss
    eval_loss: float | None = None  # the last, of the EMA weights
    eta_s: float | None = None  # seconds left of the stage
    seconds: float | None = None  # that it took
    files: Mapping[str, str] = field(default_factory=dict)  # what was made: addresses in the store, by name
    links: Mapping[str, str] = field(default_factory=dict)  # pages: mlflow, prefect, published
    error: str | None = None  # one line
    id: str = field(default_factory=lambda: uuid.uuid4().hex)  # the same on each try
    time: float = field(default_factory=time.time)  # Unix time, seconds

    def is_for(self, target: NotificationTarget) -> bool:
        """Whether the target wants to be told of this; a test is for all."""
        asked = self.event == "test" or self.event in target.events
        asked = asked or (self.level == "error" and "error" in target.events)
        return asked and LEVELS.index(self.level) >= LEVELS.index(target.min_level)

    def values(self, redact: Redactor) -> dict[str, Any]:
        """Return the plain values of a payload, without anything that is secret."""
        return {
            "schema": "sana.notification",
            "version": SCHEMA_VERSION,
            **{name: _clean(part, redact) for name, part in asdict(self).items()},
            "time": datetime.fromtimestamp(self.time, UTC).isoformat(timespec="milliseconds"),
        }

    def payload(self, redact: Redactor) -> bytes:
        """Return the JSON body of a webhook, in UTF-8."""
        return json.dumps(self.values(redact), allow_nan=False).encode()

    def words(self, redact: Redactor) -> str:
        """Return the lines below the title, for people."""
        lines = []
        if self.step is not None:
            of = f" of {self.total}" if self.total else ""
            left = f", {duration(self.eta_s)} left" if self.eta_s is not None else ""
            lines.append(f"{self.unit or 'step'} {self.step}{of}{left}")
        numbers = {"loss": self.loss, "eval loss": self.eval_loss}
        lines += [f"{name} {value:.4f}" for name, value in numbers.items() if value is not None]
        lines += [f"took {duration(self.seconds)}"] if self.seconds is not None else []
        lines += [f"error: {self.error}"] if self.error else []
        lines += [f"{name}: {where}" for name, where in {**self.files, **self.links}.items()]
        lines.append(f"run {self.run.get('name', '')} ({self.run.get('config_digest', '')})")
        return redact("\n".join(lines))


def _clean(value: object, redact: Redactor) -> object:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {redact(str(name)): _clean(part, redact) for name, part in value.items()}
    if isinstance(value, float) and not math.isfinite(value):  # JSON has no such number
        return None
    return value
