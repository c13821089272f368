"""A sample is found by its path or id, and shown beside its source."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from flows.cli.look.inspect import find_sample
from flows.cli.main import main
from sana.data.tables import read_table
from sana.errors import SanaError
from sana.runtime.results import SampleInspection, StoredLatent
from sana.workers.commands.inspect_sample import contact_sheet, psnr_db
from tests.maintained_stores import store_of
from tests.pipeline_runs import SMALLER, Outcome, Place, inline_workers

pytestmark = pytest.mark.timeout(200)


def test_a_sample_is_found_by_its_path_or_id(trained: tuple[Place, Outcome]) -> None:
    place, outcome = trained
    store = store_of(place)
    index = read_table(store, outcome["encode_latents"], "index.parquet")
    windows = read_table(store, outcome["bucket"], "clips.parquet")
    ids = dict(zip(windows.column("path").to_pylist(), windows.column("sample_id").to_pylist(), strict=True))
    assert find_sample("bunny-01.mp4", index, windows) == ids["bunny-01.mp4"]
    assert find_sample(ids["bunny-02.mp4"], index, windows) == ids["bunny-02.mp4"]
    assert find_sample(ids["bunny-02.mp4"][:12], index, windows) == ids["bunny-02.mp4"]
    with pytest.raises(SanaError, match=r"near it: [\w-]+\.mp4, "):  # names that people know before ids
        find_sample("#", index, windows)
    with pytest.raises(SanaError, match=r"near it: .*bunny-0"):
        find_sample("buny-01.mp4", index, windows)
    with pytest.raises(SanaError, match="13 samples"):
        find_sample("", index, windows)
    assert pc.all(pc.is_in(index.column("sample_id"), value_set=windows.column("sample_id").combine_chunks())).as_py()


def test_inspect_shows_the_source_beside_the_latent(trained: tuple[Place, Outcome], tmp_path: Path) -> None:
    place, _ = trained
    arguments = ["-s", f"work_dir={place.folder}/work", "-s", f"model.path={place.model}", "--root", place.root]
    arguments += [
        "-s",
        f"download.datasets.0.source={place.clips}",
        *(part for text in SMALLER for part in ("-s", text)),
    ]
    with inline_workers():
        main(["inspect", "configs/demo.yaml", "bunny-01.mp4", *arguments, "--out", str(tmp_path)])
    assert {path.name for path in tmp_path.iterdir()} == {"side_by_side.mp4", "contact_sheet.png", "sample.json"}
    frames = np.zeros((5, 64, 96, 3), np.uint8)
    assert psnr_db(frames, frames) == 99.0
    assert psnr_db(frames, frames + 255) == pytest.approx(0.0)
    inspection = SampleInspection("a.mp4", "5x64x96", 0, 4, 0.0, StoredLatent("fp16", (1,), 1.0), ())
    sheet = np.asarray(contact_sheet(frames + 200, frames + 10, inspection))
    assert (sheet == 200).all(axis=2).sum() > 50_000 and (sheet == 10).all(axis=2).sum() > 50_000
