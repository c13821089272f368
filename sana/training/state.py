"""What the next step depends on: live weights, EMA weights and the optimizer's state, as named tensors."""

import torch
from torch import Tensor

from sana.config.training.train import TrainConfig
from sana.training.ema import Ema
from sana.training.guards.skipped_steps import SKIPPED_STEPS, SkippedSteps
from sana.training.ledger.sample_ledger import LEDGER, SampleLedger
from sana.training.optimizers.gradient_release import GradientRelease
from sana.training.optimizers.registry import build_optimizer
from sana.training.parallel.parallel import Parallel, Parts
from sana.training.trainables.trainable import Trainable


class TrainState:
    """All tensors that the next step depends on; `step` is the number of optimizer steps done."""

    def __init__(self, trainable: Trainable, config: TrainConfig) -> None:
        self.parameters = trainable.parameters
        self._fixed = trainable.fixed
        self.optimizer = build_optimizer(config, trainable.parameters)
        self.release = (
            GradientRelease(self.optimizer, self.parameters, max_grad_value=config.max_grad_value)
            if config.resources.fused_backward
            else None
        )
        on_cpu = config.resources.ema_device == "cpu" or config.resources.offload.is_on  # where the weights are then
        self.ema = Ema(trainable.parameters, config.ema_decay, on_cpu=on_cpu)
        self.skipped = SkippedSteps(_device_of(trainable)) if config.max_skipped_steps else None
        self.further: dict[
            str, Tensor
        ] = {}  # what else a checkpoint keeps, whole on every rank, and the step depends on
        self._num_skipped = 0  # of those that the optimizer was told of
        self.optimizer_steps_before = 0  # taken by an earlier run, whose optimizer this one goes on with
        self.step = 0
        self.ledger: SampleLedger | None = None  # that of a trainer; nothing depends on it

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors themselves, not copies, by part of a checkpoint: weights, ema, optimizer, ledger."""
        weights = {name: parameter.detach() for name, parameter in self.parameters.items()}
        fixed = {name: tensor.detach() for name, tensor in self._fixed.items()}
        parts = {"weights": weights | fixed, "ema": self.ema.shadow | fixed, "optimizer": self._optimizer_state()}
        return parts | ({LEDGER: self.ledger.tensors()} if self.ledger else {})

    def _optimizer_state(self) -> dict[str, Tensor]:
        counted = {SKIPPED_STEPS: self.skipped.count} if self.skipped else {}
        return self.optimizer.state() | counted | self.further

    def begin(self, learning_rate: float) -> None:
        """Begin a step, before its backward pass: with `release`, weights change as gradients come."""
        if self.release is not None:
            self.ema.finish()
            self.release.begin(learning_rate)

    def advance(self, learning_rate: float, skip: Tensor | None = None) -> None:
        """Take the optimizer's step along the gradients, if it is not taken yet, and move the EMA after it.

        If `skip`, a bool scalar on the device that `skipped.decide` returned, all but the step's number stays.
        """
        self.ema.finish()
        num_skipped = self.skipped.num_before if self.skipped else 0
        if num_skipped != self._num_skipped:  # a skipped step was counted by the optimizer
            self._num_skipped = num_skipped
            self._set_optimizer_step()
        if self.release is None:
            self.optimizer.step(learning_rate, skip)
        self.ema.update(self.step - num_skipped, skip)
        self.step += 1

    def set_step(self, step: int) -> None:
        """Set the number of steps done, which the optimizer's bias correction depends on."""
        self.step = step
        if self.skipped is not None:
            self.skipped.restored()
            self._num_skipped = self.skipped.num_before
        self._set_optimizer_step()

    def _set_optimizer_step(self) -> None:
        self.optimizer.set_step(self.optimizer_steps_before + self.step - self._num_skipped)

    def restore(self, parallel: Parallel, found: Parts | None, step: int) -> None:
        """Restore the state after `step` steps that rank 0 read, bit for bit. Collective."""
        if found is not None and LEDGER not in found and self.ledger:
            found = {**found, LEDGER: self.ledger.tensors()}  # an older version's checkpoint has none
        parallel.scatter(found, self.parts())
        self.set_step(step)


def _device_of(trainable: Trainable) -> torch.device:
    """Return the device of what learns: the GPU where a part is in the host's memory."""
    devices = [parameter.device for parameter in trainable.parameters.values()]
    return next((device for device in devices if device.type == "cuda"), devices[0])
