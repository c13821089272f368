"""The observer that says what a run is warned of, each warning once."""

from collections.abc import Callable, Iterable

from sana.config.pipeline import Config
from sana.facts import BucketFacts
from sana.pipeline.advice import advice
from sana.pipeline.observers import Committed, Event, Observer, RunStart
from sana.pipeline.plan import StagePlan


class Advisor(Observer):
    """Says each warning about a run once: those known from the config at first, the rest when bucket is committed."""

    def __init__(self, config: Config, say: Callable[[str], None]) -> None:
        self._config, self._say = config, say
        self._said: set[str] = set()

    def advise(self, facts: BucketFacts | None = None) -> None:
        """Say what is known and was not said."""
        for line in map(str, advice(self._config, facts)):
            subject = line.partition(" ")[0]  # the key: what the config alone gives is not said again in other words
            if subject not in self._said:
                self._said.add(subject)
                self._say(line)

    def advise_on(self, plans: Iterable[StagePlan]) -> None:
        """Say what is known when a run is planned: of its samples only where the bucket stage is cached."""
        made = {one.name: one.artifact for one in plans}.get(BucketFacts.STAGE)
        self.advise(None if made is None else BucketFacts.of(made))

    def on_run_start(self, start: RunStart) -> None:
        self._config = start.context.config
        self.advise()

    def on_event(self, event: Event) -> None:
        if isinstance(event, Committed) and event.stage == BucketFacts.STAGE:
            self.advise(BucketFacts.of(event.artifact))
