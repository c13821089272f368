"""What a check runs in a process of its own, as it may crash, hang or take long to import: JSON on stdout.

python -m flows.doctor.probe torch|decoder|prefect
"""

import base64
import os
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flows.doctor.facts import DecoderFacts, PrefectFacts, ProbeFacts, TorchFacts

# an mp4 of two h264 frames of 32 x 32 pixels, the left half red (208, 48, 48) and the right half blue (48, 48, 208)
_VIDEO = (
    "eNqNVE2IHEUUrtlVE8SDh4AeNlpu1tvOTHfP7GQzUJC4BAeyggguIkJbU1W93Zmqrp6qmr+cQk4LgkcPXnIWBE/iSUggIHjx6oIHvYR40WtcSMZX"
    "PbvZziQRi6p6r95736tX771uhBBO3KzIrFYIrSBPYUV0zEJVtEOE0NnECAG624pTB5S/8vJ8/vlvV//88f5h74evNn/Fhxf++nsaddq4jpk2AoedLWB7"
    "DRA1P/jw6vv1Nr6ytwM6LhgodnQxkyJxOAqCVj0KIm+dOld0m83JZNIYZ1xoSfOGNvtN77eROiXBRhcu07ntYkb7lJEQG5GQsIO56EvNBiTsBt0A05zK"
    "mRUkmLa6wTRstbASZKRSbEd94MIAF3YGYNhjw0nYCAAFG1bZVPC49AmQ2NB8X5CojVlqtKKxx2JnhJSZJRHenm5z5kDEhooEEAPlN3QOgHAzDHFCrYsL"
    "O8gKb7FwMCxinSRWOFKPsEsNICxopdYDmsIhPpVZmTFxKghwbso7WKao83FkuRNGUjACeV+ODJ3FTKuCOjgzSJIzNMvBBRga6m0SQ5XwriYi209dAU8Y"
    "iBmoSbQVHLOxynKyjS0TuWAjR9oBLvE+KUbYFNCGxU8CJh1/JswkWPUhMz4wOJAWpBMPfTgkaIDNsPB+S0qnpHMJGOtEQdo4KyDNUFSoAtxFh1BCXw90"
    "E/rubXFw68z88U/6/id3Dy5f/BJ9f307+2Xv1s3g0eHP40v/+Na88vX5g8n88SZCq+tK6zHIpBqnHD01Vh/AdoRqyM/TUXvaavl8Gf3nWIG5C7kZAP+Z"
    "G5R3rj7H29EzyP9zLz5eCG0I7izQNSGtqyCOTrG1e4pn1CMUX3679/Y6+vheeainXJoTjf/MqpZ7/rPr0ZxL4W1q8CPIE2DOjVXptBrmBl/o1jh0RiWo"
    "10ZG4gVfa1rXl8B/Z53lFZvb/t/yglT4R2PUA9p7ocXyeHM+h30LvO7UOHp1/gd6Yx/ot7vr197zJVnxG35rY/dCDZ1JH+y8dG39zqOHDz30HHTtcU4/"
    "+v3EnXVlvk8uB/jZ0haeUZX7tQYytiRbqehuLPXLFz5FC19MV3ABrP6IO1/DT5UoqR/vVOsFNTa0KGT17fVs0RTvfuO0d3geftH0JGu7dJx0okYIM4j+"
    "BX0hTjc="
)
_SIZE = 32


def torch_facts() -> TorchFacts:
    """Return the version of torch, what it was built for, and the devices that it can use."""
    import torch

    built = TorchFacts(str(torch.__version__), torch.version.cuda or torch.version.hip)
    try:
        num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not num_devices and torch.version.cuda:
            torch.cuda.init()  # raises with the reason
        works = num_devices > 0 and float((torch.ones(8, device="cuda") * 2).sum()) == 16.0
    except (RuntimeError, AssertionError) as error:
        return replace(built, error=" ".join(str(error).split()))
    return replace(built, num_devices=num_devices, works=works)


def decoder_facts() -> DecoderFacts:
    """Decode the second frame of a real video as the pipeline does; returns its colours and the libraries' versions."""
    from importlib.metadata import version

    from sana.data.video.frames import read_frames

    with tempfile.TemporaryDirectory(prefix="sana-doctor-") as folder:
        path = Path(folder) / "two-frames.mp4"
        path.write_bytes(zlib.decompress(base64.b64decode(_VIDEO)))
        frame = read_frames(path, [1], height=_SIZE, width=_SIZE)[0]
    halves = (frame[8:24, 4:12], frame[8:24, 20:28])  # away from edges, which a codec blurs
    colours = tuple(tuple(round(float(value)) for value in half.reshape(-1, 3).mean(axis=0)) for half in halves)
    return DecoderFacts(colours, version("av"), version("decord2"))


def prefect_facts() -> PrefectFacts:
    """Ask Prefect's server as `sana run` does; there is no trouble if it can be used."""
    with tempfile.TemporaryDirectory(prefix="sana-doctor-") as home:
        if not Path("~/.prefect/profiles.toml").expanduser().exists():
            os.environ.setdefault("PREFECT_HOME", home)  # importing it makes files there
        from flows.environment import importing_prefect
        from sana.errors import SanaError
        from sana.wording import without_password

        try:
            with importing_prefect():
                from prefect.settings import PREFECT_API_URL

                from flows.server_check import check_server, origin

                check_server()  # its settings are first looked at where one is asked for
                return PrefectFacts(url=without_password(str(PREFECT_API_URL.value())), origin=origin())
        except SanaError as error:
            return PrefectFacts(trouble=str(error))


PROBES: dict[str, Callable[[], ProbeFacts]] = {
    TorchFacts.PROBE: torch_facts,
    DecoderFacts.PROBE: decoder_facts,
    PrefectFacts.PROBE: prefect_facts,
}


def main() -> None:
    """Print the facts of the probe that is named."""
    sys.stdout.write(PROBES[sys.argv[1]]().to_json(indent=None).decode())


if __name__ == "__main__":
    main()
