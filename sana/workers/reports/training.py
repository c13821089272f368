"""What a training run says of its samples: loss by clip, and the noise levels that were drawn.

Files of the train artifact: `clip_losses.parquet` (CLIP_LOSSES), `sigma_histogram.parquet` (SIGMA_HISTOGRAM) and
`sigma_histogram.png`.
"""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from matplotlib.figure import Figure

from sana.arrow import to_parquet
from sana.artifact import Artifact, FileInfo
from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.data.loading.loader import INDEX
from sana.data.schemas import CLIP_LOSSES, SIGMA_HISTOGRAM
from sana.data.tables import read_table
from sana.store import Store
from sana.training.ledger.sample_ledger import SIGMA_BINS, SampleLedger
from sana.training.objectives.noise_levels import bucket_shift, expected_fractions


def store_report(
    store: Store,
    folder: str,
    ledger: SampleLedger,
    *,
    config: TrainConfig,
    latents: Artifact,
    buckets: tuple[str, ...],
    flow_shift: float,
) -> dict[str, FileInfo]:
    """Store the files below the key `folder`; returns them by name. `buckets`, in the ledger's order."""
    levels = sigma_histogram(ledger, config=config, buckets=buckets, flow_shift=flow_shift)
    picture = io.BytesIO()
    plot_sigmas(levels, config=config).savefig(picture, format="png", dpi=150, metadata={"Software": None})
    contents = {
        "clip_losses.parquet": to_parquet(clip_losses(ledger, read_table(store, latents, INDEX))),
        "sigma_histogram.parquet": to_parquet(levels),
        "sigma_histogram.png": picture.getvalue(),
    }
    files = {}
    for name, data in contents.items():
        store.put_if_absent(f"{folder}/{name}", data)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        files[name] = FileInfo(f"{folder}/{name}", len(data), digest)
    return files


def clip_losses(ledger: SampleLedger, index: pa.Table) -> pa.Table:
    """Return CLIP_LOSSES: a row of each sample that was drawn, by sample_id; `index` is that of the latents."""
    rows = index.select(["sample_id", "clip_id", "split"]).filter(pc.equal(index["split"], "train"))
    rows = rows.sort_by("sample_id")  # as Samples has them
    drawn = np.flatnonzero(ledger.draws)
    mean, stderr = ledger.normalised(drawn)
    picked = rows.take(pa.array(drawn))
    columns = [
        picked["sample_id"],
        picked["clip_id"],
        pa.array(ledger.draws[drawn], pa.int32()),
        pa.array(mean, pa.float32()),
        pa.array(stderr, pa.float32(), mask=np.isnan(stderr)),
    ]
    return pa.table(columns, schema=CLIP_LOSSES)


def sigma_histogram(
    ledger: SampleLedger, *, config: TrainConfig, buckets: tuple[str, ...], flow_shift: float
) -> pa.Table:
    """Return SIGMA_HISTOGRAM: what was drawn in each bin, beside what the config asks for with these buckets."""
    expected = np.zeros(SIGMA_BINS)
    for name, counts in zip(buckets, ledger.sigma_counts, strict=True):
        shift = bucket_shift(config.shift_by_tokens, flow_shift, Bucket.parse(name).num_tokens)
        fractions = expected_fractions(config.timestep_sampling, shift=shift, num_bins=SIGMA_BINS)
        expected += counts.sum() * fractions.numpy()
    edges = np.linspace(0, 1, SIGMA_BINS + 1)
    weight = ledger.level_weight
    loss = np.divide(ledger.level_loss, weight, out=np.full(SIGMA_BINS, np.nan), where=weight > 0)
    columns = [
        pa.array(edges[:-1]),
        pa.array(edges[1:]),
        pa.array(ledger.sigma_counts.sum(0)),
        pa.array(expected),
        pa.array(loss, mask=np.isnan(loss)),
    ]
    return pa.table(columns, schema=SIGMA_HISTOGRAM)


def plot_sigmas(levels: pa.Table, *, config: TrainConfig) -> Figure:
    """Draw what was drawn as columns, and what was asked for as steps."""
    low, high, drawn, expected = (np.array(levels[name]) for name in ("low", "high", "draws", "expected_draws"))
    total = max(int(drawn.sum()), 1)
    width = high - low
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(low, drawn / total / width, width=width, align="edge", color="#9dbde8", label=f"drawn: {total} levels")
    label = f"asked for: {config.timestep_sampling.name}"
    label += f", shift by tokens {config.shift_by_tokens.name}" if config.shift_by_tokens else ""
    axes.stairs(expected / total / width, [*low, high[-1]], color="#d9822b", linewidth=1.8, label=label)
    axes.set_title("Noise levels that training drew")
    axes.set_xlabel("noise level sigma (0: clean, 1: pure noise)")
    axes.set_ylabel("density")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure
