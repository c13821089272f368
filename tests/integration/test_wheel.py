"""The wheel installs without the constraints into an empty environment, and runs the demo outside of a clone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.mark.slow(group="wheel")
@pytest.mark.timeout(600)
def test_the_wheel_runs_the_demo_outside_of_a_clone(tmp_path: Path) -> None:
    def call(*command: str, timeout_s: float = 300.0) -> str:
        place = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        done = subprocess.run(command, cwd=tmp_path, env=place, capture_output=True, text=True, timeout=timeout_s)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    call(sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT))
    call(sys.executable, "-m", "venv", "venv")
    [wheel] = tmp_path.glob("*.whl")
    here = torch.__version__.partition("+")[0]  # not a GPU's gigabytes where this machine has a CPU's
    call("venv/bin/pip", "install", "-q", str(wheel), f"torch<={here}")
    found = json.loads(call("venv/bin/sana", "demo", "away", "--json"))
    assert {stage["state"] for stage in found["stages"]} == {"completed"}
    again = json.loads(call("venv/bin/sana", "demo", "away", "--json"))
    assert {stage["state"] for stage in again["stages"]} == {"cached"}
    assert not (tmp_path / "sana-demo").exists()
