"""The architecture, held by tests: imports point one way, and heavy libraries have one door each."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BASE = ["sana.errors", "sana.bucket", "sana.config", "sana.store", "sana.artifact", "sana.progress", "sana.context"]
BASE += [
    "sana.metrics",
    "sana.arrow",
    "sana.convert",
    "sana.record",
    "sana.counts",
    "sana.facts",
    "sana.wording",
    "sana.data.eval_table",
]
# from the bottom up; a module may import its own layer and those before it
LAYERS = [
    BASE,
    ["sana.costs"],
    ["sana.runtime"],
    ["sana.data"],
    ["sana.model"],
    ["sana.training"],
    ["sana.delivery"],
    ["sana.workers"],
    ["sana.maintenance"],
    ["sana.comparison"],
    ["sana.runs"],
    ["sana.report"],
    ["sana.stages"],
    ["sana.pipeline"],
    ["tasks"],
    ["flows"],
]
DOORS = {
    "prefect": ("flows/", "tasks/"),
    "mlflow": ("tasks/tracking/",),
    "wandb": ("tasks/trackers/wandb.py",),
    "tensorboard": ("tasks/trackers/tensorboard.py",),
    "s3fs": ("sana/store_s3.py",),
    "botocore": ("sana/store_s3.py", "sana/store_errors.py", "sana/store_credentials.py"),
    "decord": ("sana/data/video/frames.py",),
    "av": ("sana/data/video/",),
    "huggingface_hub": ("sana/data/sources/hub.py", "sana/delivery/hub_upload.py"),
    "transformers": ("sana/model/",),
    "diffusers": ("sana/model/",),
    "accelerate": ("sana/training/",),
    "peft": ("sana/model/adapters/",),
    "apprise": ("sana/delivery/transports.py",),
    "jinja2": ("sana/report/html.py",),
    "starlette": ("flows/web/",),
    "uvicorn": ("flows/web/server.py", "flows/server.py"),
    "questionary": ("flows/wizard/asking.py",),
    "psutil": ("flows/doctor/", "tasks/tracking/system_metrics.py"),
    "pynvml": ("tasks/tracking/system_metrics.py",),
}


@functools.cache
def project_imports() -> list[tuple[str, str]]:
    """Return (path of the importing file, imported module) for every import in the project, nested ones included."""
    found = []
    for folder in ("sana", "tasks", "flows"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{path}: relative imports break in deployed flows"
                    names = [node.module or ""] + [f"{node.module}.{alias.name}" for alias in node.names]
                else:
                    continue
                found += [(str(path.relative_to(ROOT)), name) for name in names]
    return found


def layer(module: str) -> int | None:
    if module.startswith(("sana.store", "sana.atomic_io")):
        module = "sana.store"
    for number, names in enumerate(LAYERS):
        if any(module == name or module.startswith(f"{name}.") for name in names):
            return number
    return None


def test_every_module_has_a_layer() -> None:
    modules = [path for folder in ("sana", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")]
    names = [str(p.relative_to(ROOT).with_suffix("")).replace("/", ".") for p in modules if p.name != "__init__.py"]
    assert len(names) > 40
    assert not [name for name in names if layer(name) is None]


MOST_MODULES, MOST_LINES, MOST_LINES_OF_A_FUNCTION = 16, 299, 60  # CONTRIBUTING.md


def test_folders_files_and_functions_stay_small() -> None:
    folders: dict[str, int] = {}
    large = []
    for path in (path for folder in ("sana", "tasks", "flows") for path in sorted((ROOT / folder).rglob("*.py"))):
        text, name = path.read_text(), str(path.relative_to(ROOT))
        if path.name != "__init__.py":
            folders[str(path.parent.relative_to(ROOT))] = folders.get(str(path.parent.relative_to(ROOT)), 0) + 1
        if (lines := len(text.splitlines())) > MOST_LINES:
            large.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                large += [f"{name}: {node.name} has {lines} lines"] if lines > MOST_LINES_OF_A_FUNCTION else []
    large += [f"{folder} has {number} modules" for folder, number in folders.items() if number > MOST_MODULES]
    assert len(folders) > 40 and not large, "split these where they come apart by themselves:\n" + "\n".join(large)


def test_imports_point_down() -> None:
    upward = []
    for path, name in project_imports():
        here, there = layer(path.removesuffix(".py").replace("/", ".")), layer(name)
        if here is not None and there is not None and there > here:
            upward.append(f"{path} imports {name}")
    assert not upward, "a lower layer imports a higher one:\n" + "\n".join(upward)


@pytest.mark.parametrize("path", ["sana/runtime/specs.py", "sana/runtime/results.py"])
def test_what_stages_and_workers_share_needs_base_modules_only(path: str) -> None:
    mine = [name for importer, name in project_imports() if importer == path and name.startswith("sana")]
    assert mine and not [name for name in mine if layer(name) != 0]


def test_stages_do_not_import_each_other_and_tasks_do_not_call_tasks() -> None:
    stages = {path.stem for path in (ROOT / "sana/stages").glob("*.py")} - {"__init__"}
    wrong = [
        f"{path} imports {name}"
        for path, name in project_imports()
        for kind in ("sana.stages", "tasks")
        for stage in stages
        if path.startswith(f"{kind.replace('.', '/')}/") and name.startswith(f"{kind}.{stage}")
    ]
    assert not wrong


# what sets a state of the whole process that others' numbers depend on, and where it may be: put back after use, or of
# a process that does nothing else
PROCESS_WIDE = {
    r"torch\.backends\.\w+(\.\w+)* = |\.fp32_precision = ": {"sana/model/precision.py"},
    r"set_float32_matmul_precision\(": set(),
    r"set_default_dtype\(": {"sana/model/transformer.py"},
    r"set_num_threads\(": {"sana/workers/encode_features.py", "sana/workers/encode_latents.py"},
    r"use_deterministic_algorithms\(|set_grad_enabled\(False\)$|set_deterministic_debug_mode\(": set(),
    r"torch\._(dynamo|inductor|functorch)\.config\.\w+ = ": set(),
    r"torch\.(cuda\.)?(manual_seed|seed)\(|np\.random\.seed\(|[^.\w]random\.seed\(": {
        "sana/model/tiny_model.py",  # within fork_rng, as in adamw_8bit
        "sana/training/optimizers/adamw_8bit.py",
        "sana/training/synthetic.py",  # a measurement's own process
    },
}


@pytest.mark.parametrize("pattern", PROCESS_WIDE)
def test_no_flag_of_the_process_decides_what_others_compute(pattern: str) -> None:
    files = [path for folder in ("sana", "tasks", "flows") for path in (ROOT / folder).rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in files if re.search(pattern, path.read_text(), re.MULTILINE)}
    assert found == PROCESS_WIDE[pattern]


@pytest.mark.parametrize("library", sorted(DOORS))
def test_heavy_libraries_have_one_door(library: str) -> None:
    users = {path for path, name in project_imports() if name == library or name.startswith(f"{library}.")}
    assert users, f"nobody imports {library}: is the rule stale?"
    assert not [path for path in users if not path.startswith(DOORS[library])]


def test_package_files_are_empty() -> None:
    """But for the library's door, which every import passes: it imports only when its names are asked for."""
    filled = [p for f in ("sana", "tasks", "flows") for p in (ROOT / f).rglob("__init__.py") if p.read_text().strip()]
    assert filled == [ROOT / "sana/__init__.py"]
    script = "import sys, typing; before = set(sys.modules); import sana; print(*set(sys.modules) - before)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.split() == ["sana"]


@pytest.mark.timeout(60)
def test_planning_imports_no_heavy_library() -> None:
    """What `sana --help`, `plan` and a cached run import never includes torch, prefect or mlflow."""
    stages = "from sana.pipeline.graph import STAGES, stage; [stage(name) for name in STAGES]"
    modules = "sana.pipeline.plan, sana.pipeline.costs, sana.maintenance.copy"
    first = "import sys, flows.cli.main; assert 'pyarrow' not in sys.modules, 'before the first sign of life'"
    script = f"{first}; import {modules}; {stages}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    heavy = {
        "torch",
        "diffusers",
        "transformers",
        "accelerate",
        "prefect",
        "mlflow",
        "s3fs",
        "huggingface_hub",
        "apprise",
        "decord",
    }
    assert not heavy & set(loaded.split())


def test_no_test_folder_shadows_a_package() -> None:
    assert not [p for p in (ROOT / "tests").iterdir() if p.name in ("sana", "tasks", "flows")]
