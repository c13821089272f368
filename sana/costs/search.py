"""Which setting is fastest and fits: found by bisection on a model of two layers, and confirmed once on the whole.

What two layers needed beyond their counted state, against what was counted for it, corrects the count of the whole.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sana.bucket import Bucket
from sana.config.training.train import TrainConfig
from sana.costs.calibration import Trial
from sana.costs.memory import TrainingMemory, training_memory
from sana.costs.training import activation_levels, training_setting
from sana.costs.transformer import TransformerSizes

SMALL_LAYERS = 2
MOST_TRIALS = 4  # of the small model
MOST_CONFIRMATIONS = 3  # one, unless it does not fit after all
ROOM = 0.94  # of the memory that may be used: an allocator's blocks have gaps
_GAIN = 1.02  # a larger micro batch must be so much faster a sample
_CORRECTION = (0.5, 2.0)  # bounds: a tiny model's process is more than its tensors

Measure = Callable[[float, int, int], Trial]  # of kept activations, micro batch size, layers


@dataclass
class Search:
    """Tries settings by `measure`, and keeps the trials. `capacity` is in bytes."""

    config: TrainConfig
    sizes: TransformerSizes
    bucket: Bucket
    caption_tokens: int
    capacity: int
    on_gpu: bool
    measure: Measure
    trials: list[Trial] = field(default_factory=list)

    def run(self) -> Trial | None:
        """Return the confirmed trial of the whole model that is fastest a sample; None: nothing fits."""
        levels, micro = activation_levels(self.config, on_gpu=self.on_gpu), self._micro_batches()
        found = self._bisect(levels, micro[0])
        if found is not None:
            found = self._larger_batch(found, micro)
        least = (levels[0], micro[0])
        if found is None and self._try(*least, self._small.num_layers).fits:
            found = least  # the whole was only predicted not to fit: see
        for kept, size in [] if found is None else self._from(found, levels, micro)[:MOST_CONFIRMATIONS]:
            trial = self._try(kept, size, self.sizes.num_layers)
            if trial.fits:
                return trial
        return None

    def predicted_bytes(self, kept: float, micro_batch_size: int) -> int:
        """Return the peak of the whole model, corrected by what the nearest trial needed."""
        count = self._count(kept, micro_batch_size, self.sizes.num_layers)
        fitting = [trial for trial in self.trials if trial.fits and trial.num_layers == self._small.num_layers]
        if not fitting:
            return count.peak
        nearest = min(
            fitting, key=lambda trial: (abs(trial.kept - kept), abs(trial.micro_batch_size - micro_batch_size))
        )
        small = self._count(nearest.kept, nearest.micro_batch_size, nearest.num_layers)
        low, high = _CORRECTION
        factor = (nearest.peak_bytes - small.state) / (small.peak - small.state)
        return count.state + round(min(max(factor, low), high) * (count.peak - count.state))

    @property
    def _small(self) -> TransformerSizes:
        return replace(self.sizes, num_layers=min(SMALL_LAYERS, self.sizes.num_layers))

    def _count(self, kept: float, micro_batch_size: int, num_layers: int) -> TrainingMemory:
        sizes = replace(self.sizes, num_layers=num_layers)
        setting = training_setting(
            self.config,
            sizes,
            caption_tokens=self.caption_tokens,
            on_gpu=self.on_gpu,
            kept=kept,
            micro_batch_size=micro_batch_size,
        )
        return training_memory(sizes, self.bucket, setting)

    def _micro_batches(self) -> list[int]:
        """Return the sizes to choose from, the least first: those that divide a rank's part of the global batch."""
        part = self.config.global_batch_size // self.config.resources.num_processes
        if self.config.resources.fused_backward:  # which adds nothing up
            return [part]
        return [size for size in range(1, part + 1) if part % size == 0]

    def _try(self, kept: float, micro_batch_size: int, num_layers: int) -> Trial:
        known = next(
            (
                trial
                for trial in self.trials
                if (trial.kept, trial.micro_batch_size, trial.num_layers) == (kept, micro_batch_size, num_layers)
            ),
            None,
        )
        if known is not None:
            return known
        trial = self.measure(kept, micro_batch_size, num_layers)
        self.trials.append(trial)
        return trial

    def _fits(self, kept: float, micro_batch_size: int) -> bool:
        """Try two layers, and tell whether the whole would fit as well."""
        trial = self._try(kept, micro_batch_size, self._small.num_layers)
        return trial.fits and self.predicted_bytes(kept, micro_batch_size) <= ROOM * self.capacity

    def _bisect(self, levels: tuple[float, ...], micro_batch_size: int) -> tuple[float, int] | None:
        """Return the most that can be kept; the first try is what counting says."""
        low, high = -1, len(levels)  # the last that fits, the first that does not
        while low + 1 < high and len(self.trials) < MOST_TRIALS - 1:
            middle = (low + high) // 2
            if not self.trials:
                counted = [n for n, kept in enumerate(levels) if self._counted_to_fit(kept, micro_batch_size)]
                middle = max(counted, default=0)
            if self._fits(levels[middle], micro_batch_size):
                low = middle
            else:
                high = middle
        return None if low < 0 else (levels[low], micro_batch_size)

    def _counted_to_fit(self, kept: float, micro_batch_size: int) -> bool:
        return self._count(kept, micro_batch_size, self.sizes.num_layers).peak <= ROOM * self.capacity

    def _larger_batch(self, found: tuple[float, int], micro: list[int]) -> tuple[float, int]:
        """Return the largest micro batch of those that are counted to fit, fit and are each faster a sample."""
        kept, size = found
        for larger in (other for other in micro if other > size):
            if len(self.trials) >= MOST_TRIALS or self.predicted_bytes(kept, larger) > ROOM * self.capacity:
                break
            small = self._small.num_layers
            if not self._fits(kept, larger):
                break
            if self._try(kept, size, small).sample_s < _GAIN * self._try(kept, larger, small).sample_s:
                break
            size = larger
        return kept, size

    def _from(self, found: tuple[float, int], levels: tuple[float, ...], micro: list[int]) -> list[tuple[float, int]]:
        """Return what to confirm, in turn: the setting that was found, then what needs less and less."""
        kept, size = found
        less = [(level, size) for level in sorted(levels, reverse=True) if level <= kept]
        return less if size == micro[0] else [*less, *((level, micro[0]) for level in levels[:1])]
