"""The recipes for clusters: what can be checked of them without a cluster or a container engine."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from prefect.utilities.templating import apply_values, find_placeholders

from flows.cli.main import cli
from sana.runtime.launcher import EXIT_USER_ERROR

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "examples/kubernetes"
MANIFESTS = sorted(KUBERNETES.glob("*.yaml"))
BATCH_SCRIPTS = sorted((ROOT / "examples/slurm").glob("*.sbatch"))
DOCKERFILE = ROOT / "examples/docker/Dockerfile"


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(program), str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_what_the_package_needs() -> None:
    copied = {word for line in re.findall(r"^COPY (.*)$", DOCKERFILE.read_text(), re.M) for word in line.split()[:-1]}
    assert not [name for name in copied if not (ROOT / name).exists()]
    assert {"flows", "tasks", "sana", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"} <= copied
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert not copied & set(ignored)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_valid(path: Path) -> None:
    for document in documents(path):
        kubernetes_validate.validate(document, "1.34", strict=True)


def pods() -> dict[str, dict[str, Any]]:
    """Every pod of the manifests, and of the work pool's template with its defaults, by file."""
    found = {
        path.name: document["spec"]["template"]["spec"]
        for path in MANIFESTS
        for document in documents(path)
        if document["kind"] == "Job"
    }
    return found | {"prefect-work-pool.json": work_pool_job()["spec"]["template"]["spec"]}


def work_pool_job(**variables: Any) -> dict[str, Any]:
    """The job that Prefect's Kubernetes worker would make from the template, by Prefect's own templating."""
    template = json.loads((KUBERNETES / "prefect-work-pool.json").read_text())
    properties = template["variables"]["properties"]
    given = {name: one["default"] for name, one in properties.items() if "default" in one}
    given |= {"name": "flow-run", "command": "prefect flow-run execute", **variables}
    asked = {placeholder.name for placeholder in find_placeholders(template["job_configuration"])}
    assert asked == set(properties), "a variable has no effect, or there is none for a placeholder"
    job = apply_values(template["job_configuration"], given)["job_manifest"]
    # what the worker itself does to them, as prefect_kubernetes.worker has it
    [container] = job["spec"]["template"]["spec"]["containers"]
    container["env"] = [{"name": name, "value": value} for name, value in container["env"].items()]
    container["args"] = container["args"].split()
    return job


def test_the_work_pool_makes_valid_jobs() -> None:
    kubernetes_validate.validate(work_pool_job(), "1.34", strict=True)
    eight = work_pool_job(gpus=8, memory="512Gi")
    kubernetes_validate.validate(eight, "1.34", strict=True)
    [container] = eight["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "512Gi", "nvidia.com/gpu": 8}


@pytest.mark.parametrize("name", ["prepare.yaml", "train.yaml", "prefect-work-pool.json"])
def test_pods_run_as_no_root_have_time_to_save_and_mount_what_they_name(name: str) -> None:
    pod = pods()[name]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["terminationGracePeriodSeconds"] >= 60
    [container] = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_jobs_give_up_on_a_users_mistake_only() -> None:
    for path in MANIFESTS:
        for document in documents(path):
            if document["kind"] == "Job":
                [codes] = [
                    rule["onExitCodes"]
                    for rule in document["spec"]["podFailurePolicy"]["rules"]
                    if rule["action"] == "FailJob"
                ]
                assert codes["values"] == list(range(1, EXIT_USER_ERROR + 1))
                [container] = document["spec"]["template"]["spec"]["containers"]
                assert codes["containerName"] == container["name"]


def test_a_pod_that_is_drained_counts_for_nothing_whatever_it_ends_with() -> None:
    for path in MANIFESTS:
        for document in documents(path):
            if document["kind"] == "Job":
                rules = document["spec"]["podFailurePolicy"]["rules"]  # the first that holds counts
                assert [rule["action"] for rule in rules] == ["Ignore", "FailJob"]


RANKS = 'echo "$RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $MASTER_ADDR $MASTER_PORT $*" >>"$SAID"'
WAIT = 'trap \'echo "$RANK saved" >>"$SAID"; exit 143\' TERM; for _ in {1..300}; do sleep 0.1; done'


@pytest.mark.parametrize(
    ("do", "code", "saved"),
    [
        ("exit 0", 0, []),
        (f"((LOCAL_RANK == 1)) && sleep 0.5 && exit 75; {WAIT}", 75, [2]),  # the others of the pod are ended
        (f"((LOCAL_RANK == 0)) && sleep 0.5 && exit 1; {WAIT}", 1, [3]),
        (f"((LOCAL_RANK == 0)) && sleep 0.5 && exit 75; {WAIT.replace('143', '2')}", 1, [3]),
        (f"((LOCAL_RANK == 1)) && sleep 0.5 && exec no-such-command; {WAIT}", 1, [2]),
        (f"((LOCAL_RANK == 1)) && sleep 0.5 && kill -KILL $$; {WAIT}", 75, [2]),
        (WAIT, 75, [2, 3]),  # the pod is told to end
    ],
)
def test_the_script_of_a_training_pod(tmp_path: Path, do: str, code: int, saved: list[int]) -> None:
    [container] = pods()["train.yaml"]["containers"]
    given = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    assert int(given["GPUS"]) == container["resources"]["limits"]["nvidia.com/gpu"]
    pretender, said = tmp_path / "sana", tmp_path / "said"
    pretender.write_text(f"#!/bin/bash\n{RANKS}\n{do}\n")
    pretender.chmod(0o755)
    environ = {**os.environ, **given, "GPUS": "2", "JOB_COMPLETION_INDEX": "1", "SAID": str(said)}
    environ["PATH"] = f"{tmp_path}:{environ['PATH']}"
    pod = subprocess.Popen([*container["command"], *container["args"]], env=environ, stderr=subprocess.DEVNULL)
    try:
        if do == WAIT:
            deadline = time.monotonic() + 20
            while not said.exists() or said.read_text().count("train-worker") < 2:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            pod.terminate()
        assert pod.wait(20) == code
    finally:
        pod.kill()
    lines = sorted(said.read_text().splitlines())
    started = [line for line in lines if "train-worker" in line]
    where = "4 2 sana-train-0.sana-train 29500 train-worker /config/train.yaml -s work_dir=/work"
    assert started == [f"2 0 {where}", f"3 1 {where}"]
    assert [line for line in lines if line not in started] == [f"{rank} saved" for rank in saved]


@pytest.mark.parametrize("path", BATCH_SCRIPTS, ids=lambda path: path.name)
def test_batch_scripts_are_bash(path: Path) -> None:
    assert shutil.which("bash")
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)
    assert path.read_text().startswith("#!/bin/bash\n")


def test_recipes_call_commands_that_exist() -> None:
    scripts = "\n".join(path.read_text() for path in BATCH_SCRIPTS)
    called = set(re.findall(r'"\$SANA" ([a-z-]+)', scripts))
    for name, pod in pods().items():
        [container] = pod["containers"]
        if name != "prefect-work-pool.json":
            words = " ".join([*container.get("command", ["sana"]), *container["args"]])
            called |= set(re.findall(r"\bsana ([a-z-]+)", words))
    assert called == {"run", "train-worker"}
    assert called <= set(cli.commands)
