"""Each optimizer against its library driven plainly or its formula, step by step; resumed to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from sana.config.section import union_members
from sana.config.training.optimization.optimizer import AdafactorConfig, OptimizerConfig
from sana.config.training.optimization.optimizer_support import SUPPORT
from sana.config.training.train import TrainConfig
from sana.training.optimizers.registry import OPTIMIZERS, build_optimizer
from tests.optimizer_cases import (
    CASES,
    DTYPES,
    LR,
    SETTINGS,
    config,
    copied,
    gradients,
    groups,
    library,
    module,
    rate,
    steps,
)
from tests.rank_pair import RankPair

pytestmark = pytest.mark.timeout(60)

KERNELS = "adafactor, kernels as matrices"


def config_of(name: str, weights: str) -> TrainConfig:
    if name != KERNELS:
        return config(name, weights)
    plain = config("adafactor", weights)
    assert isinstance(plain.optimizer, AdafactorConfig)
    return plain.model_copy(update={"optimizer": plain.optimizer.model_copy(update={"kernels": "matrix"})})


def test_each_optimizer_has_a_section_support_a_builder_and_a_case_here() -> None:
    assert list(union_members(OptimizerConfig.__origin__)) == list(SUPPORT) == list(OPTIMIZERS) == list(SETTINGS)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("name", "weights"), CASES)
def test_two_steps_and_two_resumed_are_four_to_the_bit(name: str, weights: str, device: str) -> None:
    straight, first, second = (dict(module(DTYPES[weights]).to(device).named_parameters()) for _ in range(3))
    whole = build_optimizer(config(name, weights), straight)
    steps(whole, straight, range(4))

    half = build_optimizer(config(name, weights), first)
    assert {key: tensor.shape for key, tensor in half.state().items()} == {
        key: tensor.shape for key, tensor in whole.state().items()
    }, "the state is whole before the first step"
    steps(half, first, range(2))
    saved = copied(half.state()) | {f"weight {key}": tensor for key, tensor in copied(first).items()}
    assert all(type(tensor) is Tensor for tensor in saved.values()), "plain tensors, which safetensors can hold"
    torch.rand(9)  # what others draw in between changes nothing

    resumed = build_optimizer(config(name, weights), second)
    with torch.no_grad():
        for key, tensor in [*resumed.state().items(), *((f"weight {key}", p) for key, p in second.items())]:
            tensor.copy_(saved[key])
    resumed.set_step(2)
    steps(resumed, second, range(2, 4))
    for key, tensor in straight.items():
        assert torch.equal(tensor, second[key]), key
    found = resumed.state()
    for key, tensor in whole.state().items():
        assert torch.equal(tensor, found[key]), key


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.outer(torch.nn.functional.silu(self.inner(numbers)))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_compiled_model_learns_the_same_and_is_compiled_once(name: str) -> None:
    def learned(counter: CompileCounter | None) -> list[Tensor]:
        torch.manual_seed(2)
        model = nn.Module()
        model.blocks = nn.ModuleList([Block()])
        if counter is not None:
            model.blocks[0].compile(backend=counter)
        optimizer = build_optimizer(config(name), dict(model.named_parameters()))
        for step in range(4):
            model.blocks[0](torch.full((2, 4), 0.1 * step + 1)).square().sum().backward()
            optimizer.step(LR)
        return [parameter.detach() for parameter in model.parameters()]

    counter = CompileCounter()
    assert all(torch.equal(a, b) for a, b in zip(learned(None), learned(counter), strict=True))
    assert counter.frame_count == 1


RANK_CASES = [*(case for case in CASES if SUPPORT[case[0]].fsdp2), (KERNELS, "fp32")]
BY_ROWS = ("adamw", "adamw_bf16", "optimi_adamw")  # each number by itself: sharded to the bit as whole
TOLERANCE = 1e-5  # of those that add up numbers of all rows, relative to the largest of a tensor


def _whole_state_after_steps(sharded: bool) -> dict[str, Tensor]:
    """Take four steps of each case that holds; returns the whole state of all.

    On a rank of a pair if `sharded`: then with a step between them that is skipped.
    """
    mesh = init_device_mesh("cpu", (2,), mesh_dim_names=("shard",)) if sharded else None
    found: dict[str, Tensor] = {}
    for name, weights in RANK_CASES:
        parameters = dict(module(DTYPES[weights]).named_parameters())
        if mesh is not None:
            parameters = {
                key: nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for key, p in parameters.items()
            }
        optimizer = build_optimizer(config_of(name, weights), parameters)
        for step in range(4):
            if mesh is not None and step == 2:
                for parameter in parameters.values():
                    parameter.grad = torch.full_like(parameter, float("nan"))
                optimizer.step(rate(step), torch.tensor(True))
                optimizer.set_step(step)
            plain = {key: nn.Parameter(torch.zeros(p.shape, dtype=p.dtype)) for key, p in parameters.items()}
            gradients(plain, step)
            for key, parameter in parameters.items():
                grad = plain[key].grad
                if grad is not None and isinstance(parameter, DTensor):
                    grad = distribute_tensor(grad, parameter.device_mesh, parameter.placements)
                parameter.grad = grad
            optimizer.step(rate(step))
        kernels = {key: tensor for key, tensor in optimizer.state().items() if "point.weight" in key}
        assert all(tensor.placements == (Shard(0),) for tensor in kernels.values() if isinstance(tensor, DTensor))
        for key, tensor in (optimizer.state() | {f"weight {key}": p for key, p in parameters.items()}).items():
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            found[f"{name} {weights} {key}"] = whole.detach().clone()
    return found


def _on_a_rank() -> dict[str, Any]:
    from sana.training.parallel.parallel import Parallel

    settings = {"mixed_precision": "fp32", "resources": {"device": "cpu", "num_processes": 2}}
    Parallel.open(TrainConfig(max_steps=1, global_batch_size=2, **settings))
    return {key: tensor.float().numpy() for key, tensor in _whole_state_after_steps(sharded=True).items()}


@pytest.mark.slow(group="sharded")
@pytest.mark.timeout(240)
def test_two_ranks_sharded_where_it_holds_take_the_steps_of_one(pair: RankPair) -> None:
    """And none of a step that is skipped. Both ranks have the same whole state."""
    expected = {key: tensor.float().numpy() for key, tensor in _whole_state_after_steps(sharded=False).items()}
    for found in pair.run(_on_a_rank):
        assert found.keys() == expected.keys()
        for key, whole in expected.items():
            bound = 0.0 if key.split()[0] in BY_ROWS else TOLERANCE * abs(whole).max()
            assert abs(found[key] - whole).max() <= bound, key


def test_adafactor_s_kernels_as_matrices_take_the_steps_of_matrices() -> None:
    """torch's own Adafactor over the kernels as views [outputs, all else]; two steps and two resumed are its four."""
    ours, theirs, resumed = (dict(module().named_parameters()) for _ in range(3))
    flat = {key: nn.Parameter(p.detach().flatten(1)) if p.ndim > 2 else p for key, p in theirs.items()}
    plain = library("adafactor", flat)
    one = build_optimizer(config_of(KERNELS, "fp32"), ours)
    largest = max(tensor.numel() for name, tensor in one.state().items() if name.startswith("depth.weight."))
    assert largest == 9, "of a kernel [6, 1, 3, 3] a row of 9 and a column of 6"
    other = build_optimizer(config_of(KERNELS, "fp32"), resumed)
    for step in range(4):
        for parameters in (ours, theirs, resumed):
            gradients(parameters, step)
        for key, view in flat.items():
            view.grad = None if theirs[key].grad is None else theirs[key].grad.view(view.shape)  # type: ignore[union-attr]
        plain(rate(step))
        one.step(rate(step))
        other.step(rate(step))
        if step == 1:
            saved = copied(other.state())
            other = build_optimizer(config_of(KERNELS, "fp32"), resumed)
            for key, tensor in other.state().items():
                tensor.copy_(saved[key])
            other.set_step(2)
    for key, weight in ours.items():
        torch.testing.assert_close(weight.view(flat[key].shape), flat[key], rtol=1e-5, atol=1e-7)
        assert torch.equal(weight, resumed[key]), key


def adamw_formula(weight: Tensor, grad: Tensor, state: dict, rate: float, decay: float) -> Tensor:
    """AdamW as Loshchilov and Hutter write it, in float64; returns the new weight."""
    betas, eps = (0.8, 0.95), 1e-6
    state["t"] = state.get("t", 0) + 1
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * grad
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * grad**2
    mean, variance = state["m"] / (1 - betas[0] ** state["t"]), state["v"] / (1 - betas[1] ** state["t"])
    return weight * (1 - rate * decay) - rate * mean / (variance.sqrt() + eps)


@pytest.mark.parametrize(
    ("name", "weights"),
    [case for case in CASES if case[0] in ("adamw", "adafactor", "optimi_adamw", "muon", "prodigy", "came")],
)
def test_four_steps_are_those_of_the_library_to_the_bit(name: str, weights: str) -> None:
    ours, theirs = (dict(module(DTYPES[weights]).named_parameters()) for _ in range(2))
    mine, plain = build_optimizer(config(name, weights), ours), library(name, theirs)
    for step in range(4):
        steps(mine, ours, range(step, step + 1))
        gradients(theirs, step)
        plain(rate(step))
        for key, weight in ours.items():
            assert torch.equal(weight, theirs[key]), f"step {step}: {key}"


# the largest difference after four steps, in steps of the size of the learning rate: of moments in 8 bits, in bf16
FORMULA_TOLERANCE = {"adamw": 1e-4, "optimi_adamw": 1e-4, "adamw_bf16": 0.05, "adamw_8bit": 0.35}


@pytest.mark.parametrize("name", FORMULA_TOLERANCE)
def test_four_steps_are_those_of_the_formula(name: str) -> None:
    ours = dict(module().named_parameters())
    exact = {key: weight.detach().double() for key, weight in ours.items()}
    states: dict[str, dict] = {key: {} for key in ours}
    mine = build_optimizer(config(name), ours)
    for step in range(4):
        gradients(ours, step)
        for key, weight in exact.items():
            if ours[key].grad is not None:
                decay = 0.1 if weight.ndim > 1 and key != "scale_shift_table" else 0.0
                grad = ours[key].grad.double()
                exact[key] = adamw_formula(weight, grad, states[key], rate(step), decay)
        mine.step(rate(step))
    worst = max((ours[key].double() - weight).abs().max().item() for key, weight in exact.items()) / LR
    print(f"{name}: largest difference {worst:.1e} learning rates")
    assert worst < FORMULA_TOLERANCE[name]


def test_moments_in_8_bits_are_torchaos() -> None:
    from torchao.optim import AdamW8bit

    ours, theirs = (dict(module().named_parameters()) for _ in range(2))
    mine = build_optimizer(config("adamw_8bit"), ours)
    plain = AdamW8bit(groups(theirs, 0.1), betas=(0.8, 0.95), eps=1e-6)
    for step in range(3):
        steps(mine, ours, range(step, step + 1))
        gradients(theirs, step)
        for group in plain.param_groups:
            group["lr"].fill_(rate(step))
        with torch.compiler.set_stance("force_eager"):
            plain.step()
        assert all(torch.equal(weight, theirs[key]) for key, weight in ours.items())
    name, moment = "blocks.0.linear.weight", plain.state[theirs["blocks.0.linear.weight"]]["exp_avg"]
    assert torch.equal(mine.state()[f"{name}.exp_avg.codes"], moment.codes)
    assert mine.state()[f"{name}.exp_avg.codes"].dtype == torch.uint8
