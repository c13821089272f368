"""`python -m sana.workers.check_base JOB`: probe the weights that training starts from, on held-out clips."""

import sana.runtime.worker_process  # noqa: F401 - first of all

# isort: split
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow.compute as pc
import torch
from matplotlib.figure import Figure
from torch import Tensor

from sana.data.loading.loader import INDEX, Reader, load_samples
from sana.data.shards.shard import DTYPES as STORED_DTYPES
from sana.data.shards.shard_cache import ShardFiles
from sana.data.tables import read_table
from sana.model.device import out_of_memory_explained
from sana.model.text import TEMPLATES, TextEncoder
from sana.progress import Progress
from sana.runtime.job import Job, run_worker
from sana.runtime.results import BaseCheckReport
from sana.runtime.specs import CheckBaseSpec
from sana.training.base_check.linear_guess import statistics_of
from sana.training.base_check.probes import OWN, PERMUTED, ProbedSample, probe
from sana.training.base_check.verdict import judge
from sana.training.evaluation import eval_rows
from sana.training.initial_weights import start_trainable
from sana.training.parallel.parallel import Parallel


@out_of_memory_explained("train.base_check=off")
@torch.no_grad()
def check_base(job: Job[CheckBaseSpec]) -> None:
    """Ask the model in every way, and write the report and its plot."""
    spec, config, store = job.spec, job.config, job.open_store()
    job.report(Progress(0, 0, "clips", phase="loading the text encoder"))
    parallel = Parallel.open(config.train)
    samples = _samples(job, parallel.device)
    job.report(Progress(0, len(samples), "clips", phase="loading the model"))
    model = start_trainable(store, spec.model, spec.initial, config.train, resumes=False).model.eval()
    parallel.place(model)
    tables = probe(
        parallel,
        model,
        samples,
        config.train,
        on_sample=lambda done: job.report(Progress(done, len(samples), "clips")),
    )
    for name, table in tables.items():
        table.require_finite(f"base ({name})")
    found = judge(tables, statistics_of(sample.latents for sample in samples))
    out = Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    (out / BaseCheckReport.FILE).write_bytes(found.to_json())
    plot(found).savefig(out / "base_check.png", dpi=150)


def _samples(job: Job[CheckBaseSpec], device: torch.device) -> list[ProbedSample]:
    """Read held-out samples, each with its caption, that of another clip, and its own after other instructions."""
    spec, resources, store = job.spec, job.config.train.resources, job.open_store()
    samples = load_samples(store, spec.latents, spec.captions, "eval")
    reader = Reader(
        ShardFiles.configured(store, resources, work_dir=job.work_dir), samples, verify=resources.verify_checksums
    )
    rows = eval_rows(samples, spec.MAX_SAMPLES)
    read = [reader.read(row, caption=0) for row in rows]
    texts = _texts(job, [int(samples.first_caption[row]) for row in rows])
    instructed = _instructed(job, texts, device)
    others = permuted(texts)
    found = []
    for number, (row, sample) in enumerate(zip(rows, read, strict=True)):
        captions = {OWN: sample.caption}
        if others is not None:
            captions[PERMUTED] = read[others[number]].caption
        captions |= {name: of_texts[number] for name, of_texts in instructed.items()}
        found.append(ProbedSample(samples.sample_id(row), sample.latents, captions))
    return found


def permuted(texts: Sequence[str]) -> list[int] | None:
    """Return for each text the place of the next one that differs from it; None if all are equal."""
    num = len(texts)
    turns = [[(at + turn) % num for turn in range(1, num)] for at in range(num)]
    others = [next((other for other in of if texts[other] != texts[at]), None) for at, of in enumerate(turns)]
    found = [other for other in others if other is not None]
    return found if len(found) == num else None


def _texts(job: Job[CheckBaseSpec], index_rows: list[int]) -> list[str]:
    """Return texts by their rows in the reader's index of the eval split's captions, which is sorted as here."""
    table = read_table(job.open_store(), job.spec.captions, INDEX)
    of_split = table.filter(pc.equal(table["role"], "eval"))
    ordered = of_split.sort_by([("name", "ascending"), ("position", "ascending")])
    return [str(text) for text in ordered["text"].take(index_rows).to_pylist()]


def _instructed(job: Job[CheckBaseSpec], texts: list[str], device: torch.device) -> Mapping[str, list[Tensor]]:
    """Return the texts' embeddings after each instruction that is not the configured one."""
    config, model = job.config.encode_captions, job.spec.model
    encoder = TextEncoder.load(
        model.path,
        revision=model.revision,
        dtype=STORED_DTYPES[config.dtype],
        device=device,
        offload=config.resources.offload,
        work_dir=job.work_dir,
    )
    wrong = [template for template in TEMPLATES if template != config.template]
    return {
        f"instruction {template}": [
            encoder.encode([text], template=template, max_tokens=config.max_tokens)[0].tokens for text in texts
        ]
        for template in wrong
    }


def plot(report: BaseCheckReport) -> Figure:
    """Draw loss over noise level: of the model, asked in each way, and of the best linear guesses."""
    figure = Figure(figsize=(8, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for name, losses in report.losses.items():
        style = {"color": "#3b7dd8", "linewidth": 2.4, "marker": "o"} if name == OWN else {"linewidth": 1.2}
        axes.plot(report.sigmas, losses, label=name, **style)
    axes.plot(report.sigmas, report.clips_guess, "--", color="#444444", label="best linear guess, these clips")
    axes.plot(report.sigmas, report.unit_guess, ":", color="#444444", label="best linear guess, unit statistics")
    axes.set_title(
        f"Base check on {report.num_samples} held-out clips: "
        + ", ".join(f"{verdict.probe} {verdict.verdict}" for verdict in report.verdicts),
        fontsize=10,
    )
    axes.set_xlabel("sigma")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    run_worker(check_base, CheckBaseSpec)
