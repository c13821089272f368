"""What was trained on: the data sets with their counts, the stages that made them with their digests."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sana.artifact import Artifact
from sana.facts import BucketFacts, DownloadFacts, EncodeLatentsFacts


@dataclass(frozen=True)
class TrainedSet:
    """One data set: clips in, rejected by any stage, the train samples that came of the rest; its commit on a hub."""

    name: str
    num_in: int
    num_rejected: int
    train_samples: int | None
    revision: str


@dataclass(frozen=True)
class MadeBy:
    """One stage's artifact: what came in, went out and was rejected, and the digests of what later stages read."""

    stage: str
    fingerprint: str
    num_in: int
    num_next: int
    num_rejected: int
    content: Mapping[str, str]
    seconds: float


@dataclass(frozen=True)
class TrainedData:
    """`train`, `held_out`: samples; None where the buckets are not known any more."""

    datasets: Sequence[TrainedSet]
    stages: Sequence[MadeBy]
    train: int | None
    held_out: int | None
    num_buckets: int


def trained_data(artifacts: Mapping[str, Artifact]) -> TrainedData:
    """Read the counts of the data stages' artifacts, by stage. Raises SanaError: facts of one are damaged."""
    download, latents = artifacts.get("download"), artifacts.get("encode_latents")
    samples = EncodeLatentsFacts.of(latents).train_samples if latents else {}
    revisions = DownloadFacts.of(download).revisions if download else {}
    rejected: dict[str, int] = {}
    for artifact in artifacts.values():
        for name, counts in artifact.counts.datasets.items():
            rejected[name] = rejected.get(name, 0) + counts.num_rejected
    first = dict(download.counts.datasets) if download else {}
    names = sorted({*first, *samples})
    buckets = BucketFacts.of(artifacts["bucket"]).buckets if "bucket" in artifacts else {}
    return TrainedData(
        datasets=[
            TrainedSet(
                name,
                first[name].num_in if name in first else 0,
                rejected.get(name, 0),
                samples.get(name, 0) if latents else None,
                revisions.get(name, ""),
            )
            for name in names
        ],
        stages=[
            MadeBy(
                name,
                one.fingerprint,
                one.counts.num_in,
                one.counts.num_next,
                one.counts.num_rejected,
                one.content,
                one.seconds,
            )
            for name, one in artifacts.items()
        ],
        train=sum(one.train for one in buckets.values()) if buckets else None,
        held_out=sum(one.eval for one in buckets.values()) if buckets else None,
        num_buckets=len(buckets),
    )
