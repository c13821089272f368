"""The notebook: stored without outputs, and it runs top to bottom on a CPU."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from sana.runs.reader import open_run

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"


def test_it_is_stored_valid_and_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(code) > 5 and not [cell for cell in code if cell.outputs or cell.execution_count]


@pytest.mark.slow(group="notebook")
@pytest.mark.timeout(600)
def test_it_runs_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANA_NOTEBOOK", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": NOTEBOOK.parent}}
    ).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(output.get("text", "") for output in shown)
    kinds = {kind for output in shown if "data" in output for kind in output.data}
    assert "image/png" in kinds and any("video/mp4" in str(output.get("data", "")) for output in shown)
    newest = open_run(tmp_path / "store")
    assert "paired difference -" in text and newest.name in text and "SanaVideoPipeline" in text
    assert newest.metrics()["step"].to_pylist()[-1] == 40
