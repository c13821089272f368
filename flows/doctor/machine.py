"""The machine itself: versions, GPUs, the video decoder, and what the system lets a process have."""

import os
import platform
import resource
import shutil
import subprocess
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
from packaging.requirements import Requirement

from flows.doctor.child import ProbeError, ProbeLateError, run_probe
from flows.doctor.facts import DecoderFacts, TorchFacts
from flows.doctor.finding import Finding, fail, ok, warn
from sana.costs.machine import host_memory
from sana.wording import counted, first_of, in_units

PACKAGE = "sana-video-pipeline"
_PROJECT = Path(__file__).parents[2] / "pyproject.toml"
SHOWN = ("torch", "diffusers", "transformers", "prefect", "mlflow")
TORCH_LIMIT_S, DECODER_LIMIT_S, SMI_LIMIT_S = 40.0, 30.0, 15.0
GIB = 2**30
_BUSY = 0.1  # of a GPU's memory, used before we begin
_INSTALL = "docs/install-gpu.md has the command for each driver"
_COLOURS = ((208, 48, 48), (48, 48, 208))  # of the probe's video
_TOLERANCE = 24  # of a colour after a codec


def check_python() -> Finding:
    """Python and this package."""
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    try:
        return judge_version(f"{said}, {PACKAGE}", version(PACKAGE), version_of_clone(_PROJECT))
    except PackageNotFoundError:
        return warn(f"{said}, {PACKAGE} is not installed", "it runs from a folder; pip install -e . installs it")


def version_of_clone(project: Path) -> str | None:
    """Return the version in the pyproject.toml of the clone that this program runs from; None: it is installed."""
    try:
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, KeyError):
        return None


def judge_version(said: str, installed: str, of_clone: str | None) -> Finding:
    """Judge what pip says of this program by the clone that it runs from."""
    if of_clone is None or of_clone == installed:
        return ok(f"{said} {installed}")
    return warn(
        f"{said} {of_clone}, which pip still calls {installed}, and so do records of runs", "pip install -e . renews it"
    )


def check_packages() -> Finding:
    """The versions of what is installed, against what this package needs."""
    try:
        needed = [Requirement(text) for text in requires(PACKAGE) or []]
    except PackageNotFoundError:
        needed = []
    installed = {one.name: _version(one.name) for one in needed if one.marker is None or one.marker.evaluate()}
    installed |= {name: _version(name) for name in SHOWN}
    return judge_packages(needed, installed)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def judge_packages(needed: list[Requirement], installed: Mapping[str, str | None]) -> Finding:
    """Judge the installed versions by name; None: it is not there."""
    wrong = [
        f"{one.name} {'is missing' if have is None else have}, {one.specifier or 'any version'} is needed"
        for one in needed
        if one.name in installed
        and ((have := installed[one.name]) is None or not one.specifier.contains(have, prereleases=True))
    ]
    if wrong:
        return fail(first_of(wrong[:3], len(wrong)), "pip install -c constraints.txt -e . installs what was tested")
    return ok(", ".join(f"{name} {installed[name] or 'missing'}" for name in SHOWN))


@dataclass(frozen=True)
class Gpu:
    """A GPU, as nvidia-smi lists it."""

    name: str
    total_bytes: int
    used_bytes: int
    driver: str


def check_gpu(wanted: str = "auto") -> Finding:
    """GPUs and driver by nvidia-smi, and what torch can do with them; `wanted` is the config's device."""
    gpus = list_gpus()
    try:
        torch = run_probe(TorchFacts, limit_s=TORCH_LIMIT_S)
    except ProbeLateError as error:
        return warn(f"torch is not tried out: {error}", "ask again when the machine is less busy")
    except ProbeError as error:
        return fail(f"torch cannot be used: {error}", f"install it again; {_INSTALL}")
    return judge_gpu(gpus, torch, wanted, visible=os.environ.get("CUDA_VISIBLE_DEVICES"))


def list_gpus() -> list[Gpu] | str:
    """Return the GPUs of this machine, or why nvidia-smi does not list them; none where there is no nvidia-smi."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = [command, "--query-gpu=name,memory.total,memory.used,driver_version", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, check=False, capture_output=True, text=True, timeout=SMI_LIMIT_S)
    except subprocess.TimeoutExpired:
        return f"nvidia-smi does not answer within {SMI_LIMIT_S:g} s"
    except OSError as error:
        return f"nvidia-smi cannot be started: {error.strerror}"
    if done.returncode:
        return f"nvidia-smi: {' '.join((done.stdout or done.stderr).split())[:200]}"
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [Gpu(row[0], _mebibytes(row[1]), _mebibytes(row[2]), row[3]) for row in rows if len(row) == 4]


def _mebibytes(text: str) -> int:
    return int(text) * 2**20 if text.isdigit() else 0  # unified memory has no number of its own


def judge_gpu(gpus: list[Gpu] | str, torch: TorchFacts, wanted: str, *, visible: str | None = None) -> Finding:
    """Judge what nvidia-smi and torch say; `visible` is CUDA_VISIBLE_DEVICES."""
    build = f"torch {torch.torch}" + (f" for CUDA {torch.cuda}" if torch.cuda else "")
    if isinstance(gpus, str):
        return fail(gpus, "reload the NVIDIA driver, or restart the machine")
    if not gpus and not torch.num_devices:
        if wanted == "cpu":
            return ok(f"none, and the config asks for none; {build}")
        if wanted != "auto":
            return fail(f"none, and the config asks for {wanted}; {build}", "use another machine, or device: cpu")
        return warn(f"none; {build}", "tiny models train on the CPU; the 2B model needs a GPU of 24 GB or more")
    names = {gpu.name for gpu in gpus}
    what = f"{counted(len(gpus), 'GPU')}: {', '.join(sorted(names))}" if gpus else counted(torch.num_devices, "GPU")
    if gpus:
        what += f", {gpus[0].total_bytes / GIB:.0f} GiB, driver {gpus[0].driver}"
    if visible is not None and visible.strip() in ("", "-1"):
        return warn(f"{what}, hidden by CUDA_VISIBLE_DEVICES", "unset CUDA_VISIBLE_DEVICES to use it")
    if not torch.cuda:
        return fail(f"{what}, and {build} is a build for the CPU", f"install torch for CUDA; {_INSTALL}")
    if not torch.works:
        why = f": {torch.error}" if torch.error else ""
        return fail(f"{what}, which {build} cannot use{why}", f"a newer driver, or torch for this one; {_INSTALL}")
    busy = [gpu for gpu in gpus if gpu.used_bytes > _BUSY * gpu.total_bytes > 0]
    if busy:
        most = max(gpu.used_bytes for gpu in busy)
        return warn(
            f"{what}, {build}; {len(busy)} in use, {most / GIB:.1f} GiB",
            "nvidia-smi shows by whom; choose others by CUDA_VISIBLE_DEVICES",
        )
    return ok(f"{what}; {build}")


def check_decoder() -> Finding:
    """Decode a frame of a tiny real video."""
    try:
        return judge_decoder(run_probe(DecoderFacts, limit_s=DECODER_LIMIT_S))
    except ProbeLateError as error:
        return warn(f"no frame was decoded: {error}", "ask again when the machine is less busy")
    except ProbeError as error:
        return fail(f"no frame could be decoded: {error}", "pip install --force-reinstall av decord2")


def judge_decoder(facts: DecoderFacts) -> Finding:
    """Judge the colours of the two halves of the frame."""
    said = f"PyAV {facts.av}, decord2 {facts.decord2}"
    pairs = zip(facts.colours, _COLOURS, strict=True)
    if any(abs(a - b) > _TOLERANCE for found, meant in pairs for a, b in zip(found, meant, strict=True)):
        return fail(
            f"{said} decode wrong colours: {[list(half) for half in facts.colours]}",
            "pip install --force-reinstall av decord2",
        )
    return ok(f"an h264 frame was decoded, {said}")


def check_memory() -> Finding:
    """Memory of this process: the machine's, or what a container may have."""
    available, total = psutil.virtual_memory().available, host_memory()
    used = Path("/sys/fs/cgroup/memory.current")
    if total < psutil.virtual_memory().total and used.exists():
        available = min(available, total - int(used.read_text()))
    return judge_memory(max(0, available), total, os.cpu_count() or 1)


def judge_memory(available_bytes: int, total_bytes: int, num_cpus: int) -> Finding:
    said = f"{in_units(available_bytes)} of {in_units(total_bytes)} free, {counted(num_cpus, 'CPU')}"
    if available_bytes < GIB:
        return fail(said, "end other programs; the demo needs 2 GiB, the 2B model 32 GiB beside the GPU")
    if available_bytes < 4 * GIB:
        return warn(said, "enough for the demo alone; the 2B model needs 32 GiB beside the GPU")
    return ok(said)


def check_limits() -> Finding:
    """Open files, the size of a file, processes and shared memory."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    size = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    pids, shm = Path("/sys/fs/cgroup/pids.max"), Path("/dev/shm")  # noqa: S108 - its size is looked at
    limit = pids.read_text().strip() if pids.exists() else ""
    own = _unlimited(resource.getrlimit(resource.RLIMIT_NPROC)[0]) if os.geteuid() else None  # root has none
    processes = [number for number in (own, int(limit) if limit.isdigit() else None) if number is not None]
    return judge_limits(
        _unlimited(files), _unlimited(size), min(processes, default=None),
        shutil.disk_usage(shm).total if shm.is_dir() else None,
    )  # fmt: skip


def _unlimited(limit: int) -> int | None:
    return None if limit in (resource.RLIM_INFINITY, -1) else limit


def judge_limits(files: int | None, file_bytes: int | None, processes: int | None, shm_bytes: int | None) -> Finding:
    """Judge the limits of a process; None: there is none (of shared memory: it is not a folder here)."""
    parts = [f"{files if files is not None else 'any number of'} open files"]
    parts += [f"files of {in_units(file_bytes)} at most"] if file_bytes is not None else []
    parts += [f"{processes} processes"] if processes is not None else []
    parts += [f"{in_units(shm_bytes)} shared memory"] if shm_bytes is not None else []
    said = ", ".join(parts)
    if files is not None and files < 256:
        return fail(said, "ulimit -n 4096 before the run")
    if file_bytes is not None and file_bytes < 40 * GIB:
        return warn(said, "ulimit -f unlimited before the run: a checkpoint of the 2B model has 31 GiB")
    if processes is not None and processes < 512:
        return warn(said, "allow more: ulimit -u, or docker run --pids-limit=-1")
    if files is not None and files < 1024:
        return warn(said, "ulimit -n 4096 before the run")
    if shm_bytes is not None and shm_bytes < GIB:
        return warn(said, "several GPUs talk through it: docker run --shm-size=8g")
    return ok(said)
