"""Which samples are evaluated: those of the eval loss, and those of data sets that are measured by themselves.

Generic clips that a model should still know, as a data set with `role: eval`, show what it forgets; a few of the clips
that it is trained on show what it learns by heart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sana.config.evaluate import EvaluateConfig
from sana.data.eval_table import EvalTable
from sana.data.loading.loader import Samples
from sana.training.evaluation import eval_rows


@dataclass(frozen=True)
class EvalSets:
    """The rows of an eval split that are evaluated; `ids`: of the eval loss's under "", of others by data set."""

    rows: tuple[int, ...]  # all of them, in order
    ids: Mapping[str, frozenset[str]]

    def of(self, table: EvalTable, name: str = "") -> EvalTable:
        """Return the losses of one set."""
        return table.of(self.ids[name])

    def own_rows(self, samples: Samples) -> list[int]:
        """Return the rows of the eval loss, without those of data sets that are measured by themselves."""
        return [row for row in self.rows if samples.sample_id(row) in self.ids[""]]

    @property
    def separate(self) -> list[str]:
        """The data sets that are measured by themselves."""
        return sorted(name for name in self.ids if name)


def eval_sets(samples: Samples, config: EvaluateConfig) -> EvalSets:
    """Return what is evaluated of an eval split: of each set the first `max_samples` by hash of sample_id."""
    members: dict[str, list[int]] = {}
    for row in range(len(samples)):
        dataset = samples.dataset(row)
        members.setdefault(dataset if dataset in config.separate_datasets else "", []).append(row)
    chosen = {name: eval_rows(samples, config.max_samples, among=rows) for name, rows in members.items()}
    ids = {name: frozenset(samples.sample_id(row) for row in rows) for name, rows in chosen.items()}
    return EvalSets(tuple(sorted(row for rows in chosen.values() for row in rows)), {"": frozenset(), **ids})


def train_probe_rows(samples: Samples, num_samples: int) -> list[int]:
    """Return evenly spaced rows of a train split, in order: the same for the same samples, ten million of them too."""
    num = min(num_samples, len(samples))
    return [row * len(samples) // num for row in range(num)]
