"""Where the ranks of a training meet, from what torchrun, srun or a person has put into the environment."""

import re
from collections.abc import Mapping, MutableMapping

from sana.errors import SanaError

_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_FIRST_PORT, _NUM_PORTS = 20_000, 10_000  # below the ports that Linux gives to outgoing connections

HOW = (
    "start it on each machine with torchrun (torchrun --nnodes N --nproc-per-node GPUS --rdzv-backend c10d "
    "--rdzv-endpoint FIRST_MACHINE:29500 --no-python sana train-worker CONFIG), with srun, one task a GPU, or set "
    f"{', '.join(_TORCHRUN)} for each rank; for one machine `sana run CONFIG` does it"
)


def rendezvous(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables by which torch.distributed finds the other ranks; empty for one rank alone.

    torchrun's own come first, then Slurm's: of srun's tasks the first one's machine is where they meet, at a port
    that follows from the number of the job. MASTER_ADDR and MASTER_PORT, where set, win.

    Raises:
        SanaError: neither is complete; says what to set.
    """
    if "RANK" in environ or "WORLD_SIZE" in environ:
        found = {name: environ[name] for name in _TORCHRUN if environ.get(name)}
    elif "SLURM_PROCID" in environ:
        found = _of_slurm(environ)
    else:
        raise SanaError(f"train-worker is one rank of a training, and nothing says which: {HOW}")
    if missing := [name for name in _TORCHRUN if name not in found]:
        if found.get("WORLD_SIZE") == "1" and "RANK" in found:
            return {}
        raise SanaError(f"train-worker: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: {HOW}")
    rank, num_ranks = _number(found, "RANK"), _number(found, "WORLD_SIZE")
    if rank >= num_ranks:
        raise SanaError(f"train-worker: RANK is {rank} and WORLD_SIZE {num_ranks}; ranks go from 0 to {num_ranks - 1}")
    if num_ranks == 1:
        return {}
    _number(found, "MASTER_PORT")
    found.setdefault("LOCAL_RANK", environ.get("LOCAL_RANK", "0"))
    found.setdefault("LOCAL_WORLD_SIZE", environ.get("LOCAL_WORLD_SIZE", "1"))
    return found


def enter(found: Mapping[str, str], environ: MutableMapping[str, str]) -> None:
    """Set what `rendezvous` found for torch and accelerate, which read it from the environment.

    For one rank alone nothing of it stays, as torchrun names it, too: accelerate would wrap the model for others.
    """
    for name in (*_TORCHRUN, "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        if not found:
            environ.pop(name, None)
    environ.update(found)


def _number(found: Mapping[str, str], name: str) -> int:
    if not found[name].isdigit():
        raise SanaError(f"train-worker: {name} is {found[name]!r}; a whole number is needed: {HOW}")
    return int(found[name])


def _of_slurm(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the same from the variables that srun sets for each task."""
    found = {"RANK": environ["SLURM_PROCID"], "LOCAL_RANK": environ.get("SLURM_LOCALID", "0")}
    if "SLURM_NTASKS" in environ:
        found["WORLD_SIZE"] = environ["SLURM_NTASKS"]
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE", "1")
    found["LOCAL_WORLD_SIZE"] = str(_tasks_on_node(tasks, int(environ.get("SLURM_NODEID", "0"))))
    if address := environ.get("MASTER_ADDR") or first_node(nodes):
        found["MASTER_ADDR"] = address
    if port := environ.get("MASTER_PORT"):
        found["MASTER_PORT"] = port
    elif (job := environ.get("SLURM_JOB_ID", "")).isdigit():
        step = environ.get("SLURM_STEP_ID", "0")
        number = int(job) * 7 + (int(step) if step.isdigit() else 0)  # steps of a job may run side by side
        found["MASTER_PORT"] = str(_FIRST_PORT + number % _NUM_PORTS)
    return found


def first_node(nodes: str) -> str:
    """Return the first name of a list as Slurm writes it: `gpu[07-09,12],cpu1` is gpu07 and so on."""
    found = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def _tasks_on_node(tasks: str, node: int) -> int:
    """Return the tasks of one node of a list as Slurm writes it: `8(x2),4` is 8, 8, 4."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", tasks):
        counts += [int(count)] * int(times or 1)
    return counts[node] if node < len(counts) else 1
