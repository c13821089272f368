"""What a training was made of: the artifacts of the data stages behind its input digests."""

from collections.abc import Iterable, Iterator
from itertools import islice

from sana.artifact import Artifact
from sana.comparison.lineage import Lineage

DATA_STAGES = ("download", "filter_captions", "probe", "bucket", "encode_captions", "encode_latents", "encode_masks",
               "encode_features")  # fmt: skip
_MAX_ARTIFACTS = 200  # newest of a stage that are looked at


def origins(lineage: Lineage, digests: Iterable[str]) -> dict[str, Artifact]:
    """Return the artifact of each data stage that content of these digests is from, in the order of the stages.

    Equal content is interchangeable: of several artifacts of a stage that which has most of it, and of those the
    newest. What is not found is left out.
    """
    found: dict[str, Artifact] = {}
    wanted = set(digests)
    for name in reversed(DATA_STAGES):
        among = [(len(wanted & set(one.content.values())), one) for one in newest(lineage, name)]
        most, match = max(among, key=lambda pair: pair[0], default=(0, None))
        if match is not None and most:
            found[name] = match
            wanted |= set(match.inputs.values())
    return {name: found[name] for name in DATA_STAGES if name in found}


def newest(lineage: Lineage, stage: str) -> Iterator[Artifact]:
    """Yield the artifacts of a stage, the newest first, as many as are worth looking at."""
    return islice(lineage.all(stage), _MAX_ARTIFACTS)
