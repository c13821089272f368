"""Masks of a data set: found by name, in a folder or by a table's column; counted apart from clips and unused files."""

from pathlib import Path
from typing import Any

import pytest

from sana.data.sources.source_check import check_sources
from sana.data.tables import read_table
from sana.errors import ConfigError
from sana.pipeline.graph import stages_of
from sana.stages import download
from tests.downloads import FinishedDownload, context, csv_of, jsonl_of, parquet_of
from tests.packed_files import tar_of
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)

TEXTS = {"a.txt": "one", "b/c.txt": "two"}
CLIPS = {"a.mp4": "1", "b/c.MKV": "2"}
ROWS = [
    {"file_name": "a.mp4", "text": "one", "mask": "m/x.png"},
    {"file_name": "b/c", "text": "two", "mask": "m/y.mp4"},
]
BOTH = {"a.mp4": "m/x.png", "b/c.MKV": "m/y.mp4"}
# name -> (files beside CLIPS, masks, {clip: its mask}, rejected {path: reason}, unused files)
FOLDERS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, str], dict[str, str], set[str]]] = {
    "beside their clips": (
        {**TEXTS, "a.mask.png": "m", "b/c.mask.mp4": "n", "d.png": "p"},
        {"suffix": ".mask"},
        {"a.mp4": "a.mask.png", "b/c.MKV": "b/c.mask.mp4"},
        {},
        {"d.png"},
    ),
    "another suffix, endings in capitals": (
        {**TEXTS, "a_m.PNG": "m", "b/c_m.WebP": "n"},
        {"suffix": "_m"},
        {"a.mp4": "a_m.PNG", "b/c.MKV": "b/c_m.WebP"},
        {},
        set(),
    ),
    "a folder with the clips' names": (
        {**TEXTS, "masks/a.png": "m", "masks/b/c.mov": "n", "masks/d.mp4": "of no clip", "masks/c.png": "elsewhere"},
        {"folder": "./masks/"},
        {"a.mp4": "masks/a.png", "b/c.MKV": "masks/b/c.mov"},
        {},
        {"masks/d.mp4", "masks/c.png"},
    ),
    "a folder and a suffix": (
        {**TEXTS, "m/a-seg.png": "m", "m/a.png": "no suffix"},
        {"folder": "m", "suffix": "-seg"},
        {"a.mp4": "m/a-seg.png"},
        {},
        {"m/a.png"},
    ),
    "one that is nobody's is no clip": (
        {**TEXTS, "gone.mask.mp4": "m", "a.mask.mp4": "n"},
        {"suffix": ".mask"},
        {"a.mp4": "a.mask.mp4"},
        {},
        {"gone.mask.mp4"},
    ),
    "of two the first by path": (
        {**TEXTS, "a.mask.mp4": "m", "a.mask.png": "n"},
        {"suffix": ".mask"},
        {"a.mp4": "a.mask.mp4"},
        {},
        {"a.mask.png"},
    ),
    "a column of a CSV table": (
        {"metadata.csv": csv_of(ROWS), "m/x.png": "m", "m/y.mp4": "n"}, {"column": "mask"}, BOTH, {}, set()
    ),
    "a column of JSON lines": (
        {"metadata.jsonl": jsonl_of(ROWS), "m/x.png": "m", "m/y.mp4": "n"}, {"column": "Mask"}, BOTH, {}, set()
    ),
    "a column of a Parquet table": (
        {"metadata.parquet": parquet_of(ROWS), "m/x.png": "m", "m/y.mp4": "n"}, {"column": "mask"}, BOTH, {}, set()
    ),
    "cells that are empty or null, and a mask that is not there": (
        {
            "metadata.csv": csv_of(
                [ROWS[0], {**ROWS[1], "mask": "m/z.png"}, {**ROWS[0], "file_name": "d.mp4", "mask": "NaN"}]
            ),
            "d.mp4": "3",
            "m/x.png": "m",
        },
        {"column": "mask"},
        {"a.mp4": "m/x.png"},
        {"b/c.MKV": "missing"},
        set(),
    ),
    "tables of sub-folders name paths from theirs": (
        {
            "a.txt": "one",
            "b/metadata.csv": csv_of([{"file_name": "c.MKV", "text": "two", "mask": "../m/x.png"}]),
            "b/e.mp4": "3",
            "b/m/x.png": "m",
        },
        {"column": "mask"},
        {},
        {"b/c.MKV": "missing", "b/e.mp4": "no_caption"},  # a path may not lead through '..'
        {"b/m/x.png"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_masks_are_found_and_every_file_is_counted_once(tmp_path: Path, name: str) -> None:
    files, masks, found, rejected, unused = FOLDERS[name]
    files = {**CLIPS, **files}
    made = make_files(tmp_path / "source", files)
    run = context(tmp_path, {"source": str(made), "masks": masks})
    problems, _ = check_sources(run.config, work_dir=tmp_path / "work")
    assert not problems
    done = FinishedDownload(run)
    table = read_table(run.store, done.artifact, "masks.parquet").to_pylist()
    paths = {clip["clip_id"]: clip["path"] for clip in done.clips}
    assert {paths[row["clip_id"]]: row["path"] for row in table} == found
    assert [row["clip_id"] for row in table] == sorted(row["clip_id"] for row in table)
    assert all(row["digest"] and row["num_bytes"] == len(files[row["path"]]) for row in table)
    assert {path: reason for path, (reason, _) in done.rejected.items()} == rejected
    left = set(read_table(run.store, done.artifact, "unused_files.parquet").column("path").to_pylist())
    assert left == unused
    texts = {path for path in files if path.endswith((".txt", ".csv", ".jsonl", ".parquet"))}
    clips = {clip["path"] for clip in done.clips} | set(done.rejected)
    assert sorted([*clips, *texts, *found.values(), *unused]) == sorted(files), "each file once"
    assert done.artifact.counts.extra.get("masks", 0) == len(found)


def test_a_change_of_a_mask_is_a_change_of_the_listing_and_of_nothing_that_clips_are_read_for(tmp_path: Path) -> None:
    made = make_files(tmp_path / "source", {**CLIPS, **TEXTS, "a.mask.png": "m"})
    first = FinishedDownload(context(tmp_path, {"source": str(made), "masks": {"suffix": ".mask"}})).artifact
    (made / "a.mask.png").write_bytes(b"another")
    second = FinishedDownload(context(tmp_path, {"source": str(made), "masks": {"suffix": ".mask"}})).artifact
    assert first.fingerprint != second.fingerprint and first.content["masks"] != second.content["masks"]
    assert {**first.content, "masks": ""} == {**second.content, "masks": ""}


def test_what_is_made_of_masks_changes_nothing_of_download(tmp_path: Path) -> None:
    made = make_files(tmp_path / "source", {**CLIPS, **TEXTS, "a.mask.png": "m"})
    one, other, none = (
        download.recipe(context(tmp_path, {"source": str(made), **more}), {}).fingerprint
        for more in (
            {"masks": {"suffix": ".mask"}},
            {"masks": {"suffix": ".mask", "inverted": True, "missing": "whole", "empty": "keep"}},
            {},
        )
    )
    assert one == other != none


def test_masks_in_an_archive_and_named_by_a_table_that_is_the_source(tmp_path: Path) -> None:
    packed = make_files(tmp_path / "packed", {})
    packed.mkdir(exist_ok=True)
    (packed / "x.tar").write_bytes(tar_of({"a.mp4": b"1", "a.txt": b"one", "a.mask.png": b"m", "b.mp4": b"2"}))
    exact = [ROWS[0], {**ROWS[1], "file_name": "b/c.MKV"}]  # no folder is listed for other spellings
    table = make_files(tmp_path / "table", {**CLIPS, "m/x.png": "m", "m/y.mp4": "n", "all.csv": csv_of(exact)})
    run = context(
        tmp_path,
        {"source": str(packed), "masks": {"suffix": ".mask"}},
        {"source": str(table / "all.csv"), "masks": {"column": "mask"}},
    )
    done = FinishedDownload(run)
    paths = {clip["clip_id"]: (clip["dataset"], clip["path"]) for clip in done.clips}
    masks = read_table(run.store, done.artifact, "masks.parquet").to_pylist()
    assert {paths[row["clip_id"]]: row["path"] for row in masks} == {
        ("d0", "a.mp4"): "a.mask.png",
        **{("d1", path): mask for path, mask in BOTH.items()},
    }
    assert {path: reason for path, (reason, _) in done.rejected.items()} == {"b.mp4": "no_caption"}


@pytest.mark.parametrize(
    ("masks", "files", "needs"),
    [
        ({"column": "mask"}, TEXTS, "masks.column mask names a column, but no metadata"),
        ({"column": "msk"}, {"metadata.csv": csv_of(ROWS)}, "has no column 'msk'; did you mean 'mask'"),
    ],
)
def test_a_column_that_is_not_there(tmp_path: Path, masks: dict[str, str], files: dict[str, str], needs: str) -> None:
    made = make_files(tmp_path / "source", {**CLIPS, **files})
    run = context(tmp_path, {"source": str(made), "masks": masks})
    problems, _ = check_sources(run.config, work_dir=tmp_path / "work")
    assert len(problems) == 1 and "download.datasets[d0]" in str(problems[0]) and needs in str(problems[0])


@pytest.mark.parametrize(
    ("masks", "needs"),
    [
        ({}, "does not say where masks are; set suffix"),
        ({"column": "m", "suffix": ".m"}, "suffix and folder have no effect"),
        ({"folder": "../masks"}, "no folder of the source"),
        ({"folder": "/masks"}, "no folder of the source"),
        ({"suffix": "a/b"}, "must be a part of a file's name"),
    ],
)
def test_settings_that_name_no_masks(tmp_path: Path, masks: dict[str, str], needs: str) -> None:
    with pytest.raises(ConfigError, match=needs):
        context(tmp_path, {"source": str(tmp_path), "masks": masks})


def test_the_stage_is_part_of_runs_whose_loss_looks_at_masks(tmp_path: Path) -> None:
    masks = {"source": str(tmp_path), "masks": {"suffix": ".mask"}}
    assert "encode_masks" not in stages_of(context(tmp_path, masks).config)
    config = context(tmp_path, masks).config
    masked = config.model_copy(
        update={"train": config.train.model_validate({**config.train.model_dump(), "masked_loss": {}})}
    )
    assert set(stages_of(masked)) - set(stages_of(config)) == {"encode_masks"}
