"""The document of `sana check --json`."""

from collections.abc import Sequence

import pyarrow.compute as pc

from flows.cli.begin.check_text import names_of
from flows.cli.output.documents import CheckDocument, CheckedBucket, CheckedDataset, RejectReason
from sana.arrow import value_counts
from sana.config.data import DatasetConfig
from sana.counts import ranked
from sana.data.bucketing.treatments import treatment_lines
from sana.pipeline.check import Checked
from sana.pipeline.remedies import facts_of, remedy


def check_document(
    place: str,
    checked: Checked,
    *,
    stops: Sequence[str],
    warnings: Sequence[str],
    next_: str,
    made: str | None = None,
    written: str | None = None,
) -> CheckDocument:
    """Return what a run would make of the data."""
    facts = checked.assigned.facts if checked.assigned is not None else None
    datasets = checked.config.download.datasets if checked.listed is not None else ()
    return CheckDocument(
        place=place,
        stops=tuple(stops),
        datasets=tuple(_dataset(checked, dataset) for dataset in datasets),
        buckets={
            name: CheckedBucket(of.train, of.eval, of.clips, of.crop_loss, of.upscaled)
            for name, of in (facts.buckets.items() if facts else ())
        },
        notes=(*checked.notes, *(treatment_lines(facts) if facts else ())),
        warnings=tuple(warnings),
        made=made,
        written=written,
        next=next_,
    )


def _dataset(checked: Checked, dataset: DatasetConfig) -> CheckedDataset:
    listed = checked.listed
    assert listed is not None  # its caller asked
    rejects = checked.rejects.filter(pc.equal(checked.rejects["dataset"], dataset.id))
    found = listed.counts["download"].datasets[dataset.id].num_in
    reasons = []
    for reason, num in ranked(value_counts(rejects["reason"])):
        rows = rejects.filter(pc.equal(rejects["reason"], reason))
        help_ = remedy(checked.config, dataset, rows, facts_of(rows, listed.probed)) or ""
        reasons.append(RejectReason(str(reason), num, tuple(names_of(rows)), help_))
    return CheckedDataset(
        dataset.id, dataset.source, listed.layouts[dataset.id], found, found - rejects.num_rows, tuple(reasons)
    )
