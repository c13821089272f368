"""A table of eval losses and its reference, on what both have: paired differences by clip, by noise level, by group.

Each sample's losses are averaged over the common noise levels first, then paired over the samples, as the eval loss is.
Numbers alone: no store. Shapes: N common samples, S common noise levels.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sana.data.eval_table import EvalTable, mean_and_stderr
from sana.errors import SanaError
from sana.record import Record

SURE_STDERRS = 2.0  # a difference of at least as many standard errors is told as one


@dataclass(frozen=True)
class LossDifference(Record):
    """The mean loss of one side and that of its reference over the same samples; below 0, the side is better.

    `difference` is the paired mean of (loss - reference), `stderr` its standard error over samples; None for a single
    sample, which has none.
    """

    loss: float
    reference: float
    difference: float
    stderr: float | None
    num_samples: int

    @property
    def is_better(self) -> bool:
        """Whether the side is better by at least SURE_STDERRS standard errors; one sample is never sure."""
        return self.stderr is not None and self.difference < 0 and self.difference <= -SURE_STDERRS * self.stderr

    @property
    def is_worse(self) -> bool:
        """Whether it is worse by as much."""
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
    """The losses of one side and its reference: of the same samples, by id, at the same noise levels."""

    sample_ids: tuple[str, ...]
    sigmas: tuple[float, ...]
    losses: NDArray[np.float64]  # [N, S]
    reference: NDArray[np.float64]

    def difference(self, sample_ids: Collection[str] | None = None) -> LossDifference | None:
        """Return the difference over all samples, or over these of them; None: there is none of them."""
        rows = range(len(self.sample_ids))
        if sample_ids is not None:
            rows_of = [row for row in rows if self.sample_ids[row] in sample_ids]
            return _difference(self.losses[rows_of], self.reference[rows_of]) if rows_of else None
        return _difference(self.losses, self.reference)

    def per_sigma(self) -> tuple[SigmaDifference, ...]:
        """Return the difference at each noise level."""
        levels = range(len(self.sigmas))
        each = ((self.sigmas[level], self.losses[:, [level]], self.reference[:, [level]]) for level in levels)
        return tuple(SigmaDifference(sigma, _difference(losses, reference)) for sigma, losses, reference in each)

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
        return Paired(tuple(self.sample_ids[row] for row in rows), self.sigmas, self.losses[rows], self.reference[rows])


def pair(table: EvalTable, reference: EvalTable, *, excluded: Collection[str] = ()) -> Paired:
    """Pair the losses of two tables on their common samples, without those `excluded`, and their common noise levels.

    Raises:
        SanaError: they have no common sample or no common level, or a loss is not finite.
    """
    common = sorted((set(table.sample_ids) & set(reference.sample_ids)) - set(excluded))
    sigmas = tuple(sorted(set(table.sigmas) & set(reference.sigmas)))
    if not common:
        changed = set(table.sample_ids) & set(reference.sample_ids)
        more = f", and the {len(changed)} that both have were changed in between" if changed else ""
        sizes = f"{len(table.sample_ids)} samples of one eval list and the {len(reference.sample_ids)} of the other"
        raise SanaError(
            f"of the {sizes} none is the same{more}, so no loss can be paired; evaluate both on one eval set (the same "
            "data sets, bucket settings and evaluate.max_samples)"
        )
    if not sigmas:
        raise SanaError(
            f"one was evaluated at {_levels(table)} and the other at {_levels(reference)}: no noise level is common, "
            "so no loss can be paired; evaluate both with one evaluate.num_sigmas"
        )
    return Paired(tuple(common), sigmas, _common(table, common, sigmas), _common(reference, common, sigmas))


def _common(table: EvalTable, sample_ids: list[str], sigmas: tuple[float, ...]) -> NDArray[np.float64]:
    at = {name: row for row, name in enumerate(table.sample_ids)}
    losses = table.losses[[at[name] for name in sample_ids]][:, [table.sigmas.index(sigma) for sigma in sigmas]]
    EvalTable(tuple(sample_ids), sigmas, losses).require_finite("compared")
    return losses


def _difference(losses: NDArray[np.float64], reference: NDArray[np.float64]) -> LossDifference:
    """Return the difference of losses [N, S] each."""
    ids, levels = tuple(map(str, range(len(losses)))), tuple(map(float, range(losses.shape[1])))
    ours, others = EvalTable(ids, levels, losses).per_sample(), EvalTable(ids, levels, reference).per_sample()
    difference, stderr = mean_and_stderr([one - other for one, other in zip(ours, others, strict=True)])
    return LossDifference(mean_and_stderr(ours)[0], mean_and_stderr(others)[0], difference, stderr, len(losses))


def _levels(table: EvalTable) -> str:
    shown = ", ".join(f"{sigma:g}" for sigma in table.sigmas[:4])
    return f"{len(table.sigmas)} noise levels ({shown}{', ...' if len(table.sigmas) > 4 else ''})"
