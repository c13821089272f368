"""Dispatch: each notification to the targets that ask for it, and at the end what became of them all."""

import time
from dataclasses import dataclass, field
from functools import partial

from sana.config.delivery.notifications import NotificationsConfig, NotificationTarget
from sana.delivery.notification import Notification
from sana.delivery.outbox import Delivered, Outbox
from sana.delivery.secrets import Redactor, read_secret, read_url
from sana.delivery.transports import open_transport
from sana.errors import ConfigError
from sana.wording import counted


@dataclass
class _Opened:
    target: NotificationTarget
    outbox: Outbox
    sent_at: dict[str, float] = field(default_factory=dict)  # progress and previews, monotonic time


class Dispatcher:
    """Has an outbox for each target. `problems`: why the other targets cannot be used, one line each."""

    def __init__(self, config: NotificationsConfig) -> None:
        self._config = config
        self.redact = Redactor(_known_secrets(config))
        self.problems: list[str] = []
        self._opened: list[_Opened] = []
        for number, target in enumerate(config.targets):
            try:
                transport = open_transport(target)
            except ConfigError as error:
                self.problems.append(f"{name_of(number, target)}: {error}; nothing is sent to it")
                continue
            outbox = Outbox(
                transport,
                name=name_of(number, target),
                queue_size=config.queue_size,
                timeout_s=target.timeout_s,
                max_tries=target.max_tries,
            )
            self._opened.append(_Opened(target, outbox))

    def tell(self, note: Notification) -> None:
        """Give a notification to the targets that ask for it. Never waits, never raises."""
        for one in self._opened:
            if note.is_for(one.target) and _is_due(one, note):
                one.outbox.put(note)

    def end(self, timeout_s: float) -> dict[str, Delivered]:
        """Give all targets this much time for what waits; return what became of it, by target."""
        for one in self._opened:
            one.outbox.end(timeout_s)
        return {one.outbox.name: one.outbox.result() for one in self._opened}


def name_of(number: int, target: NotificationTarget) -> str:
    """Name a target without its address."""
    return f"notifications.targets.{number} ({target.kind}, {target.url_env or 'url_file'})"


def summary(delivered: dict[str, Delivered]) -> list[str]:
    """Say of each target that lost some what became of its notifications."""
    return [
        f"{name}: {counted(result.sent, 'notification')} sent, {result.num_dropped} dropped "
        f"({', '.join(f'{reason}: {number}' for reason, number in result.dropped.most_common())})"
        for name, result in delivered.items()
        if result.num_dropped
    ]


def send_once(config: NotificationsConfig, note: Notification) -> dict[str, str]:
    """Send a notification to every target, one try each; return why each failed, "" where it did not, by target."""
    redact, results = Redactor(_known_secrets(config)), {}
    for number, target in enumerate(config.targets):
        try:
            transport = open_transport(target)
        except ConfigError as error:
            results[name_of(number, target)] = redact(str(error))
            continue
        outbox = Outbox(transport, name=name_of(number, target), queue_size=1, timeout_s=target.timeout_s)
        outbox.put(note)
        outbox.end(target.timeout_s + 1.0)
        results[outbox.name] = redact("; ".join(outbox.result().dropped))
    return results


def _is_due(one: _Opened, note: Notification) -> bool:
    """Whether it is time again for what comes often."""
    if note.event not in ("progress", "preview"):
        return True
    now = time.monotonic()
    last = one.sent_at.get(note.event)
    if last is not None and now - last < one.target.progress_every_s:
        return False
    one.sent_at[note.event] = now
    return True


def _known_secrets(config: NotificationsConfig) -> list[str]:
    known: list[str] = []
    for target in config.targets:
        for read in (partial(read_url, target), partial(read_secret, target)):
            try:
                value = read()
            except ConfigError:  # it is told when the target is opened
                continue
            known += [value] if value else []
    return known
