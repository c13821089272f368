"""The addresses of everything a config makes: fingerprints, pool keys and trajectory keys, recorded beside the tests.

    python -m tests.golden_addresses           # compare
    python -m tests.golden_addresses --write   # record again, after a change of addresses that was meant

They are a frozen wire format: whoever upgrades must find what is encoded and trained. A setting or a column that is
added has a neutral value that stays out of them (`sana/config/section.py`, `ADDED_COLUMNS` in `sana/data/schemas.py`).
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sana.artifact import Artifact, digest_of
from sana.config.load import load_config
from sana.context import Context
from sana.counts import Counts
from sana.facts import EncodeLatentsFacts
from sana.model.model_resolver import COMPONENTS, ModelRef
from sana.pipeline.graph import STAGES, inputs_of, stage, stages_of
from sana.stages import download, encode_captions, encode_latents, probe, train
from sana.store import LocalStore
from tests.pipeline_runs import ROOT, Place, as_shipped, inline_workers, new_place, run_stages

# by name: overrides. The template's data set had an id of its own when the addresses were frozen
CONFIGS = {"demo": (), "sana_video_480p": ("download.datasets.0.id=disney",)}
PATH = Path(__file__).parent / "golden/addresses.json"
STORE = Path(__file__).parent / "golden/store"  # the commit files of a small run of the demo's clips, and no more
REWRITE = "python -m tests.golden_addresses --write"
MODEL = ModelRef("models/stand-in", None, {name: digest_of(["stand-in", name]) for name in COMPONENTS})
_MODIFIED_S = 1_700_000_000  # of the clips: a listing holds it


class _Listed:
    """A stand-in for an opened source: its listing is all that the download stage hashes of it."""

    def listing_digest(self) -> str:
        return digest_of("listing")


@contextmanager
def stand_in_model() -> Iterator[None]:
    """Let every stage find MODEL, whatever the config names: the shipped config's is on the hub."""
    with pytest.MonkeyPatch.context() as patch:
        for name in STAGES:
            if hasattr(stage(name), "resolve_model"):
                patch.setattr(f"sana.stages.{name}.resolve_model", lambda *args, **kwargs: MODEL)
        yield


def addresses(path: Path, folder: Path) -> dict[str, Any]:
    """Return the addresses of a config's stages, each given stand-ins of what it reads."""
    config = load_config(path, CONFIGS[path.stem])
    context = Context(config, LocalStore(str(folder)), folder, read_only=True)
    artifacts = _stand_ins([dataset.id for dataset in config.download.enabled])
    found: dict[str, Any] = {"fingerprints": {}}
    with stand_in_model():
        for name in stages_of(config):
            if name == "download":
                recipe = download._recipe(context, {dataset.id: _Listed() for dataset in config.download.enabled})
            else:
                recipe = stage(name).recipe(context, inputs_of(config, name, artifacts))
            found["fingerprints"][name] = recipe.fingerprint
            if name == "train":
                found["trajectory"] = train.trajectory_of(recipe)
        found["pools"] = {
            "probe": probe.pool_of(context).folder,
            "encode_captions": encode_captions.pool_of(context, MODEL).folder,
            "encode_latents": encode_latents.pool_of(context, MODEL).folder,
        }
    return found


def _stand_ins(datasets: list[str]) -> dict[str, Artifact]:
    """Return an artifact of each stage whose content is named by its stage and view."""
    views = {
        "download": ("videos", "captions"),
        "probe": ("clips",),
        "filter_captions": ("clips",),
        "bucket": ("windows", "members"),
        "encode_captions": ("train", "eval", "prompts"),
        "encode_latents": ("train", "eval"),
        "check_base": ("base_check",),
        "train": ("weights",),
    }
    facts = {"encode_latents": EncodeLatentsFacts(num_bytes=1, train_samples=dict.fromkeys(datasets, 1)).to_value()}
    return {
        name: Artifact(
            stage=name,
            fingerprint="f" * 16,
            version=1,
            config={},
            inputs={},
            content={view: digest_of([name, view]) for view in of},
            counts=Counts.all_kept(1),
            files={},
            facts=facts.get(name, {}),
        )
        for name, of in views.items()
    }


def measure() -> dict[str, Any]:
    """Return {config: its addresses}."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: addresses(ROOT / f"configs/{name}.yaml", Path(folder)) for name in CONFIGS}


def differences(recorded: Mapping[str, Any], measured: Mapping[str, Any]) -> list[str]:
    """Return what moved, one line each."""
    moved = []
    for config, kinds in measured.items():
        for kind, found in kinds.items():
            before = recorded[config][kind]
            named = found if isinstance(found, dict) else {"": found}
            was = before if isinstance(before, dict) else {"": before}
            moved += [
                f"{config}: {kind} {name}: {was.get(name)} -> {now}"
                for name, now in named.items()
                if was.get(name) != now
            ]
    return moved


def place_at(folder: Path) -> Place:
    """Return a place with the demo's clips, of the times that the committed store knows."""
    place = new_place(folder, Path("models/stand-in"))
    for path in place.clips.iterdir():
        os.utime(path, (_MODIFIED_S, _MODIFIED_S))
    return place


def write_store() -> None:
    """Run the demo's clips through every stage in this process, and keep the commit files."""
    from sana.model.tiny_model import build_tiny_model

    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        build_tiny_model(folder / "tiny")
        place = place_at(folder / "place")
        real = ModelRef(str(folder / "tiny"), None, MODEL.digests)
        with pytest.MonkeyPatch.context() as patch, inline_workers():
            for name in STAGES:
                if hasattr(stage(name), "resolve_model"):
                    patch.setattr(f"sana.stages.{name}.resolve_model", lambda *args, **kwargs: real)
            run_stages(place.context(*as_shipped()))
        shutil.rmtree(STORE, ignore_errors=True)
        root = Path(place.root)
        for path in sorted([*root.glob("*/*/artifact.json"), *root.glob("*/history/*")]):
            kept = STORE / path.relative_to(root)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)


def main() -> None:
    """Compare, or record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PATH.write_text(json.dumps(measure(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        write_store()
        print(f"wrote {PATH} and {STORE}")
        return
    moved = differences(json.loads(PATH.read_text(encoding="utf-8")), measure())
    print("\n".join(moved) or "no address moved")
    sys.exit(bool(moved))


if __name__ == "__main__":
    main()
