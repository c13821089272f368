"""Worker: upload what was trained, file by file, to a hub repository, a bucket or a folder."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
import logging
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sana.config.delivery.publish import HUB
from sana.delivery.hub_upload import HubPlace
from sana.delivery.store_upload import StorePlace
from sana.delivery.upload import Place, Tally, Upload, explained, made, stored
from sana.errors import SanaError
from sana.progress import Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.launcher import result_path
from sana.runtime.results import PublishResult
from sana.runtime.specs import CheckpointName, Publication, PublishSpec
from sana.store import Store
from sana.training.checkpoints.checkpoint import read_checkpoint

_MIB = 2**20
_log = logging.getLogger(__name__)


def publish(job: Job[PublishSpec]) -> None:
    """Upload every publication in order, and write where they are.

    Raises:
        SanaError: the place refuses, or a file is damaged; StoreError where trying again may help. Both say what was
            uploaded before.
    """
    spec, store = job.spec, job.open_store()
    place: Place = (
        HubPlace(spec.to.removeprefix(HUB), private=spec.private) if spec.to.startswith(HUB) else StorePlace(spec.to)
    )
    files = sum(len(one.files) for one in spec.publications)
    num_bytes = sum(info.num_bytes for one in spec.publications for info in one.files.values())

    def report(tally: Tally, name: str) -> None:
        total = max(tally.total_bytes, tally.num_bytes) // _MIB
        job.report(Progress(tally.num_bytes // _MIB, total, "MiB", name, counts={"files": tally.num_files}))

    tally, places = Tally(files, num_bytes, report), {}
    job.report(Progress(0, num_bytes // _MIB, "MiB", phase=f"looking at {spec.to}"))
    try:
        place.prepare()
        for one in spec.publications:
            with TemporaryDirectory(dir=job.work_dir, prefix="publish-") as folder:
                scratch = Path(folder)
                uploads = _uploads(job, store, one, scratch)
                tally.total_files += len(uploads) - len(one.files)
                tally.total_bytes += sum(upload.num_bytes for upload in uploads[len(one.files) :])
                places[one.name] = place.publish(one.name, one.message, uploads, scratch, tally)
            _log.info("%s: %d files are at %s", one.name, len(uploads), places[one.name])
    except SanaError as error:
        raise explained(error, tally.told) from error
    result_path(job.path).write_bytes(PublishResult(places, tally.num_files, tally.num_bytes).to_json())


def _uploads(job: Job[PublishSpec], store: Store, one: Publication, scratch: Path) -> Sequence[Upload]:
    uploads = [stored(store, name, info) for name, info in one.files.items()]
    if one.checkpoint is not None:
        total = job.config.train.max_steps
        job.report(Progress(0, 0, "MiB", phase=f"exporting step {one.checkpoint.step} of {total}"))
        uploads += _export(job, store, one.checkpoint, scratch / "export")
    return uploads


def _export(job: Job[PublishSpec], store: Store, checkpoint: CheckpointName, folder: Path) -> list[Upload]:
    """Write the EMA weights of a checkpoint as training exports them, without what it shares with the base model."""
    from sana.training.checkpoints import checkpoint_io  # torch: most publications need none
    from sana.training.checkpoints.tensor_file import file_blocks
    from sana.training.trainables.registry import load_trainable

    trainable = load_trainable(job.spec.model, job.config.train)
    found = read_checkpoint(store, checkpoint.trajectory, checkpoint.step)
    folder.mkdir()
    tensors = trainable.export(checkpoint_io.load(store, found, "ema"), folder)
    with (folder / trainable.weights_file).open("wb") as file:
        file.writelines(file_blocks(tensors, metadata=trainable.weights_metadata))
    prefix = f"{trainable.component}/" if trainable.component else ""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [made(f"{prefix}{path.relative_to(folder).as_posix()}", path) for path in paths]


if __name__ == "__main__":
    run_worker(publish, PublishSpec)
