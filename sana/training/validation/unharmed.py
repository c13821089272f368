"""Work between two steps that leaves training as it was, to the bit, also where it fails."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from sana.errors import SanaError
from sana.training.validation.maker import free_cached

# Every error that sampling is known to raise, and all those that Python and torch derive theirs from: a validation must
# not end a training. What is not among them ends a process by intent: SystemExit, KeyboardInterrupt.
FAILURES = (
    SanaError,
    RuntimeError,  # torch's, out of memory on a device among them
    MemoryError,
    OSError,
    ValueError,
    TypeError,
    ArithmeticError,  # FloatingPointError: latents that are not finite
    LookupError,
    AttributeError,
    AssertionError,
    ImportError,
    EOFError,
)


@contextmanager
def unharmed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the model is in eval mode; afterwards its modes and all random states of the process are as before.

    Weights are for those to put back who exchange them.
    """
    modes = [(module, module.training) for module in model.modules()]
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, device)
        free_cached(device)
