"""`python -m sana.workers.commands.evaluate_weights JOB`: the losses of one set of weights on the fixed grid.

As sana.workers.evaluate measures the three sets of a finished training, so that the numbers can be compared.
"""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from sana.arrow import to_parquet
from sana.data.schemas import LOSSES
from sana.data.tables import content_digest
from sana.errors import SanaError
from sana.model.device import out_of_memory_explained
from sana.runtime.command_specs import EvaluateWeightsSpec
from sana.runtime.job import Job, run_worker
from sana.runtime.results import EvaluatedWeights
from sana.store import Store
from sana.training.checkpoints.checkpoint_io import load_weights
from sana.training.trainables.trainable import Trainable
from sana.workers.evaluate import PLAIN, WeightsSet, evaluate_all
from sana.workers.reports.evaluation import condition_losses_table, losses_table


@out_of_memory_explained("evaluate.resources.offload.type=block_level")
def evaluate_weights(job: Job[EvaluateWeightsSpec]) -> None:
    """Evaluate one set of weights, and write its losses."""
    spec = job.spec

    def sets_of(store: Store, trainable: Trainable) -> list[WeightsSet]:
        return [WeightsSet(spec.weights, _reader(spec, store, trainable))]

    found, _, compute = evaluate_all(job, sets_of, checkpoint=spec.checkpoint)
    if found is None:
        return
    out, tables = Path(spec.out_dir), found.pop(PLAIN)
    losses = losses_table(tables)
    (out / "losses.parquet").write_bytes(to_parquet(losses))
    if found:
        (out / "condition_losses.parquet").write_bytes(to_parquet(condition_losses_table(found)))
    num_samples = len(tables[spec.weights].sample_ids)
    result = EvaluatedWeights(num_samples, content_digest(losses, LOSSES.names), compute)
    (out / EvaluatedWeights.FILE).write_bytes(result.to_json())


def _reader(spec: EvaluateWeightsSpec, store: Store, trainable: Trainable) -> Callable[[], Mapping[str, Tensor]] | None:
    """Return what reads the weights; None: they are the model's own."""
    if spec.folder is not None:
        return partial(_read_export, trainable, Path(spec.folder))
    if spec.checkpoint is not None and (spec.weights == "live" or spec.weights == "ema"):
        return partial(load_weights, store, spec.checkpoint.trajectory, spec.checkpoint.step, which=spec.weights)
    return None


def _read_export(trainable: Trainable, folder: Path) -> Mapping[str, Tensor]:
    """Read an export. Raises SanaError: its tensors are not those of the config's model and method."""
    tensors = trainable.read_export(folder)
    needed = {name: tuple(tensor.shape) for name, tensor in {**trainable.parameters, **trainable.fixed}.items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wrong := [name for name in sorted({*needed, *found}) if needed.get(name) != found.get(name)]:
        name = wrong[0]
        raise SanaError(
            f"{folder} is of another model or method than the config: {len(wrong)} tensors differ, first {name} "
            f"(found {found.get(name, 'none')}, needed {needed.get(name, 'none')}); name the config of its training"
        )
    return tensors


if __name__ == "__main__":
    run_worker(evaluate_weights, EvaluateWeightsSpec)
