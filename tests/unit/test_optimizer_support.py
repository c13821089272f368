"""Groups of parameters, and where each optimizer holds: what is refused says what works."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

from sana.config.load import load_config
from sana.config.training.optimization.optimizer_support import SUPPORT, check_package
from sana.config.training.train import TrainConfig
from sana.errors import ConfigError
from sana.stages.bodies.trainable_here import check_named_parameters
from sana.training.optimizers.registry import build_optimizer
from tests.optimizer_cases import config, gradients, module

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("name", [name for name, support in SUPPORT.items() if support.factors])
def test_a_group_has_its_own_learning_rate(name: str) -> None:
    group = {"names": "*.linear.*", "learning_rate_factor": 0.5}
    grouped, plain, halved = (dict(module().named_parameters()) for _ in range(3))
    for parameters, settings, factor in (
        (grouped, {"parameter_groups": [group]}, 1),
        (plain, {}, 1),
        (halved, {}, 0.5),
    ):
        optimizer = build_optimizer(config(name, **settings), parameters)
        gradients(parameters, 1)
        optimizer.step(1e-2 * factor)
    for key, weight in grouped.items():
        expected = halved if ".linear." in key else plain
        assert torch.equal(weight, expected[key]), key


def test_a_group_that_matches_nothing_is_an_error_that_lists_names() -> None:
    groups = [{"names": "*.linear.*", "learning_rate_factor": 2}, {"names": "*.liner.*", "learning_rate_factor": 3}]
    with pytest.raises(ConfigError) as caught:
        build_optimizer(config("adamw", parameter_groups=groups), dict(module().named_parameters()))
    said = "train.parameter_groups.1.names is '*.liner.*', and no parameter has such a name; did you mean *.linear.*? "
    assert str(caught.value).startswith(f"{said}Names begin with blocks.*.")
    assert "depth, norm, scale_shift_table" in str(caught.value)
    again = [groups[0], {"names": "blocks.0.linear.bias", "learning_rate_factor": 2}]
    with pytest.raises(ConfigError, match="which earlier groups have already"):
        build_optimizer(config("adamw", parameter_groups=again), dict(module().named_parameters()))
    with pytest.raises(
        ConfigError, match=r"train.optimizer.matrices is 'x.\*', and no matrix has such a name; names begin with"
    ):
        build_optimizer(
            TrainConfig(max_steps=1, global_batch_size=1, optimizer={"name": "muon", "matrices": "x.*"}),
            dict(module().named_parameters()),
        )


@pytest.mark.parametrize(
    ("optimizer", "glob", "meant"),
    [
        ("adamw", "*.atn2.*", "*.attn2.*"),
        ("adamw", "attn2.to_q", "*attn2.to_q*"),
        ("adamw", "transformer_block.*.attn1.*", "transformer_blocks.*.attn1.*"),
        ("adamw", "transformer_blocks.0.attn1.to_query.weight", "transformer_blocks.0.attn1.to_q.weight"),
        ("adamw", "patch_embeding", "patch_embedding*"),
        ("adamw", "time_embed", "time_embed*"),
        ("adamw", "proj_out.weigth", "proj_out.weight"),
        ("adamw", "lora_A.*", ""),
        ("muon", "transformer_block.*", "transformer_blocks.*"),
        ("muon", "*.ff.conv_temp.*", "*.ff.conv_inverted.*"),  # no matrix: it goes over frames
    ],
)
def test_names_are_checked_by_a_model_s_config_alone(optimizer: str, glob: str, meant: str, tiny_model: Path) -> None:
    """Before anything is run or downloaded."""
    groups = f"train.parameter_groups=[{{names: '{glob}', learning_rate_factor: 2}}]"
    sets = [groups] if optimizer == "adamw" else ["train.optimizer.name=muon", f"train.optimizer.matrices='{glob}'"]
    settings = load_config("configs/demo.yaml", [f"model.path={tiny_model}", *sets])
    with pytest.raises(ConfigError) as caught:
        check_named_parameters(settings, work_dir=tiny_model)
    found = re.search(r"; did you mean (\S+)\? Names begin with caption_", str(caught.value))
    assert (found[1] if found else "") == meant and repr(glob) in str(caught.value)
    right = load_config("configs/demo.yaml", [f"model.path={tiny_model}", groups.replace(glob, "*.attn2.*")])
    check_named_parameters(right, work_dir=tiny_model)


@pytest.mark.parametrize("name", [name for name, support in SUPPORT.items() if support.package != "torch"])
def test_a_package_that_is_missing_is_an_error_at_load(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("sana.config.training.optimization.optimizer_support.version", missing)
    with pytest.raises(ConfigError, match=r"is not installed: pip install -e '.\[optimizers\]'; or use adamw"):
        check_package(name)


def test_muon_needs_a_torch_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sana.config.training.optimization.optimizer_support.version", lambda package: "2.8.1+cu128")
    with pytest.raises(ConfigError, match=r"muon needs torch 2.9 or newer, and 2.8.1\+cu128 is installed: pip install"):
        check_package("muon")
    check_package("adamw")


def test_the_table_in_the_docs_is_the_data() -> None:
    def yes(holds: bool) -> str:
        return "yes" if holds else "no"

    rows = []
    for name, s in SUPPORT.items():
        package = f"{s.package} >= {s.at_least[0]}.{s.at_least[1]}"
        holds = [
            yes(each) for each in (s.ddp, s.fsdp2, s.compile, s.bf16_weights, s.factors, s.fused_backward, s.offload)
        ]
        rows.append(f"| {' | '.join([f'`{name}`', package, s.state_bytes, *holds])} |")
    text = (Path(__file__).parents[2] / "docs/optimizers.md").read_text()
    assert "\n".join(rows) in text, "the table should be:\n" + "\n".join(rows)


# the two others need numbers of each parameter, which meta has not; they go parameter by parameter
@pytest.mark.parametrize("name", ["adamw", "optimi_adamw", "adamw_8bit", "muon", "came"])
def test_with_offload_it_steps_on_two_devices(name: str) -> None:
    """Meta stands for the second device: it computes nothing, and refuses to mix as a GPU does."""
    assert SUPPORT[name].offload
    parameters = dict(module().named_parameters())
    for key, parameter in parameters.items():
        if not key.startswith("blocks."):
            parameters[key] = torch.nn.Parameter(parameter.detach().to("meta"))
    before = {key: parameter.detach().clone() for key, parameter in parameters.items() if not parameter.is_meta}
    optimizer = build_optimizer(config(name), parameters)
    for step in range(2):
        gradients(parameters, step)
        optimizer.step(1e-2)
    assert all(not torch.equal(parameters[key], weight) for key, weight in before.items())
