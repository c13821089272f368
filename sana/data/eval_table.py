"""Tables of eval losses, their means and what two of them have in common: numbers alone, no torch.

Shapes: N eval samples, S noise levels. Sums are exact (fsum), so the order of samples changes no bit.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sana.errors import SanaError


@dataclass(frozen=True)
class EvalTable:
    """Losses of each eval sample at each noise level; samples are in the order of their ids."""

    sample_ids: tuple[str, ...]
    sigmas: tuple[float, ...]
    losses: np.ndarray  # float64 [N, S]

    def per_sample(self) -> list[float]:
        """Return each sample's mean over the noise levels."""
        return [math.fsum(row) / len(row) for row in self.losses.tolist()]

    def mean(self) -> float:
        """Return the eval loss: the mean over samples of their means."""
        return _mean(self.per_sample())

    def stderr(self) -> float | None:
        """Return the standard error of the mean, over samples; None for a single sample, which has none."""
        return _stderr(self.per_sample())

    def require_finite(self, weights: str, when: str = "") -> None:
        """Raise SanaError if a loss is not finite: names the weights, and the first sample and level."""
        bad = np.argwhere(~np.isfinite(self.losses))
        if len(bad):
            sample, level = (int(index) for index in bad[0])
            raise SanaError(
                f"{when}the eval loss of the {weights} weights is {self.losses[sample, level]:g} for sample "
                f"{self.sample_ids[sample]} at sigma {self.sigmas[level]:g}; {len(bad)} of {self.losses.size} losses "
                "are not finite. The weights or the sample are broken: look at it, sana inspect CONFIG "
                f"{self.sample_ids[sample]}, or start from other weights (model.path, an earlier checkpoint)"
            )

    def of(self, sample_ids: Collection[str]) -> "EvalTable":
        """Return the rows of these samples."""
        at = [row for row, sample_id in enumerate(self.sample_ids) if sample_id in sample_ids]
        return EvalTable(tuple(self.sample_ids[row] for row in at), self.sigmas, self.losses[at])

    def per_sigma(self) -> list[tuple[float, float | None]]:
        """Return (mean, standard error) over samples at each noise level."""
        return [(_mean(column), _stderr(column)) for column in self.losses.T.tolist()]


def paired_difference(a: EvalTable, b: EvalTable) -> tuple[float, float | None, int]:
    """Return mean, standard error and number of `a - b` over their common samples; below 0, `a` is better.

    Pairing removes what makes one clip harder than another, which is most of the spread of each mean.

    Raises:
        ValueError: the two have other noise levels, or no common sample.
    """
    common = sorted(set(a.sample_ids) & set(b.sample_ids))
    if a.sigmas != b.sigmas or not common:
        raise ValueError(
            f"cannot pair {len(a.sample_ids)} samples at {len(a.sigmas)} sigmas with {len(b.sample_ids)} at "
            f"{len(b.sigmas)}: {len(common)} samples are common; evaluate both on one split and one grid"
        )
    of_a = dict(zip(a.sample_ids, a.per_sample(), strict=True))
    of_b = dict(zip(b.sample_ids, b.per_sample(), strict=True))
    return (*mean_and_stderr([of_a[name] - of_b[name] for name in common]), len(common))


def mean_and_stderr(values: list[float]) -> tuple[float, float | None]:
    """Return the mean and its standard error, which a single value has not."""
    return _mean(values), _stderr(values)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)  # fsum rounds once, so the order has no effect


def _stderr(values: list[float]) -> float | None:
    if len(values) < 2:
        return None
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))


def tables_by_weights(losses: pa.Table, *, where: str) -> dict[str, EvalTable]:
    """Return the table of each set of weights in rows of LOSSES, whatever their order. `where` names them in errors.

    Raises:
        SanaError: a sample has no loss at one of the levels, or two of them.
    """
    names = pc.unique(losses.column("weights")).to_pylist()
    return {name: _table(losses.filter(pc.equal(losses.column("weights"), name)), f"{where}: {name}") for name in names}


def _table(rows: pa.Table, where: str) -> EvalTable:
    ids = rows.column("sample_id").combine_chunks().dictionary_encode()
    order = np.argsort(np.array(ids.dictionary.to_pylist(), dtype=object))
    sample = np.argsort(order)[ids.indices.to_numpy()]  # place of each row's sample among the sorted ids
    sigmas, level = np.unique(rows.column("sigma").to_numpy(), return_inverse=True)
    losses = np.full((len(order), len(sigmas)), np.nan)
    seen = np.zeros(losses.shape, dtype=np.int64)
    np.add.at(seen, (sample, level), 1)
    if (seen != 1).any():
        at = np.argwhere(seen != 1)[0]
        raise SanaError(
            f"{where}: sample {ids.dictionary[int(order[at[0]])]} has {seen[tuple(at)]} losses at sigma "
            f"{sigmas[at[1]]:g}, not 1; the table is damaged: sana verify CONFIG says which file"
        )
    losses[sample, level] = rows.column("loss").to_numpy()
    names = tuple(ids.dictionary[int(place)].as_py() for place in order)
    return EvalTable(names, tuple(sigmas.tolist()), losses)
