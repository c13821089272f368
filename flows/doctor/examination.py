"""All checks of `sana doctor`, in the order in which they are shown."""

from collections.abc import Sequence
from functools import partial

from flows.doctor import credentials, machine, places, services
from flows.doctor.finding import Check, Finding, ok
from flows.doctor.subject import Subject

QUICK_S, NETWORK_S, STORE_S = 10.0, 12.0, 30.0
_HUNG = "a file system hangs there: is it a mount of a server that is away?"


def checks_of(subject: Subject, config: Finding | None = None) -> Sequence[Check]:
    """Return the checks; `config` is what was found in reading the config, if one was named."""
    first = [] if config is None else [Check("config", lambda: config, QUICK_S)]
    late_gpu = "nvidia-smi and torch hang: reload the driver, or restart the machine"
    return [
        *first,
        Check("python", machine.check_python, QUICK_S),
        Check("packages", machine.check_packages, QUICK_S),
        Check("gpu", partial(machine.check_gpu, subject.device), 60.0, "fail", late_gpu),
        Check("decoder", machine.check_decoder, machine.DECODER_LIMIT_S + 5),
        Check("memory", machine.check_memory, QUICK_S),
        Check("limits", machine.check_limits, QUICK_S),
        Check("work_dir", partial(places.check_work_dir, subject), QUICK_S, "fail", _HUNG),
        Check("root", partial(places.check_root, subject), STORE_S, "fail", f"{_HUNG} Of S3: check AWS_ENDPOINT_URL"),
        Check("s3 keys", partial(credentials.check_s3, subject), QUICK_S),
        Check("hub", partial(credentials.check_hub, subject), NETWORK_S, "warn", "check the network and HF_ENDPOINT"),
        Check("ports", services.check_ports, QUICK_S),
        Check("prefect", services.check_prefect, services.PREFECT_LIMIT_S + 5),
        Check("mlflow", partial(services.check_mlflow, subject), NETWORK_S),
        Check("clock", partial(services.check_clock, subject), NETWORK_S, "ok", ""),
    ]


def valid(name: str) -> Finding:
    """Return what is said of a config that could be read."""
    return ok(f"{name} is valid")
