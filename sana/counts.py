"""Counts of a stage: what came in is what went out plus what was rejected. Nothing disappears."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sana.record import Record


def ranked(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return (name, number), the largest number first, and equal ones by name."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


@dataclass(frozen=True)
class DatasetCounts(Record):
    """Clips of one data set (after bucket: samples, which are windows of clips)."""

    num_in: int
    num_rejected: int


@dataclass(frozen=True)
class Counts(Record):
    """How many came into a stage, went out and were rejected: clips, videos or texts; after bucket, samples.

    Raises:
        AssertionError: in is not out + rejected, or the counts by reason or by data set do not add up to it.
    """

    num_in: int
    num_out: int
    num_rejected: int
    reasons: Mapping[str, int]  # how many were rejected, by reason
    datasets: Mapping[str, DatasetCounts]  # of a stage that may reject clips; else empty
    num_samples: int | None  # where a clip gives several samples, their number; None: as many as went out
    extra: Mapping[str, int]  # other numbers of a stage by name, shown as they are

    def __post_init__(self) -> None:
        totals = f"{self.num_in} in, {self.num_out} out, {self.num_rejected} rejected"
        if self.num_in != self.num_out + self.num_rejected:
            raise AssertionError(f"{totals}: some disappeared")
        if sum(self.reasons.values()) != self.num_rejected:
            raise AssertionError(f"{totals}, but by reason {dict(self.reasons)}: some disappeared")
        of_datasets = self.datasets.values()
        if of_datasets and (self.num_in, self.num_rejected) != (
            sum(one.num_in for one in of_datasets),
            sum(one.num_rejected for one in of_datasets),
        ):
            raise AssertionError(f"{totals}, but by data set {dict(self.datasets)}: some disappeared")

    @classmethod
    def all_kept(cls, num: int, **extra: int) -> "Counts":
        """The counts of a stage that rejects nothing."""
        return cls(num, num, 0, reasons={}, datasets={}, num_samples=None, extra=extra)

    def with_extra(self, **extra: int) -> "Counts":
        """The same with more numbers to be shown."""
        return replace(self, extra={**self.extra, **extra})

    @property
    def num_next(self) -> int:
        """How many go into the next stage."""
        return self.num_out if self.num_samples is None else self.num_samples

    def top_reasons(self) -> list[tuple[str, int]]:
        """Return (reason, number) of what was rejected, the most frequent first."""
        return ranked(self.reasons)

    def __str__(self) -> str:
        reasons = f" ({', '.join(f'{num} {reason}' for reason, num in self.top_reasons())})" if self.reasons else ""
        samples = {} if self.num_samples is None else {"samples": self.num_samples}
        others = {**samples, **{name: num for name, num in self.extra.items() if num}}  # `0 truncated` tells nothing
        more = "".join(f", {num} {name.replace('_', ' ')}" for name, num in others.items())
        return f"{self.num_in} in, {self.num_out} out, {self.num_rejected} rejected{reasons}{more}"
