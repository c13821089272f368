"""The stage that checks the base model: what it writes, what it refuses, and that training comes after it."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from sana.artifact import Artifact, find
from sana.context import Context
from sana.pipeline import graph
from sana.runtime.results import BaseCheckReport
from sana.runtime.specs import CheckBaseSpec
from sana.stages import check_base
from sana.stages.check_base import BaseRefusedError, CheckBaseFacts
from sana.store import open_store
from tests.pipeline_runs import inline_workers
from tests.training_store import Encoded, build_encoded, train_config


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    return build_encoded(tmp_path_factory.mktemp("base-check"))


@pytest.fixture
def context_of(encoded: Encoded, tiny_model: Path, tmp_path: Path) -> Callable[[str], Context]:
    def make(base_check: str) -> Context:
        config = train_config(encoded, tmp_path, tiny_model, base_check=base_check)
        return Context(config, open_store(encoded.store.root), Path(config.work_dir))

    return make


def test_random_weights_fail_and_are_refused(
    encoded: Encoded, context_of: Callable[[str], Context], caplog: pytest.LogCaptureFixture
) -> None:
    inputs: dict[str, Artifact] = {"latents": encoded.latents, "texts": encoded.captions}
    warned, refused = context_of("warn"), context_of("refuse")
    recipe = check_base.recipe(warned, inputs)
    with inline_workers(), caplog.at_level(logging.WARNING):
        made = check_base.run(warned, inputs, recipe)
        assert "base check: loss failed: loss " in caplog.text and "never trained?" in caplog.text
        assert CheckBaseFacts.of(made).verdicts["loss"] == "failed"
        report = BaseCheckReport.from_json(warned.store.read(made.files[BaseCheckReport.FILE].key), where="test")
        assert report.num_samples == 4 and set(report.losses) == {
            "as configured", "permuted captions", "instruction image", "instruction none", "timestep sigma",
            "timestep 1000 (1 - sigma)",
        }  # fmt: skip
        assert len(report.losses) * len(report.sigmas) == CheckBaseSpec.PASSES_PER_SAMPLE  # as plans count
        assert warned.store.read(made.files["base_check.png"].key).startswith(b"\x89PNG")
        again = check_base.run(warned, inputs, recipe)
        assert again.reproduced and again.content == made.content
        # what was only warned of is not accepted by `refuse`
        strict = check_base.recipe(refused, inputs)
        with pytest.raises(BaseRefusedError, match="train.base_check is refuse.*loss: loss .* set train.base_check to"):
            check_base.run(refused, inputs, strict)
    assert find(refused.store, strict) is None


def test_training_comes_after_the_check_and_is_the_same_without(context_of: Callable[[str], Context]) -> None:
    checked, unchecked = context_of("warn").config, context_of("off").config
    assert graph.providers(checked, "train")["base_check"] == "check_base"
    assert "check_base" not in graph.stages_of(unchecked) and "base_check" not in graph.providers(unchecked, "train")
    assert checked.train.hashed() == unchecked.train.hashed()
