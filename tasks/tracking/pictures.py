"""Validation in MLflow while training: contact sheets with a slider over steps, and the videos of each step.

An index as all of MLflow is: the videos are in the store, and what was not shown while the training ran is shown when
it ends. A thread of its own shows them: nobody waits.
"""

import io
import logging
import re
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from sana.artifact import Artifact
from sana.context import Context
from sana.errors import SanaError
from sana.facts import TrainFacts
from sana.metrics import VALIDATION_FAILED, VALIDATION_S
from sana.pipeline.validation import Validated
from sana.progress import PreviewReady
from sana.store import Store
from sana.training.validation.record import ValidationRecord, read, records
from tasks.tracking.tracker import Tracker
from tasks.tracking.values import SMALL_BYTES, pipeline_key

FOLDER = "validation"  # of the run's artifacts, and the first part of a sheet's name
MAX_WAITING = 100  # that MLflow has not taken yet: more validations are shown at the end, more previews not at all
PREVIEW_STEPS = 10_000  # of MLflow, for one of training: a preview of its sampler step 20 is at 10,000 x step + 20
COVER_STEP = 0  # where MLflow's slider stands when its page is opened
_OWN = "own"  # tag of a key whose step 0 has a picture of its own
NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_\-. ]")  # of pictures in MLflow

_log = logging.getLogger(__name__)


class Pictures:
    """Shows the validations of a training in its run."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._thread = ThreadPoolExecutor(1, "pictures")
        self._waiting: list[Future[bool]] = []

    def show(self, run_id: str, key: str) -> None:
        """Show the validation with this record; returns at once."""
        self._waiting = [one for one in self._waiting if not one.done()]
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(self._thread.submit(self._show, run_id, key))

    def show_preview(self, run_id: str, ready: PreviewReady) -> None:
        """Show a picture of a video that is being made, with a slider over steps; returns at once.

        It is read now: the next video of this name takes its file.
        """
        self._waiting = [one for one in self._waiting if not one.done()]
        try:
            picture = Path(ready.picture).read_bytes()
        except OSError as error:
            _log.warning("a preview is not shown in MLflow: %s", error)
            return
        if len(self._waiting) < MAX_WAITING:
            key = f"preview/{NOT_IN_KEYS.sub('_', ready.prompt)}"
            step = ready.step * PREVIEW_STEPS + ready.sampler_step  # one slider, however many validations
            named = f"step {ready.step}, sampler step {ready.sampler_step}"
            self._waiting.append(self._thread.submit(self._log_picture, run_id, picture, key, step, named))

    def _log_picture(self, run_id: str, picture: bytes, key: str, step: int, named: str) -> bool:
        def log(client: Any) -> bool:
            with Image.open(io.BytesIO(picture)) as image:
                log_image(client, run_id, image, key=key, step=step, named=named)
            return True

        return bool(self._tracker.try_to(log))

    def _show(self, run_id: str, key: str) -> bool:
        try:
            record = read(self._tracker.store, key)
        except SanaError as error:
            _log.warning("a validation is not shown in MLflow: %s", error)
            return False
        return bool(self._tracker.try_to(lambda client: show(client, run_id, self._tracker.store, record)))

    def finish(self, run_id: str, artifact: Artifact) -> None:
        """Show what was not shown of a training that is done, and log the metrics that its own rows lack."""
        trained = TrainFacts.find(artifact)
        if trained is None:
            return
        self.wait(timeout_s=60.0)
        store = self._tracker.store
        found = list(records(store, trained.trajectory, at_most=trained.step))
        for record in found:
            self._tracker.try_to(lambda client, record=record: show(client, run_id, store, record))  # type: ignore[misc]
        if found:
            self._tracker.try_to(lambda client: log_missing(client, run_id, found))

    def wait(self, *, timeout_s: float) -> None:
        """Wait for what is on its way, so long at most."""
        wait(self._waiting, timeout_s)


def show(client: Any, run_id: str, store: Store, record: ValidationRecord) -> bool:
    """Log a validation's contact sheets by step and its videos as files, once; `client` is an MlflowClient."""
    tag = f"sana.validation.{record.step:08d}.{record.settings}"
    if record.failed or tag in client.get_run(run_id).data.tags:
        return True
    for name, file in record.sheets.items():
        with Image.open(io.BytesIO(store.read(record.files[file].key))) as sheet:
            log_image(client, run_id, sheet, key=f"{FOLDER}/{name}", step=record.step, named=f"step {record.step}")
    with tempfile.TemporaryDirectory() as folder:
        for video in record.videos:
            info = record.files[video.file]
            if info.num_bytes < SMALL_BYTES:
                store.fetch(info.key, Path(folder) / video.file)
        client.log_artifacts(run_id, folder, f"{FOLDER}/step_{record.step:08d}")
    client.set_tag(run_id, tag, "shown")
    return True


def log_image(client: Any, run_id: str, image: Image.Image, *, key: str, step: int, named: str) -> None:
    """Log a picture by step; the newest stands at step 0 too, below its name, where nothing of step 0 itself does.

    MLflow's page opens at step 0, and shows an empty field there where there is no picture of it.
    """
    tag = f"sana.cover.{key}"[:250]
    covered = client.get_run(run_id).data.tags.get(tag, "-1")
    client.log_image(run_id, image, key=key, step=step, synchronous=True)
    if step == COVER_STEP:
        client.set_tag(run_id, tag, _OWN)
    elif covered != _OWN and int(covered) < step:  # an older one may be shown late
        client.log_image(run_id, _below(f"newest: {named}", image), key=key, step=COVER_STEP, synchronous=True)
        client.set_tag(run_id, tag, str(step))


def _below(text: str, image: Image.Image) -> Image.Image:
    """Return the picture below a line of text."""
    height = 24
    page = Image.new("RGB", (max(image.width, 8 * len(text)), image.height + height), "white")
    page.paste(image.convert("RGB"), (0, height))
    ImageDraw.Draw(page).text((6, 6), text, fill="black", font_size=13)
    return page


def log_missing(client: Any, run_id: str, found: list[ValidationRecord]) -> None:
    """Log the metrics of validations whose rows no checkpoint has: the last one's come after the last checkpoint."""
    known = {point.step for point in client.get_metric_history(run_id, VALIDATION_FAILED)}
    for record in found:
        if record.step not in known:
            values: Mapping[str, float] = {VALIDATION_FAILED: float(bool(record.failed)), VALIDATION_S: record.seconds}
            for name, value in values.items():
                client.log_metric(run_id, name, value, step=record.step)


@dataclass(frozen=True)
class Shown:
    """In which run of which tracker a validation is shown; None: in none."""

    tracker: Tracker
    run_id: str | None


def show_validation_of(context: Context, done: Validated) -> Shown:
    """Show a validation that was made beside the training, in the training's run; trouble is a warning."""
    tracker = Tracker(context.config, context.store, pipeline_key(context.config), {})
    run_id = tracker.stage(done.recipe, done.inputs).run_id()
    if run_id:
        tracker.try_to(lambda client: show(client, run_id, context.store, done.record))
    return Shown(tracker, run_id)
