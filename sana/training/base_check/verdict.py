"""From losses to verdicts: is this the model, and are these the inputs, that belong together?"""

import math
from collections.abc import Mapping

from sana.data.eval_table import EvalTable, paired_difference
from sana.runtime.results import BaseCheckReport, ProbeVerdict
from sana.training.base_check.linear_guess import LatentStatistics, linear_guess_loss
from sana.training.base_check.probes import MIDDLE, OWN, PERMUTED, TIMESTEPS

STDERRS = 2.0  # standard errors that make a difference sure
FEWEST = 4  # samples for a paired difference to be sure of


def judge(tables: Mapping[str, EvalTable], statistics: LatentStatistics) -> BaseCheckReport:
    """Return the report on all that was asked."""
    own = tables[OWN]
    verdicts = [_loss(own, statistics), _captions(own, tables.get(PERMUTED))]
    asked = [name for name in tables if name not in (OWN, PERMUTED)]
    verdicts += [_variant("timestep", own, tables, [name for name in asked if name in TIMESTEPS])]
    verdicts += [_variant("instruction", own, tables, [name for name in asked if name not in TIMESTEPS])]
    return BaseCheckReport(
        num_samples=len(own.sample_ids),
        sigmas=own.sigmas,
        losses={name: tuple(mean for mean, _ in table.per_sigma()) for name, table in tables.items()},
        unit_guess=tuple(linear_guess_loss(sigma) for sigma in own.sigmas),
        clips_guess=tuple(linear_guess_loss(sigma, statistics.variance) for sigma in own.sigmas),
        mean_shift=statistics.mean_shift,
        scale_shift=statistics.scale_shift,
        verdicts=tuple(verdicts),
    )


def _loss(own: EvalTable, statistics: LatentStatistics) -> ProbeVerdict:
    """The loss at the middle levels against that of the best linear guess, from both kinds of statistics."""
    middle = [mean for sigma, (mean, _) in zip(own.sigmas, own.per_sigma(), strict=True) if sigma in MIDDLE]
    loss = math.fsum(middle) / len(middle)
    unit, clips = (
        math.fsum(linear_guess_loss(sigma, variances) for sigma in MIDDLE) / len(MIDDLE)
        for variances in ((1.0,), statistics.variance)
    )
    least = min(unit, clips)
    said = (
        f"loss {loss:.4f} at sigma {MIDDLE[0]:g} to {MIDDLE[-1]:g}; the best linear guess from x_t alone costs "
        f"{clips:.4f} with the statistics of these clips, {unit:.4f} with unit ones"
    )
    if statistics.is_shifted:
        said += (
            f"; these latents are not as a model's own: channel means are off by {statistics.mean_shift:.2f}, standard "
            f"deviations by a factor of {2**statistics.scale_shift:.2f} (root mean squares)"
        )
    if loss < least:
        return ProbeVerdict("loss", "passed", said)
    hint = "; wrong pixel range, VAE or normalisation of latents, or weights that were never trained?"
    return ProbeVerdict("loss", "failed", said + hint)


def _captions(own: EvalTable, permuted: EvalTable | None) -> ProbeVerdict:
    """Own captions must be surely better than those of other clips."""
    if permuted is None:
        return ProbeVerdict("captions", "unsure", "all captions are equal, so there is nothing to permute")
    difference, stderr, count = paired_difference(permuted, own)
    said = f"other clips' captions cost {difference:+.5f}{_plus_minus(stderr)} over {count} clips"
    if count < FEWEST or stderr is None:
        return ProbeVerdict("captions", "unsure", f"{said}; {FEWEST} held-out clips are needed")
    if difference > STDERRS * stderr:
        return ProbeVerdict("captions", "passed", said)
    return ProbeVerdict(
        "captions", "failed", f"{said}: own captions are not better; do captions belong to their clips?"
    )


def _variant(probe: str, own: EvalTable, tables: Mapping[str, EvalTable], names: list[str]) -> ProbeVerdict:
    """No wrong variant may be surely better than what is configured."""
    better, said = [], []
    for name in names:
        difference, stderr, count = paired_difference(tables[name], own)
        said.append(f"{name} costs {difference:+.5f}{_plus_minus(stderr)}")
        if difference < 0 and count >= FEWEST and -difference > STDERRS * (stderr or 0.0):
            better.append(name)
    if better:
        return ProbeVerdict(probe, "failed", f"{', '.join(said)}: {', '.join(better)} scores better than the config")
    return ProbeVerdict(probe, "passed", ", ".join(said))


def _plus_minus(stderr: float | None) -> str:
    return "" if stderr is None else f" \u00b1 {stderr:.5f}"
