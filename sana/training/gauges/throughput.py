"""Rates of a log window: samples, tokens and floating point operations a second, and the share of the device's peak."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sana import metrics as m
from sana.bucket import Bucket
from sana.costs.transformer import TransformerSizes
from sana.data.loading.epoch import Cursor
from sana.data.loading.loader import Samples


class CountedStep(NamedTuple):
    """What the rate of a step is computed of."""

    step: int  # steps done, this one included
    caption_tokens: int  # of each sample of this rank, padding included; the longest of its micro batches


class Throughput:
    """Counts the work of steps by formula, on the host; `sizes` are those of the transformer that trains.

    FLOPs are `passes` x those of the forward pass, 3 where all learns: what is computed again in the backward pass is
    no progress. `peak_flops` is that of one device, and `num_ranks` share the work.
    """

    def __init__(
        self,
        transformer_config: Mapping[str, Any],
        cursor: Cursor,
        samples: Samples,
        *,
        batch_size: int,
        num_ranks: int,
        peak_flops: float | None,
        passes: float = 3.0,
    ) -> None:
        self._sizes = TransformerSizes.of(transformer_config)
        self._cursor, self._samples = cursor, samples
        self._batch_size, self._num_ranks, self._peak_flops = batch_size, num_ranks, peak_flops
        self._passes = passes
        self._flops = functools.lru_cache(maxsize=4096)(self._count_flops)

    def rates(self, steps: Sequence[CountedStep], seconds: float) -> dict[str, float]:
        """Return the metrics of a window of steps that took so many seconds together."""
        buckets = [self._bucket(step.step) for step in steps]
        tokens = sum(self._sizes.num_tokens(bucket) for bucket in buckets) * self._batch_size
        flops = sum(self._flops(bucket, step.caption_tokens) for bucket, step in zip(buckets, steps, strict=True))
        per_device = flops / seconds / self._num_ranks
        rates = {
            m.SAMPLES_PER_S: len(steps) * self._batch_size / seconds,
            m.TOKENS_PER_S: tokens / seconds,
            m.TFLOPS: per_device / 1e12,
        }
        return rates | ({m.MFU: per_device / self._peak_flops} if self._peak_flops else {})

    def _bucket(self, step: int) -> Bucket:
        """Return the bucket of a step's global batch, which has one."""
        row = int(self._cursor.batch(step - 1)[0])
        return Bucket.parse(self._samples.buckets[self._samples.bucket_codes[row]])

    def _count_flops(self, bucket: Bucket, caption_tokens: int) -> int:
        batch, passes = self._batch_size, self._passes
        return self._sizes.flops(bucket, caption_tokens=caption_tokens, batch=batch, passes=passes).training
