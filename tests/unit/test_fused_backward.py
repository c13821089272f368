"""Steps in the backward pass are those after it, bit for bit, and no gradient waits for another."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sana.config.training.optimization.optimizer_support import SUPPORT
from sana.errors import ConfigError
from sana.model.transformer import load_transformer, predict
from sana.training.clipping import clip_gradients
from sana.training.compute.compiled_blocks import CompiledBlocks
from sana.training.gauges.gradient_norms import gradient_norms, groups_of
from sana.training.parallel.parallel import Parallel
from sana.training.state import TrainState
from sana.training.train_step import TrainStep
from tests.optimizer_cases import CASES, DTYPES, config, copied, gradients, module, rate

pytestmark = pytest.mark.timeout(60)

HOLDS = [(name, weights) for name, weights in CASES if SUPPORT[name].fused_backward]
GROUPS = [{"names": "*.linear.*", "learning_rate_factor": 0.5}]


class OneRank:
    """The part of Parallel that is used, without what accelerate has once a process."""

    grad_norm = Parallel.grad_norm

    def __init__(self, device: torch.device) -> None:
        self.device = device


class Run:
    """Steps over the parameters of a module, whose gradients are those of `optimizer_cases`."""

    def __init__(self, name: str, weights: str, *, fused: bool, device: str = "cpu", **settings: Any) -> None:
        resources = {"device": device, "fused_backward": fused}
        self.config = config(name, weights, ema_decay=0.9, resources=resources, parameter_groups=GROUPS, **settings)
        self.parameters = dict(module(DTYPES[weights]).to(device).named_parameters())
        trainable: Any = SimpleNamespace(parameters=self.parameters, fixed={}, model=nn.Identity())
        self.parallel, self.state = OneRank(torch.device(device)), TrainState(trainable, self.config)

    def step(self, number: int) -> dict[str, Tensor]:
        """Take a step, and return the norms of its gradients."""
        gradients(self.parameters, number)
        wanted = {key: parameter.grad for key, parameter in self.parameters.items()}
        for parameter in self.parameters.values():
            parameter.grad = None
        losses = [(self.parameters[key] * grad).sum() for key, grad in wanted.items() if grad is not None]
        self.state.begin(rate(number))
        torch.stack([loss.float() for loss in losses]).sum().backward()
        groups, release = groups_of(self.parameters), self.state.release
        measure = release.grad_norm if release else self.parallel.grad_norm
        norms = {key: scalar.value for key, scalar in gradient_norms(measure, groups).items()}
        if release:
            norms["all"] = release.grad_norm(self.parameters.values())
        else:
            norms["all"] = clip_gradients(self.parallel, list(self.parameters.values()), self.config)
        self.state.advance(rate(number))
        return norms

    def tensors(self) -> dict[str, Tensor]:
        return {f"{part}/{key}": t for part, found in self.state.parts().items() for key, t in found.items()}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("name", "weights"), HOLDS)
def test_four_steps_and_a_resume_are_those_after_the_backward_pass(name: str, weights: str, device: str) -> None:
    clipping = {"gradient_clipping": "value", "max_grad_value": 0.02} if weights == "fp32" else {}
    settings = {"gradient_clipping": "none", "device": device, **clipping}
    plain, fused = (Run(name, weights, fused=fused, **settings) for fused in (False, True))
    resumed = Run(name, weights, fused=True, **settings)
    for number in range(4):
        if number == 2:  # from here on a third run goes on from what a checkpoint would hold
            saved = copied(fused.tensors())
            with torch.no_grad():
                for key, tensor in resumed.tensors().items():
                    tensor.copy_(saved[key])
            resumed.state.set_step(2)
        norms, others = plain.step(number), fused.step(number)
        assert norms.keys() == others.keys() and all(torch.equal(norms[key], others[key]) for key in norms)
        runs = [fused]
        if number >= 2:
            resumed.step(number)
            runs.append(resumed)
        for run in runs:
            found = run.tensors()
            different = [key for key, tensor in plain.tensors().items() if not torch.equal(tensor, found[key])]
            assert different == [], f"step {number}"
    assert all(parameter.grad is None for parameter in fused.parameters.values())


def test_one_gradient_exists_at_a_time() -> None:
    run, alive = Run("adamw", "fp32", fused=True, gradient_clipping="none"), []
    for parameter in run.parameters.values():  # after the hook that steps
        parameter.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(p.grad is not None for p in run.parameters.values()))
        )
    run.step(0)
    assert alive == [0] * (len(run.parameters) - 1)  # one parameter has no gradient


def test_a_weight_that_is_used_twice_takes_one_step_along_the_whole_gradient() -> None:
    plain, fused = (Run("adamw", "fp32", fused=fused, gradient_clipping="none") for fused in (False, True))
    inputs = torch.randn(3, 64, generator=torch.Generator().manual_seed(5))
    for run in (plain, fused):
        weight = run.parameters["blocks.0.linear.weight"]
        run.state.begin(1e-2)
        (inputs @ weight @ weight).square().sum().backward()
        run.state.advance(1e-2)
    assert all(torch.equal(tensor, fused.tensors()[key]) for key, tensor in plain.tensors().items())


slow = pytest.mark.slow(group="compile")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        *((name, None) for name, weights in HOLDS if weights == "fp32"),
        pytest.param("adamw", 0.3, marks=slow),
        pytest.param("adamw", 1.0, marks=slow),
    ],
)
def test_the_transformer_s_steps_in_its_backward_pass(name: str, kept: float | None, tiny_model: Path) -> None:
    """Gradients may be views of what the rest of the pass needs, and compiled blocks keep their weights for it."""
    clipping = {"gradient_clipping": "value", "max_grad_value": 1e-5}
    runs = []
    for fused in (False, True):
        torch._dynamo.reset()
        model = load_transformer(str(tiny_model)).train()
        if kept is not None:
            CompiledBlocks(model.transformer_blocks, kept=kept, backend="aot_eager")
        run = Run(name, "fp32", fused=fused, **clipping)
        run.parameters = dict(model.named_parameters())
        trainable: Any = SimpleNamespace(parameters=run.parameters, fixed={}, model=model)
        run.state = TrainState(trainable, run.config.model_copy(update={"parameter_groups": ()}))
        for number in range(3):
            run.state.begin(rate(number))
            latents = torch.randn(1, 16, 2, 8, 12, generator=torch.Generator().manual_seed(number))
            captions, mask = torch.ones(1, 5, 16), torch.ones(1, 5, dtype=torch.int64)
            predict(model, latents, torch.tensor([500.0]), captions, mask).square().mean().backward()
            if not fused:
                clip_gradients(run.parallel, list(run.parameters.values()), run.config)
            run.state.advance(rate(number))
        runs.append(run.tensors())
    assert [key for key, tensor in runs[0].items() if not torch.equal(tensor, runs[1][key])] == []


def test_ranks_that_a_launcher_started_are_told_before_the_first_step() -> None:
    run = Run("adamw", "fp32", fused=True, gradient_clipping="none")
    parallel: Any = SimpleNamespace(num_ranks=2)
    with pytest.raises(ConfigError, match=r"fused_backward works with one rank, but 2 were started.*set it to false"):
        TrainStep(run.config, parallel, nn.Identity(), run.state, None)  # type: ignore[arg-type]
