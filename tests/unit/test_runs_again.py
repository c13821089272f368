"""What docs/config.md says that a setting makes run again is what the stages' own fingerprints say."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sana.pipeline.graph import STAGES
from tests import golden_addresses
from tests.golden_addresses import ROOT, addresses

DEMO = ROOT / "configs/demo.yaml"
PAGE = ROOT / "docs/config.md"
# key of the page, override of the demo's config
CHANGES = [
    ("download.datasets.*.id", "download.datasets.0.id=other"),
    ("download.datasets.*.max_rejected_fraction", "download.datasets.0.max_rejected_fraction=0.5"),
    ("download.datasets.*.bucket", "download.datasets.0.bucket={window: middle}"),
    ("download.datasets.*.repeats", "download.datasets.0.repeats=3"),
    ("download.datasets.*.sampling_weight", "download.datasets.0.sampling_weight=2.5"),
    ("probe.resources.num_workers", "probe.resources.num_workers=3"),
    ("filter_captions.min_words", "filter_captions.min_words=2"),
    ("bucket.window", "bucket.window=middle"),
    ("bucket.eval_fraction", "bucket.eval_fraction=0.1"),
    ("encode_captions.dtype", "encode_captions.dtype=bf16"),
    ("encode_captions.padding", "encode_captions.padding=short"),
    ("encode_latents.dtype", "encode_latents.dtype=fp32"),
    ("encode_latents.vae_precision", "encode_latents.vae_precision=fp32"),
    ("encode_latents.resources.device", "encode_latents.resources.device=auto"),
    ("train.learning_rate", "train.learning_rate=0.001"),
    ("train.seed", "train.seed=7"),
    ("train.mixed_precision", "train.mixed_precision=bf16"),
    ("train.max_grad_norm", "train.max_grad_norm=0.5"),
    ("train.resources.micro_batch_size", "train.resources.micro_batch_size=2"),
    ("train.resources.eval_every", "train.resources.eval_every=30"),
    ("evaluate.num_sigmas", "evaluate.num_sigmas=4"),
    ("sample.num_inference_steps", "sample.num_inference_steps=4"),
    ("sample.prompts", "sample.prompts={other: a red kite}"),
    ("sample.negative_prompt", "sample.negative_prompt=blurry"),
    ("tracking.run_name", "tracking.run_name=mine"),
    ("work_dir", "work_dir=elsewhere"),
]


@cache
def rows() -> dict[str, str]:
    """What the page says of each key."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if name := re.match(r" `([\w.*]+)`", cells[1] if len(cells) > 5 else ""):
            found[name[1]] = cells[5].strip()
    return found


def fingerprints(folder: Path, *overrides: str) -> dict[str, Any]:
    """The demo's own fingerprint of each stage, given the same inputs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(golden_addresses.CONFIGS, "demo", overrides)
        found: dict[str, Any] = addresses(DEMO, folder)["fingerprints"]
    return found


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return fingerprints(tmp_path_factory.mktemp("as shipped"))


@pytest.mark.parametrize(("key", "override"), CHANGES, ids=[key for key, _ in CHANGES])
def test_the_page_names_the_first_stage_that_runs_again(
    key: str, override: str, before: dict[str, Any], tmp_path: Path
) -> None:
    after = fingerprints(tmp_path, override)
    changed = [name for name in STAGES if name in after and after[name] != before.get(name)]
    assert (changed[0] if changed else "nothing") == rows()[key].partition(",")[0]


def test_every_key_says_what_runs_again() -> None:
    assert len(rows()) > 300 and all(set(said.split(", ")) <= {*STAGES, "nothing"} for said in rows().values())
