"""Two tables of eval losses on what both have: paired differences by clip, over all, by noise level and by group.

Each sample's losses are averaged over the common noise levels first, then paired over the samples, as the eval loss is.
Numbers alone: no store. Shapes: N common samples, S common noise levels.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sana.errors import SanaError
from sana.eval_table import EvalTable, mean_and_stderr
from sana.record import Record

SURE_STDERRS = 2.0  # a difference of at least as many standard errors is told as one


@dataclass(frozen=True)
class LossDifference(Record):
    """The means of A and B over the same samples, and the paired mean of A - B: below 0, A is better.

    `stderr` is that of the difference, over samples; None for a single sample, which has none.
    """

    a: float
    b: float
    difference: float
    stderr: float | None
    num_samples: int

    @property
    def is_better(self) -> bool:
        """Whether A is better by at least SURE_STDERRS standard errors; one sample is never sure."""
        return self.stderr is not None and self.difference < 0 and self.difference <= -SURE_STDERRS * self.stderr

    @property
    def is_worse(self) -> bool:
        """Whether A is worse by as much."""
        return self.stderr is not None and self.difference > 0 and self.difference >= SURE_STDERRS * self.stderr

    @property
    def verdict(self) -> str:
        """One of: better, worse, same (not a bit differs), unsure."""
        if self.is_better:
            return "better"
        if self.is_worse:
            return "worse"
        return "same" if self.difference == 0 and self.stderr == 0 else "unsure"


@dataclass(frozen=True)
class SigmaDifference(Record):
    """The difference at one noise level."""

    sigma: float
    loss: LossDifference


@dataclass(frozen=True)
class Paired:
    """The losses of A and B of the same samples at the same noise levels, in the order of their ids."""

    sample_ids: tuple[str, ...]
    sigmas: tuple[float, ...]
    a: NDArray[np.float64]  # [N, S]
    b: NDArray[np.float64]

    def difference(self, sample_ids: Collection[str] | None = None) -> LossDifference | None:
        """Return the difference over all samples, or over these of them; None: there is none of them."""
        rows = range(len(self.sample_ids))
        if sample_ids is not None:
            rows_of = [row for row in rows if self.sample_ids[row] in sample_ids]
            return _difference(self.a[rows_of], self.b[rows_of]) if rows_of else None
        return _difference(self.a, self.b)

    def per_sigma(self) -> tuple[SigmaDifference, ...]:
        """Return the difference at each noise level."""
        levels = range(len(self.sigmas))
        each = ((self.sigmas[level], self.a[:, [level]], self.b[:, [level]]) for level in levels)
        return tuple(SigmaDifference(sigma, _difference(a, b)) for sigma, a, b in each)

    def per_group(self, groups: Mapping[str, str]) -> dict[str, LossDifference]:
        """Return the difference of each group, such as a bucket; `groups` has the name of each sample's."""
        members: dict[str, set[str]] = {}
        for sample_id in self.sample_ids:
            if sample_id in groups:
                members.setdefault(groups[sample_id], set()).add(sample_id)
        found = {name: self.difference(ids) for name, ids in sorted(members.items())}
        return {name: loss for name, loss in found.items() if loss is not None}

    def of(self, sample_ids: Collection[str]) -> "Paired":
        """Return the pairs of these samples."""
        rows = [row for row, name in enumerate(self.sample_ids) if name in sample_ids]
        return Paired(tuple(self.sample_ids[row] for row in rows), self.sigmas, self.a[rows], self.b[rows])


def pair(a: EvalTable, b: EvalTable, *, excluded: Collection[str] = ()) -> Paired:
    """Pair the losses of two tables on their common samples, without those `excluded`, and their common noise levels.

    Raises:
        SanaError: they have no common sample or no common level, or a loss is not finite.
    """
    common = sorted((set(a.sample_ids) & set(b.sample_ids)) - set(excluded))
    sigmas = tuple(sorted(set(a.sigmas) & set(b.sigmas)))
    if not common:
        changed = set(a.sample_ids) & set(b.sample_ids)
        more = f", and the {len(changed)} that both have were changed in between" if changed else ""
        raise SanaError(
            f"of the {len(a.sample_ids)} samples of one eval list and the {len(b.sample_ids)} of the other none is the "
            f"same{more}, so no loss can be paired; evaluate both on one eval set (the same data sets, bucket settings "
            "and evaluate.max_samples)"
        )
    if not sigmas:
        raise SanaError(
            f"one was evaluated at {_levels(a)} and the other at {_levels(b)}: no noise level is common, so no loss "
            "can be paired; evaluate both with one evaluate.num_sigmas"
        )
    return Paired(tuple(common), sigmas, _common(a, common, sigmas), _common(b, common, sigmas))


def _common(table: EvalTable, sample_ids: list[str], sigmas: tuple[float, ...]) -> NDArray[np.float64]:
    at = {name: row for row, name in enumerate(table.sample_ids)}
    losses = table.losses[[at[name] for name in sample_ids]][:, [table.sigmas.index(sigma) for sigma in sigmas]]
    EvalTable(tuple(sample_ids), sigmas, losses).require_finite("compared")
    return losses


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> LossDifference:
    """Return the difference of losses [N, S] each."""
    ids, levels = tuple(map(str, range(len(a)))), tuple(map(float, range(a.shape[1])))
    of_a, of_b = EvalTable(ids, levels, a).per_sample(), EvalTable(ids, levels, b).per_sample()
    difference, stderr = mean_and_stderr([one - other for one, other in zip(of_a, of_b, strict=True)])
    return LossDifference(mean_and_stderr(of_a)[0], mean_and_stderr(of_b)[0], difference, stderr, len(a))


def _levels(table: EvalTable) -> str:
    shown = ", ".join(f"{sigma:g}" for sigma in table.sigmas[:4])
    return f"{len(table.sigmas)} noise levels ({shown}{', ...' if len(table.sigmas) > 4 else ''})"
