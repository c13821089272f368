"""What the loop does between steps beside training: validation, checks, early stopping. Each is a hook."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sana.training.loop import Trainer


class Hook(Protocol):
    """Called by the loop on every rank alike; what it draws and computes must not change what training draws."""

    def before_training(self, trainer: "Trainer") -> None:
        """Called once, after the trainer has resumed and before its first step."""

    def before_step(self, trainer: "Trainer") -> bool:
        """Called before every step and after the last, after the eval loss; False: a stop was requested meanwhile.

        All ranks must return the same.
        """
