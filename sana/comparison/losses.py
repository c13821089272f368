"""Two evaluations on what is common to them, and what is not: the numbers of `sana compare`."""

from sana.comparison.evaluations import Evaluation
from sana.comparison.paired import LossDifference, pair
from sana.comparison.record import Common, LossComparison
from sana.errors import SanaError
from sana.wording import counted


def compare_losses(side: Evaluation, reference: Evaluation) -> LossComparison:
    """Return the paired differences of `side` to `reference`; of a set of samples that both have, and unchanged.

    Raises:
        SanaError: nothing is common, a loss is not finite, or a table is gone.
    """
    notes = _setting_notes(side, reference)
    changed = _changed(side, reference, notes)
    paired = pair(side.losses, reference.losses, excluded=changed)
    samples = side.samples or reference.samples
    separate = side.separate_datasets | reference.separate_datasets
    if samples is None and separate:
        raise SanaError(
            "the tables that say which sample is of which data set are gone (sana gc), so that the eval loss cannot be "
            f"told from that of {', '.join(sorted(separate))}; evaluate again: sana run CONFIG --force evaluate"
        )
    datasets = {name: one.dataset for name, one in (samples or {}).items()}
    own = paired.of([name for name in paired.sample_ids if datasets.get(name) not in separate])
    if (eval_loss := own.difference()) is None:
        raise SanaError("no sample of the eval loss itself is common, only those of data sets measured by themselves")
    if samples is None:
        notes.append("the tables that say which sample has which bucket and data set are gone (sana gc)")
    if side.separate_datasets != reference.separate_datasets:
        notes.append(f"measured by itself for one of the two only: {', '.join(sorted(separate))}")
    apart = [name for name in paired.sample_ids if datasets.get(name) in separate]
    buckets = {name: one.bucket for name, one in (samples or {}).items()}
    sigmas = (len(paired.sigmas), len(side.losses.sigmas), len(reference.losses.sigmas))
    if sigmas[1] != sigmas[2]:  # noise is keyed by the number of levels as well
        notes.append(
            f"{sigmas[1]} and {sigmas[2]} noise levels: at the {sigmas[0]} that are common their noise differs, so the "
            "standard error is larger than on one grid"
        )
    return LossComparison(
        eval_loss=eval_loss,
        common=Common(
            len(paired.sample_ids), len(side.losses.sample_ids), len(reference.losses.sample_ids), len(changed), *sigmas
        ),
        sigmas=own.per_sigma(),
        buckets=own.per_group(buckets),
        datasets=own.per_group(datasets),
        separate=paired.of(apart).per_group(datasets),
        conditions=_conditions(side, reference, changed, notes),
        notes=tuple(notes),
    )


def _changed(side: Evaluation, reference: Evaluation, notes: list[str]) -> set[str]:
    """Return the common samples whose content, cut or caption differ, which cannot be paired."""
    if side.eval_set == reference.eval_set:
        return set()
    ours, others = side.samples, reference.samples
    if ours is None or others is None:
        notes.append(
            "the eval sets differ, and the tables that say in what are gone (sana gc): samples are paired by id alone"
        )
        return set()
    common = set(ours) & set(others)
    changed = {
        name
        for name in common
        if (ours[name].sample_key, ours[name].text_key) != (others[name].sample_key, others[name].text_key)
    }
    if encoded := sum(ours[name].digest != others[name].digest for name in common - changed):
        notes.append(
            f"the latents of {counted(encoded, 'sample')} have other bits: they were encoded with other settings or on "
            "another device"
        )
    return changed


def _setting_notes(side: Evaluation, reference: Evaluation) -> list[str]:
    notes = [
        f"{name} {reference.settings[name]} -> {value}: losses differ by that too"
        for name, value in side.settings.items()
        if value != reference.settings[name]
    ]
    if side.compute is not None and reference.compute is not None:
        names = ("device", "precision", "torch")
        before, now = ({name: getattr(one, name) for name in names} for one in (reference.compute, side.compute))
        changed = [f"{name} {before[name]} -> {now[name]}" for name in names if before[name] != now[name]]
        notes += [f"computed in another way, last digits differ: {', '.join(changed)}"] if changed else []
    if side.base != reference.base and None not in (side.base, reference.base):
        notes.append("the base models differ: the weights that training started from are not the same")
    return notes


def _conditions(
    side: Evaluation, reference: Evaluation, changed: set[str], notes: list[str]
) -> dict[str, LossDifference]:
    found = {}
    for label in sorted(set(side.conditions) | set(reference.conditions)):
        if label not in side.conditions or label not in reference.conditions:
            notes.append(f"condition {label} was measured of one of the two only")
            continue
        try:
            difference = pair(side.conditions[label], reference.conditions[label], excluded=changed).difference()
        except SanaError as error:  # it applies to other samples of each
            notes.append(f"condition {label}: {error}")
            continue
        if difference is not None:
            found[label] = difference
    return found
