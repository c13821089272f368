"""Trainings in a store, made up of small records: what a page about them reads, without a model."""

import json
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sana.arrow import table_of, to_parquet
from sana.artifact import Artifact, Draft, FileInfo, Recipe
from sana.counts import Counts
from sana.data.schemas import REJECTS
from sana.data.tables import count_rejects
from sana.data.video.video import write_mp4
from sana.facts import (
    BucketFacts,
    BucketSummary,
    ComputeSettings,
    DownloadFacts,
    EncodeLatentsFacts,
    EvaluateFacts,
    SampleFacts,
    TrainFacts,
)
from sana.metrics import EVAL_SIGMA_LOSS
from sana.runs import records
from sana.runs.records import RunEnd
from sana.runtime.process_id import this_process
from sana.runtime.results import EvalReport
from sana.runtime.specs import CheckpointName
from sana.store import Store
from sana.training.checkpoints.checkpoint import Checkpoint, DataPosition, MetricsSegment
from sana.training.eval_sets import EvalSets
from sana.training.evaluation import EvalTable, eval_sigmas
from sana.training.validation import record as validation
from sana.workers.reports.evaluation import build_report, losses_table

COMPUTE = ComputeSettings("cuda NVIDIA <H100>", "2.9", True, 1.0, 4, 8, precision="bf16 autocast")
SIGMAS = eval_sigmas(4)


@dataclass
class MadeTraining:
    """A training whose parts are put into a store one by one; `names` of its data sets."""

    store: Store
    trajectory: str = "feedfeedfeedfeed"
    dataset: str = "demo"
    max_steps: int = 40
    data: dict[str, Artifact] = field(default_factory=dict)
    segments: list[MetricsSegment] = field(default_factory=list)

    def prepare(self) -> None:
        """Commit the data stages: 10 clips, 2 rejected, 6 train and 2 eval samples."""
        texts = {"captions": "c0"}
        self._commit("download", {}, {"videos": "v0", **texts}, 10, "no_caption", DownloadFacts({self.dataset: "r1"}))
        self._commit("probe", {"videos": "v0"}, {"clips": "p0"}, 9, None, None)
        summary = BucketSummary(6, 2, 8, 0.0, 0.0)
        facts = BucketFacts({"17x96x160": summary}, 3, {}, 100, 90, 10)
        self._commit("bucket", {"clips": "p0"}, {"windows": "w0"}, 9, "too_short", facts)
        self._commit("encode_captions", texts, {"train": "ct", "eval": "ce", "prompts": "cp"}, 8, None, None)
        made = EncodeLatentsFacts(800, {self.dataset: 6})
        self._commit("encode_latents", {"windows": "w0"}, {"train": "lt", "eval": "le"}, 8, None, made)

    def _commit(
        self, stage: str, inputs: dict, content: dict, num_in: int, rejected: str | None, facts: object
    ) -> None:
        draft = Draft(self.store, Recipe(stage, 1, {"of": self.dataset}, inputs))
        rows = [{"clip_id": "0", "dataset": self.dataset, "path": "0.mp4", "stage": stage, "reason": rejected,
                 "detail": "0"}] if rejected else []  # fmt: skip
        table = table_of(rows, REJECTS)
        draft.add("rejects.parquet", to_parquet(table))
        names = Counter({self.dataset: num_in})
        counts = count_rejects(names, num_in - len(rows), table)
        self.data[stage] = draft.commit(content=content, counts=counts, facts=facts)  # type: ignore[arg-type]

    def write(self, first: int, last: int, attempt: str, rows: Sequence[Mapping[str, float]]) -> Checkpoint:
        """Commit the rows of an attempt, and the checkpoint after them."""
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        key = f"train/{self.trajectory}/metrics/{first:08d}-{last:08d}-{attempt}.jsonl"
        self.store.put_if_absent(key, data)
        self.segments.append(MetricsSegment(key, first, last, len(data)))
        checkpoint = Checkpoint(
            trajectory=self.trajectory,
            step=last,
            attempt=attempt,
            files={"weights.safetensors": FileInfo("none", 1000, "")},
            segments=tuple(self.segments),
            cursor=DataPosition(last, 0, last),
            seed=0,
            snapshot={"encode_latents": {"train": "lt", "eval": "le"}, "encode_captions": {"train": "ct"}},
            created_at=1000.0 + last,
            compute=COMPUTE,
        )
        self.store.put_if_absent(checkpoint.key, checkpoint.to_json(sort_keys=True))
        return checkpoint

    def recipe(self, **settings: object) -> Recipe:
        """Return the recipe of the train stage."""
        config = {"learning_rate": 1e-3, "max_steps": self.max_steps, **settings}
        return Recipe("train", 1, config, {"latents": "lt", "captions": "ct", "transformer": "base"})

    def finish(self, *, step: int | None = None, weights: str = "trained", **settings: object) -> Artifact:
        """Commit the train artifact."""
        draft = Draft(self.store, self.recipe(**settings))
        at = self.segments[-1].last if step is None else step
        facts = TrainFacts(self.trajectory, at, f"train/{self.trajectory}/x", tuple(s.key for s in self.segments), "m")
        counts = Counts.all_kept(6, steps=at)
        return draft.commit(content={"weights": weights}, counts=counts, facts=facts)

    def evaluate(
        self, losses: Mapping[str, np.ndarray], *, step: int, weights: str = "trained"
    ) -> tuple[Artifact, EvalReport]:
        """Commit an evaluation of losses [samples, 4 noise levels] by set of weights."""
        ids = tuple(f"s{number}" for number in range(len(losses["initial"])))
        tables = {name: EvalTable(ids, SIGMAS, np.asarray(of, np.float64)) for name, of in losses.items()}
        report = build_report(tables, EvalSets((), {"": frozenset(ids)}), {}, CheckpointName(self.trajectory, step))
        inputs = {"latents": "le", "captions": "ce", "weights": weights, "initial_weights": "base"}
        draft = Draft(self.store, Recipe("evaluate", 1, {"num_sigmas": 4}, inputs))
        draft.add("losses.parquet", to_parquet(losses_table(tables)))
        draft.add(EvalReport.FILE, report.to_json())
        facts = EvaluateFacts(report.weights, report.paired, step)
        counts = Counts.all_kept(len(ids))
        return draft.commit(content={"losses": report.losses_digest}, counts=counts, facts=facts), report

    def sample(self, videos: Mapping[str, bytes], *, weights: str = "trained") -> Artifact:
        """Commit videos by nickname."""
        config = {"bucket": "5x64x96", "seed": 0, "weights": "ema"}
        draft = Draft(self.store, Recipe("sample", 2, config, {"prompts": "cp", "weights": weights}))
        for name, data in videos.items():
            draft.add(f"{name}.mp4", data)
        facts = SampleFacts({name: f"{name}.mp4" for name in videos}, "contact_sheet.png")
        return draft.commit(content={"videos": "v"}, counts=Counts.all_kept(len(videos)), facts=facts)

    def validate(self, step: int, videos: Mapping[str, bytes]) -> None:
        """Commit the videos of a step, by nickname, as training does."""
        folder = validation.folder_of(self.trajectory, step, "settings")
        files = {}
        for name, data in videos.items():
            key = f"{folder}/attempt/{name}.mp4"
            self.store.put_if_absent(key, data)
            files[f"{name}.mp4"] = FileInfo(key, len(data), "")
        made = tuple(
            validation.ValidationVideo(f"{name}.mp4", name, "5x64x96", 0, "ema", "", tiled=False) for name in videos
        )
        validation.end(
            self.store, validation.ValidationRecord(self.trajectory, step, "settings", 1.0, made, files=files)
        )

    def run(
        self,
        run_id: str,
        *,
        heard_at: float,
        rows: Sequence[Mapping[str, float]] = (),
        state: RunEnd | None = None,
        error: str = "",
        title: str = "demo",
    ) -> None:
        """Record a run that worked on it: one that ended in a state, or none, and is heard of at a time."""
        config = f"train: {{max_steps: {self.max_steps}}}\nsample: {{prompts: {{bunny: a rabbit}}}}\n"
        process = this_process()
        started = records.RunStarted(run_id, title, "key", config, "machine", process, heard_at - 60, "0.1")
        status = records.RunStatus(run_id, heard_at, {}, self.trajectory, tuple(rows))
        self.store.put_if_absent(records.start_key(run_id), started.to_json())
        self.store.put_if_absent(records.status_key(run_id, 1), status.to_json())
        if state is not None:
            ended = records.RunEnded(run_id, state, heard_at, error)
            self.store.put_if_absent(records.end_key(run_id), ended.to_json())


def rows_of(first: int, last: int, *, eval_every: int = 10) -> list[dict[str, float]]:
    """Rows as training writes them: a loss that falls from 2, an eval loss that falls from 1 by its noise level."""
    found: list[dict[str, float]] = []
    for step in range(first, last + 1):
        if step > 0:
            found.append({"step": step, "train/loss": 1 + 1 / step, "train/grad_norm": 0.5, "time/step_s": 2.0,
                          "train/learning_rate": 1e-3, "throughput/samples_per_s": 8.0})  # fmt: skip
        if step % eval_every == 0:
            loss = 1 / (1 + step / 10)
            by_sigma = {EVAL_SIGMA_LOSS.format("ema", sigma): loss * (1 + sigma - 0.5) for sigma in SIGMAS}
            found.append({"step": step, "eval/loss_ema": loss, "eval/loss_live": loss, "eval/stderr_ema": 0.01,
                          "time/eval_s": 3.0, **by_sigma})  # fmt: skip
    return found


def video_bytes(seed: int, *, frames: int = 5) -> bytes:
    """A small mp4 of coloured noise."""
    picture = np.random.default_rng(seed).integers(0, 255, (frames, 64, 96, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        write_mp4(Path(folder) / "v.mp4", picture, fps=8)
        return (Path(folder) / "v.mp4").read_bytes()


def losses_around(base: float, spread: float, *, samples: int = 12, seed: int = 0) -> np.ndarray:
    """Losses [samples, 4 noise levels] of a mean, each sample with a difference of its own."""
    rng = np.random.default_rng(seed)
    return base + rng.normal(0, spread, (samples, 1)) + np.linspace(-0.1, 0.1, 4)
