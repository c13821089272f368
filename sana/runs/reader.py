"""The library's door to what was trained in a root: `sana.open_run(root)`. It only reads, and asks no server."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from sana.artifact import Artifact
from sana.comparison.lineage import Lineage
from sana.config.places import at_home
from sana.config.yaml_reading import parse_yaml
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.facts import EvaluateFacts, SampleFacts, TrainFacts
from sana.maintenance.object_graph import MODEL
from sana.runs.listing import Run, runs_of
from sana.runs.metric_table import metrics_of, metrics_so_far
from sana.runs.open_training import Opened, find_opened
from sana.store import Store, open_store
from sana.training.checkpoints.checkpoint import checkpoint_steps
from sana.training.validation import record as validations

_LOSSES = "losses.parquet"
_MODEL_INDEX = "model_index.json"  # of a folder in diffusers layout
_MOST_RUNS = 1000  # whose records are read


@dataclass(frozen=True)
class Sample:
    """One sampled video. `step`: optimizer steps of its weights; `made_by`: the stage sample, or validation."""

    step: int
    prompt: str  # its nickname in sample.prompts
    bucket: str  # frames x height x width
    seed: int
    weights: str  # ema or live
    made_by: str
    uri: str  # a path, or s3://bucket/prefix/key
    _key: str = field(repr=False)
    _store: Store = field(repr=False, compare=False)

    def read(self) -> bytes:
        """Return the mp4. Raises FileNotFoundError: it was removed; StoreError: storage does not answer."""
        return self._store.read(self._key)


class RunReader:
    """One training of a root, finished or not. Each call reads storage again, so one that is running can be followed.

    Which training it is, and whether it was finished, is as of `open_run`.
    """

    def __init__(self, store: Store, opened: Opened) -> None:
        self._store = store
        self._opened = opened

    def __repr__(self) -> str:
        return f"<training {self.name} in {self.root}, {'finished' if self.is_finished else 'not finished'}>"

    @property
    def root(self) -> str:
        """The absolute path of the root, or s3://bucket/prefix."""
        return self._store.root

    @property
    def name(self) -> str:
        """The fingerprint of a finished training; else its trajectory or, before the first step, the id of its run."""
        return self._opened.name

    @property
    def trajectory(self) -> str:
        """The trajectory that has its checkpoints; "" before the first step."""
        return self._opened.trajectory

    @property
    def is_finished(self) -> bool:
        """Whether training is done."""
        return self._opened.trained is not None

    def runs(self) -> Sequence[Run]:
        """Return the attempts at it that are recorded in the root, newest first. Raises SanaError: one is damaged."""
        found = runs_of(self._store, limit=_MOST_RUNS)
        if not self.trajectory:
            return [run for run in found if run.run_id == self.name]
        return [run for run in found if run.trajectory == self.trajectory]

    def config(self) -> Mapping[str, Any]:
        """Return the config of its newest run, passwords left out, or only `train` where no run is recorded.

        Of that, only settings that are hashed and have not their neutral value; nothing where it is not finished.
        """
        for run in self.runs():
            values = parse_yaml(run.started.config, where=f"the config of run {run.run_id}")
            if isinstance(values, dict):
                return values
        trained = self._opened.trained
        return {"train": dict(trained.config)} if trained is not None else {}

    def checkpoints(self) -> list[int]:
        """Return the steps of the checkpoints that are kept, in order."""
        return checkpoint_steps(self._store, self.trajectory) if self.trajectory else []

    def metrics(self) -> pa.Table:
        """Return all that was measured: `step` (int64, ascending) and a float64 column for each metric.

        A metric that was not measured at a step is null there; docs/training-metrics.md has names and units. Of an
        unfinished training: what its newest checkpoint has, then what its runs have told since, thinned.

        Raises:
            SanaError: a record is damaged.
            StoreError: storage does not answer.
        """
        trained = self._opened.trained
        if trained is not None:
            return metrics_of(self._store, trained)
        return metrics_so_far(self._store, self.trajectory, self.runs())

    def samples(self) -> list[Sample]:
        """Return its videos by step: those of validations while it trained, then those of the stage sample.

        Raises:
            SanaError: a record is damaged.
            StoreError: storage does not answer.
        """
        if not self.trajectory:
            return []
        found = []
        for made in validations.records(self._store, self.trajectory):
            for video in made.videos:
                key = made.files[video.file].key
                found.append(self._sample(made.step, video.prompt, video.bucket, video.seed, video.weights, key))
        sampled = self._made_of_weights(SampleFacts.STAGE)
        if sampled is not None:
            step = TrainFacts.of(self._trained()).step
            settings = {name: sampled.config.get(name) for name in ("bucket", "seed", "weights")}
            bucket, weights = str(settings["bucket"]), str(settings["weights"])
            seed = settings["seed"] if isinstance(settings["seed"], int) else 0
            for prompt, file in SampleFacts.of(sampled).videos.items():
                key = sampled.files[file].key
                found.append(self._sample(step, prompt, bucket, seed, weights, key, made_by=SampleFacts.STAGE))
        return sorted(found, key=lambda one: (one.step, one.made_by != "validation"))

    def eval_table(self) -> pa.Table:
        """Return the loss of each eval sample at each noise level, by the initial, live and EMA weights.

        Columns: `weights`, `sample_id`, `sigma_index`, `sigma` and `loss`, mean squared error of the velocity. The eval
        loss is the mean over levels, then over samples.

        Raises:
            SanaError: it was not evaluated yet, or the table is damaged.
            StoreError: storage does not answer.
        """
        return read_table(self._store, self._evaluated(), _LOSSES)

    def eval_loss(self) -> EvaluateFacts:
        """Return mean, standard error, losses by noise level and paired differences. Raises as `eval_table` does."""
        return EvaluateFacts.of(self._evaluated())

    def model(self, *, device: str = "cpu", dtype: str | None = None) -> Any:
        """Load what was trained as diffusers' SanaVideoPipeline, with tokenizer, text encoder and VAE.

        Its weights are those that were exported: EMA unless `train.export` says otherwise. `dtype`: float32, bfloat16
        or float16; None: as each part is stored. From a bucket it is fetched into a temporary folder first.

        Raises:
            SanaError: training is not finished, what was trained is an adapter without a merged model, or it does not
                load.
            StoreError: storage does not answer.
        """
        from sana.model.sampling.whole_pipeline import load_whole_pipeline

        trained = self._trained()
        facts = TrainFacts.of(trained)
        inside = self._whole_model(trained)
        place = self._store.local_path(f"{facts.model}/{inside}{_MODEL_INDEX}")
        if place is not None and place.is_file():
            return load_whole_pipeline(place.parent, device=device, dtype=dtype)
        begin = f"{MODEL}{inside}"
        with TemporaryDirectory(prefix="sana-model-") as scratch:
            for name, info in trained.files.items():
                if name.startswith(begin):
                    path = Path(scratch) / name.removeprefix(begin)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    self._store.fetch(info.key, path)
            return load_whole_pipeline(Path(scratch), device=device, dtype=dtype)

    def _whole_model(self, trained: Artifact) -> str:
        """Return where in the exported folder a whole model is: "" or merged/. Raises SanaError: nowhere."""
        indexes = [name for name in trained.files if name.startswith(MODEL) and name.endswith(f"/{_MODEL_INDEX}")]
        if not indexes:
            raise SanaError(
                f"{self._store.uri(TrainFacts.of(trained).model)} is an adapter without its base model: load it by "
                "pipe.load_lora_weights, or train with train.resources.export_merged=true"
            )
        return min(indexes, key=len).removeprefix(MODEL).removesuffix(_MODEL_INDEX)

    def _sample(
        self, step: int, prompt: str, bucket: str, seed: int, weights: str, key: str, made_by: str = "validation"
    ) -> Sample:
        return Sample(step, prompt, bucket, seed, weights, made_by, self._store.uri(key), key, self._store)

    def _trained(self) -> Artifact:
        if self._opened.trained is None:
            raise SanaError(f"training {self.name} in {self.root} is not finished: sana run CONFIG goes on with it")
        return self._opened.trained

    def _evaluated(self) -> Artifact:
        self._trained()
        found = self._made_of_weights(EvaluateFacts.STAGE)
        if found is None:
            raise SanaError(f"training {self.name} in {self.root} is not evaluated yet: sana run CONFIG does it")
        return found

    def _made_of_weights(self, stage: str) -> Artifact | None:
        """Return the newest artifact of a stage that worked on the trained weights."""
        trained = self._opened.trained
        digest = trained.content.get("weights") if trained is not None else None
        return Lineage(self._store).with_input(stage, "weights", digest)


def open_run(root: str | Path, name: str | None = None) -> RunReader:
    """Open a training of a root, a folder or s3://bucket/prefix, for reading; nothing is written there.

    `name`: its fingerprint or trajectory, the beginning of one, or the id of a run that worked on it; None: the newest.

    Raises:
        SanaError: there is no such root or training, or several begin so; names those that there are.
        StoreError: storage does not answer.
    """
    if str(root) and "://" not in str(root) and not at_home(root).is_dir():
        raise SanaError(f"there is no folder {root}; a root is where a config's `root` says, .sana/store by default")
    try:
        store = open_store(str(root))
    except ValueError as error:
        raise SanaError(str(error)) from error
    return RunReader(store, find_opened(store, name))
