"""Roots as training leaves them, made in milliseconds: artifacts, metrics and videos whose bytes are made up."""

import json
import time
from collections.abc import Mapping, Sequence

from sana.artifact import Artifact, Draft, Recipe
from sana.counts import Counts
from sana.facts import EvaluateFacts, PairedDifference, SampleFacts, TrainFacts, WeightsLoss
from sana.metrics import Row
from sana.runs.records import (
    RunEnd,
    RunEnded,
    RunStarted,
    RunStatus,
    StageStatus,
    end_key,
    start_key,
    status_folder,
    status_key,
)
from sana.runtime.process_id import ProcessId, this_host, this_process
from sana.store import Store
from sana.training.checkpoints import checkpoint

COUNTS = Counts(4, 4, 0, {}, {}, None, {})
CONFIG = "train:\n  method:\n    name: lora\ndownload:\n  datasets:\n  - id: cats\n"
VIDEO = bytes(range(256)) * 40


def metric_lines(first: int, last: int) -> bytes:
    """Metrics of steps first..last: a loss that falls, a learning rate, an eval loss at each hundredth."""
    found = []
    for step in range(first, last + 1):
        row = {"step": step, "train/loss": 1 / step, "train/learning_rate": 1e-3, "train/grad_norm": 0.5}
        if step % 100 == 0:
            row |= {"eval/loss_ema": 0.7 + 1 / step, "eval/stderr_ema": 0.01}
        found.append(json.dumps(row) + "\n")
    return "".join(found).encode()


def save_steps(store: Store, trajectory: str, last: int, *, every: int = 50) -> list[str]:
    """Commit a checkpoint and its metrics at each `every` steps up to `last`; returns the keys of the metrics."""
    segments: list[checkpoint.MetricsSegment] = []
    for end in range(every, last + 1, every):
        first = end - every + 1
        segment = checkpoint.save_segment(
            store, trajectory, first=first, last=end, attempt="a1", data=metric_lines(first, end)
        )
        segments.append(segment)
        saved = checkpoint.Checkpoint(
            trajectory, end, "a1", {}, tuple(segments), checkpoint.DataPosition(end, 0, end), 0, {}, 1.0
        )
        checkpoint.commit(store, saved)
    return [segment.key for segment in segments]


def commit_training(
    store: Store,
    trajectory: str,
    *,
    steps: int = 100,
    config: Mapping[str, object] | None = None,
    loss: float = 0.7,
    prompts: Mapping[str, str] | None = None,
) -> Artifact:
    """Commit a train artifact with its evaluate and sample artifacts; `prompts`: names of videos by nickname."""
    weights = f"{trajectory}-{steps}"
    draft = Draft(store, Recipe("train", 1, {"max_steps": steps, **(config or {})}, {"latents": trajectory}))
    draft.add("sigma_histogram.png", b"png")
    keys = save_steps(store, trajectory, steps)
    facts = TrainFacts(trajectory, steps, checkpoint.index_key(trajectory, steps), tuple(keys), "model")
    train = draft.commit(content={"weights": weights}, counts=COUNTS, facts=facts)
    draft = Draft(store, Recipe("evaluate", 1, {}, {"weights": weights}))
    losses = {"initial": WeightsLoss(1.5, 0.02, ()), "ema": WeightsLoss(loss, 0.01, ())}
    paired = {"ema": PairedDifference(loss - 1.5, 0.01, 4, (1.5 - loss) / 1.5)}
    draft.commit(content={"losses": weights}, counts=COUNTS, facts=EvaluateFacts(losses, paired, steps))
    draft = Draft(store, Recipe("sample", 1, {"weights": "ema"}, {"weights": weights}))
    videos = dict(prompts if prompts is not None else {"bunny": "bunny.mp4"})
    for name in videos.values():
        draft.add(name, VIDEO)
    draft.commit(content={"videos": weights}, counts=COUNTS, facts=SampleFacts(videos, "sheet.png"))
    return train


def record_run(
    store: Store,
    run_id: str,
    *,
    title: str = "demo",
    trajectory: str = "",
    fingerprint: str = "",
    rows: Sequence[Row] = (),
    heard_at: float | None = None,
    pid: int | None = None,
    end: RunEnd | None = None,
    error: str = "",
    links: Mapping[str, str] | None = None,
    config: str = CONFIG,
) -> None:
    """Write the records of a run that has come to training, on this machine."""
    now = time.time() if heard_at is None else heard_at
    process = this_process() if pid is None else ProcessId(this_host(), pid)
    started = RunStarted(run_id, title, "key", config, "here", process, now - 60, "0.1.0")
    store.put_if_absent(start_key(run_id), started.to_json())
    stages = {
        "download": StageStatus("completed", now - 60, now - 50, num_in=16, num_out=15, num_rejected=1),
        "train": StageStatus(
            "running", now - 50, fingerprint=fingerprint, done=30, total=100, unit="steps", left_s=70.0
        ),
    }
    status = RunStatus(run_id, now, stages, trajectory, tuple(rows), (), links or {})
    number = len(store.list(status_folder(run_id)))
    store.put_if_absent(status_key(run_id, number), status.to_json())
    if end is not None:
        store.put_if_absent(end_key(run_id), RunEnded(run_id, end, now, error).to_json())
