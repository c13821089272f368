"""The check before a run finds the problems of all data sets at once, with the messages of the run."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import main
from sana.data.sources.source_check import check_sources
from sana.errors import ConfigError
from sana.stages import download
from sana.store import open_store
from tests.downloads import DEMO, context, jsonl_of
from tests.pipeline_runs import run_alone
from tests.s3_server import WeedServer
from tests.source_files import make_files

pytestmark = pytest.mark.timeout(60)


def test_the_check_before_a_run_names_every_data_set_with_a_problem(tmp_path: Path) -> None:
    videos = {"a.mp4": "not a video: it is not opened"}
    wrong: dict[str, dict[str, Any]] = {
        "no column 'txt'": {"files": {"metadata.csv": "video,text\na.mp4,x\n"}, "captions": {"text_columns": ["txt"]}},
        "videos.txt has 1 lines and prompts.txt has 3": {"files": {"videos.txt": "a.mp4", "prompts.txt": "x\ny\nz"}},
        "t.parquet is not there": {"table": "t.parquet"},
        "none of the columns": {"files": {"t.jsonl": '{"file": "a.mp4", "text": "x"}'}, "table": "t.jsonl"},
        "has no row": {"files": {"t.csv": "video,text\n"}, "table": "t.csv"},
        "finds nothing in any of 1": {"files": {"a.txt": "x"}, "source_pattern": "^film(.)"},
        "": {"files": {"metadata.csv": "video,text\na.mp4,x\n"}},
    }
    sets = []
    for number, case in enumerate(wrong.values()):
        folder = make_files(tmp_path / f"s{number}", {**videos, **case.pop("files", {})})
        sets.append({"source": f"{folder}/{case.pop('table', '')}", **case})
    at = context(tmp_path, *sets)
    problems, _ = check_sources(at.config, work_dir=at.work_dir)
    assert len(problems) == len(wrong) - 1
    for number, (says, problem) in enumerate(zip(wrong, problems, strict=False)):
        assert says in str(problem) and str(problem).startswith(f"download.datasets[d{number}]: ")


def test_validate_names_all_problems_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_files(tmp_path / "s", {"a.mp4": "1", "metadata.csv": "video,words\na.mp4,x\n"})
    sets = [{"id": "one", "source": str(folder)}, {"id": "two", "source": f"{tmp_path}/nowhere"}]
    (tmp_path / "file").write_text("")
    values = [f"download.datasets={json.dumps(sets)}", f"work_dir={tmp_path}/w", f"root={tmp_path}/file/root"]
    options = [x for value in [*values, "model.path=./missing"] for x in ("-s", value)]
    with pytest.raises(SystemExit):
        main(["validate", str(DEMO), *options])
    first, *said = capsys.readouterr().err.splitlines()
    assert first == "error: 4 problems"
    for line, says in zip(said, ("datasets[one]: metadata.csv", "datasets[two]: source", "model", "root"), strict=True):
        assert says in line


def test_the_check_reads_only_the_head_of_a_table(tmp_path: Path) -> None:
    rows = [{"video": f"{i}.mp4", "text": "x"} for i in range(2000)]
    torn = jsonl_of(rows) + "{torn"
    folder = make_files(tmp_path / "s", {"0.mp4": "1", "metadata.jsonl": torn})
    at = context(tmp_path, {"source": str(folder)})
    assert check_sources(at.config, work_dir=at.work_dir) == ([], [])
    with pytest.raises(ConfigError, match="line 2001 is not JSON"):
        run_alone(download, at, {})


def test_the_check_names_remote_tables_that_it_does_not_read(s3: WeedServer, tmp_path: Path) -> None:
    root = f"s3://{s3.bucket}/unread-{time.time_ns()}"
    store = open_store(root)
    store.put_if_absent("a.mp4", b"1")
    store.put_if_absent("metadata.csv", b"video,words\na.mp4,x\n")
    at = context(tmp_path, {"source": root})
    problems, (note,) = check_sources(at.config, work_dir=at.work_dir)
    assert not problems and note.startswith("download.datasets[d0]: metadata.csv is not read")
