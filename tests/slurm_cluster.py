"""A real Slurm cluster of two nodes on this machine: munge, a controller and two node daemons, on loopback only.

Debian's package `slurm-wlm` has the programs; the daemons run as root, as node daemons do everywhere.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
NODES = ("node1", "node2")
_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SlurmdTimeout=10
SchedulerParameters=sched_interval=2,bf_interval=5
KillWait=30
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=1 State=UNKNOWN
PartitionName=train Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass
class SlurmCluster:
    """The daemons by name, and the commands of a user."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str, cwd: Path | None = None) -> str:
        done = subprocess.run(command, env=self.env, cwd=cwd, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def sbatch(self, script: Path, *options: str, cwd: Path, **variables: str) -> int:
        """Submit a batch script in a folder, with these variables in its environment; returns the number of the job."""
        exported = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
        return int(self.call("sbatch", "--parsable", f"--export={exported}", *options, str(script), cwd=cwd))

    def job(self, number: int) -> dict[str, str]:
        """What Slurm knows of a job: JobState, Restarts, ExitCode ..."""
        words = self.call("scontrol", "show", "job", str(number), "--oneliner").split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait_for(self, number: int, *states: str, timeout_s: float) -> dict[str, str]:
        """Wait until a job is in one of these states."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(number))["JobState"] not in states:
            assert time.monotonic() < deadline, f"job {number} is {job}, not {states}"
            time.sleep(0.5)
        return job

    def wait_until_idle(self, *, timeout_s: float = 60) -> None:
        """Wait until both nodes are up and nothing runs on them."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=self.env, capture_output=True, text=True)
            if found.stdout.split() == ["idle", "2"]:
                return
            assert time.monotonic() < deadline, found.stdout + found.stderr
            time.sleep(0.3)

    def make_idle(self) -> None:
        """Have both nodes up with nothing on them, whatever a test left."""
        self.call("scancel", "--user=root", "--signal=KILL")
        for name in NODES:
            if name not in self.daemons:
                self.start_node(name)
        self.wait_until_idle()

    def wait_for_node(self, name: str, state: str, *, timeout_s: float = 60) -> None:
        """Wait until Slurm says a node is in this state."""
        deadline = time.monotonic() + timeout_s
        while not (found := self.call("sinfo", "-h", "-n", name, "-o", "%T").strip()).startswith(state):
            assert time.monotonic() < deadline, f"{name} is {found}, not {state}"
            time.sleep(0.5)

    def start_node(self, name: str) -> None:
        self.daemons[name] = self._start("slurmd", "-D", "-f", str(self.folder / "slurm.conf"), "-N", name)

    def crash_node(self, name: str) -> None:
        """Kill all that runs on a node at once, as a power cut does: its daemon, step managers and tasks."""
        tasks = [process for process in psutil.process_iter() if _variable(process, "SLURMD_NODENAME") == name]
        managers = {parent for task in tasks for parent in task.parents() if parent.name() == "slurmstepd"}
        assert tasks and managers, f"nothing runs on {name}"
        daemon = self.daemons.pop(name)
        for process in [psutil.Process(daemon.pid), *managers, *tasks]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        daemon.wait(10)

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / "daemons.log").open("ab") as log:
            return subprocess.Popen(command, env=self.env, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def _variable(process: psutil.Process, name: str) -> str | None:
    try:
        return process.environ().get(name)
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return None


def missing_programs() -> list[str]:
    """The programs of Slurm that are not here; daemons need root too."""
    return [name for name in PROGRAMS if shutil.which(name) is None] + (["root"] if os.getuid() else [])


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """Start the cluster in a folder, and end it with everything that runs on it."""
    (folder / "state").mkdir(parents=True)
    munge = folder / "munge"
    munge.mkdir(mode=0o755)
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o600)
    conf = _CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, ports=_free_ports())
    (folder / "slurm.conf").write_text(conf)
    cluster = SlurmCluster(folder)
    files = [f"--{kind}-file={munge / kind}" for kind in ("key", "log", "pid", "seed")]
    try:
        cluster.daemons["munged"] = cluster._start("munged", "-F", "--force", "-S", str(munge / "socket"), *files)
        cluster.daemons["slurmctld"] = cluster._start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        for name in NODES:
            cluster.start_node(name)
        cluster.wait_until_idle()
        yield cluster
    finally:
        _end(cluster)


def _end(cluster: SlurmCluster) -> None:
    """End the jobs, then the daemons, then what is left of either: it would outlive the test."""
    subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=cluster.env, capture_output=True, timeout=30)
    with suppress(AssertionError, subprocess.TimeoutExpired):  # a node may be down
        cluster.wait_until_idle(timeout_s=5)
    for daemon in reversed(cluster.daemons.values()):
        daemon.terminate()
    for daemon in cluster.daemons.values():
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
    for process in psutil.process_iter():
        if _variable(process, "SLURM_CONF") == str(cluster.folder / "slurm.conf") or _is_manager(process, cluster):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def _is_manager(process: psutil.Process, cluster: SlurmCluster) -> bool:
    """Whether it manages a step of this cluster: in a session of its own, its title in place of its environment."""
    try:
        opened = [file.path for file in process.open_files()] if process.name() == "slurmstepd" else []
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False
    return any(path.startswith(f"{cluster.folder}/") for path in opened)


def _free_ports() -> list[int]:
    """Three ports in a row that are free now."""
    for first in range(17817, 19000, 7):
        sockets = [socket.socket() for _ in range(3)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
            return [first, first + 1, first + 2]
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no three free ports in a row")
