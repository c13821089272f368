"""What the next step depends on: live weights, EMA weights and the optimizer's state, as named tensors."""

from dataclasses import dataclass

from torch import Tensor

from sana.config.training.train import TrainConfig
from sana.training.ema import Ema
from sana.training.optimizers.registry import build_optimizer
from sana.training.parallel.parallel import Parallel, Parts
from sana.training.trainable import Trainable


@dataclass(frozen=True)
class Snapshot:
    """The state after a step, on rank 0, for a saver to take.

    Its tensors are those in use, and change with the next step: copy them to keep them longer.
    """

    step: int  # optimizer steps done
    parts: Parts  # weights, ema, optimizer, as in a checkpoint


class TrainState:
    """All tensors that the next step depends on; `step` is the number of optimizer steps done."""

    def __init__(self, trainable: Trainable, config: TrainConfig) -> None:
        self.parameters = trainable.parameters
        self.optimizer = build_optimizer(config, trainable.parameters)
        self.ema = Ema(trainable.parameters, config.ema_decay, on_cpu=config.resources.ema_device == "cpu")
        self.step = 0

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors themselves, not copies, by part of a checkpoint: weights, ema, optimizer."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        return {"weights": weights, "ema": self.ema.shadow, "optimizer": self.optimizer.state()}

    def advance(self, learning_rate: float) -> None:
        """Take the optimizer's step along the gradients, and move the EMA after it."""
        self.ema.finish()
        self.optimizer.step(learning_rate)
        self.ema.update(self.step)
        self.step += 1

    def set_step(self, step: int) -> None:
        """Set the number of steps done, which the optimizer's bias correction depends on."""
        self.step = step
        self.optimizer.set_step(step)

    def restore(self, parallel: Parallel, found: Parts | None, step: int) -> None:
        """Restore the state after `step` steps that rank 0 read, bit for bit. Collective."""
        parallel.scatter(found, self.parts())
        self.set_step(step)

    def snapshot(self, parallel: Parallel) -> Snapshot:
        """Return the whole state as it is now. Collective."""
        return Snapshot(self.step, parallel.gather(self.parts()))
