"""What learns: the weights, their average and the optimizer's moments, as named tensors to save and to fill."""

import torch
from torch import Tensor, nn

from sana.config.train import TrainConfig
from sana.training.ema import Ema
from sana.training.optimizer import MOMENTS, build_optimizer, set_step


class TrainState:
    """All tensors that the next step depends on; `step` is the number of optimizer steps done."""

    def __init__(self, transformer: nn.Module, config: TrainConfig) -> None:
        self.transformer = transformer
        self.optimizer = build_optimizer(transformer, config)
        self.ema = Ema(transformer, config.ema_decay)
        self.step = 0

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """Return the tensors themselves, not copies, by part of a checkpoint: weights, ema, optimizer."""
        weights = {name: parameter.detach() for name, parameter in self.transformer.named_parameters()}
        moments = {
            f"{name}.{moment}": self.optimizer.state[parameter][moment]
            for name, parameter in self.transformer.named_parameters()
            for moment in MOMENTS
        }
        return {"weights": weights, "ema": self.ema.shadow, "optimizer": moments}

    @torch.no_grad()
    def fill(self, parts: dict[str, dict[str, Tensor]], step: int) -> None:
        """Copy stored tensors into the live ones: bit for bit the state after `step` steps."""
        for part, tensors in self.parts().items():
            for name, tensor in tensors.items():
                tensor.copy_(parts[part][name])
        self.at(step)

    def at(self, step: int) -> None:
        """Set the number of steps done, which the optimizer's bias correction depends on."""
        self.step = step
        set_step(self.optimizer, step)

    def broadcast(self) -> None:
        """Give every rank the tensors of rank 0, which alone reads checkpoints: ranks cannot disagree on one."""
        for tensors in self.parts().values():
            for tensor in tensors.values():
                torch.distributed.broadcast(tensor, src=0)
