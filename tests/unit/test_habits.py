"""One list of checks: the hooks before a commit and the hosted workflow run what `make lint` and `.ci/run` run."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]


def read_yaml(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text())


def test_hooks_run_what_make_lint_runs() -> None:
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe
    checks = [line.strip().replace("$(BIN)", ".venv/bin").removesuffix(" .") for line in recipe[1].splitlines()]
    repos = read_yaml(".pre-commit-config.yaml")["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]  # nothing to fetch
    hooks = [hook for repo in repos for hook in repo["hooks"]]
    # a hook may get files that ruff is configured to exclude
    assert [hook["entry"].removesuffix(" --force-exclude") for hook in hooks] == checks
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_workflow_only_calls_ci_run() -> None:
    [job] = read_yaml(".github/workflows/ci.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    actions = [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step]
    assert actions == ["actions/checkout", "actions/setup-python"]


@pytest.mark.parametrize("name", ["bug_report", "feature_request"])
def test_issue_forms_have_the_required_shape(name: str) -> None:
    form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids)) and all(field["attributes"]["label"] for field in form["body"])
    if name == "bug_report":
        assert {"version", "command", "config", "message", "plan"} <= set(ids)
