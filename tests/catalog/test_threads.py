import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from thread_pools import FAKE_CORES, SCRIPT

from catalog import threads
from catalog.threads import available_cpus, cpu_count, limit_threads, share_threads

ROOT = Path(__file__).parents[2]
PACKAGES = (
    "catalog", "components", "eval", "fusion", "pipelines", "registry", "scoring", "serving", "validation",
)  # fmt: skip
Machine = Callable[..., Path]

# What a container with a quota of 2.5 CPUs, or a process of a group with it, has below /sys/fs/cgroup.
VERSION_2 = {"cpu.max": "250000 100000\n"}
VERSION_1 = {"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}
UNLIMITED = {"cpu.max": "max 100000\n", "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}
IN_1, IN_2 = "5:memory:/other\n4:cpu,cpuacct:{}\n0::/\n", "0::{}\n"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Fake a machine: machine(group lines, files below /sys/fs/cgroup, cores, affinity); OMP_NUM_THREADS is not set."""

    def fake(group: str = "", files: dict[str, str] | None = None, cores: int = 64, cpus: int = 64) -> Path:
        (tmp_path / "cgroup").write_text(group)
        for name, content in (files or {}).items():
            path = tmp_path / "fs" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        monkeypatch.setattr(threads, "MEMBERSHIP", tmp_path / "cgroup")
        monkeypatch.setattr(threads, "CGROUPS", tmp_path / "fs")
        monkeypatch.setattr(threads, "TOPOLOGY", tmp_path / "cpu")
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
        for name in (threads.VARIABLE, *threads.WAITING_VARIABLES):
            monkeypatch.delenv(name, raising=False)
        return tmp_path

    return fake


def below(folder: str, files: dict[str, str]) -> dict[str, str]:
    """The files of a group in another folder of its tree."""
    return {str(Path(name).parent / folder / Path(name).name): content for name, content in files.items()}


@pytest.mark.parametrize(
    ("group", "files", "count"),
    [
        (IN_2.format("/"), VERSION_2, 3),
        (IN_1.format("/"), VERSION_1, 3),
        (IN_1.format("/docker/f00d"), VERSION_1, 3),  # the container's group is mounted as the root
        (IN_2.format("/user.slice/shell"), below("user.slice", VERSION_2), 3),  # of the parent
        (IN_1.format("/pods/train"), VERSION_1 | below("pods", {"cpu/cpu.cfs_quota_us": "100000"} | {
            "cpu/cpu.cfs_period_us": "100000"}), 1),
        (IN_2.format("/pods/train"), UNLIMITED | below("pods/train", VERSION_2), 3),
        (IN_2.format("/"), {"cpu.max": "10000 100000"}, 1),  # a tenth of a CPU
        (IN_2.format("/"), {"cpu.max": "9900000 100000"}, 64),  # more than there are
        (IN_2.format("/"), UNLIMITED, 64),
        (IN_1.format("/"), UNLIMITED, 64),
        ("", {}, 64),
    ],
)  # fmt: skip
def test_the_quota_of_a_control_group_limits(
    machine: Machine, group: str, files: dict[str, str], count: int
) -> None:
    machine(group, files)
    assert available_cpus() == count


def test_the_affinity_limits(machine: Machine) -> None:
    machine(cpus=5)
    assert available_cpus() == 5
    machine(IN_2.format("/"), VERSION_2, cpus=2)
    assert available_cpus() == 2


def test_without_a_limit_physical_cores_count(machine: Machine) -> None:
    """CPUs 0 and 2, and 1 and 3, share a core; the cores of 4 and 5 are not known."""
    topology = machine(cores=6, cpus=6) / "cpu"
    for cpu in range(4):
        file = topology / f"cpu{cpu}" / "topology" / "thread_siblings_list"
        file.parent.mkdir(parents=True)
        file.write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    assert available_cpus() == 4
    machine(IN_2.format("/"), {"cpu.max": "500000 100000"}, cores=6, cpus=6)
    assert available_cpus() == 5


@pytest.mark.parametrize(
    ("value", "count"),
    [("3", 3), (" 5 ", 5), ("7,2", 7), ("100", 100), ("", 2), ("0", 2), ("-1", 2), ("many", 2)],
)
def test_a_number_of_the_user_wins(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str, count: int
) -> None:
    machine(IN_2.format("/"), {"cpu.max": "200000 100000"})
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert cpu_count() == limit_threads() == count
    assert os.environ["OMP_NUM_THREADS"] == (value if count != 2 else "2")


@pytest.mark.parametrize("name", threads.WAITING_VARIABLES)
def test_a_way_of_waiting_of_the_user_wins(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    machine()
    monkeypatch.setattr(threads, "_limit_loaded_libraries", lambda _: None)
    limit_threads()
    assert os.environ["GOMP_SPINCOUNT"] == threads.SPINS and "OMP_WAIT_POLICY" not in os.environ
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv(name, "7")
    limit_threads()
    assert {key: os.environ.get(key) for key in threads.WAITING_VARIABLES} == dict.fromkeys(
        threads.WAITING_VARIABLES
    ) | {name: "7"}


@pytest.mark.parametrize(
    ("value", "processes", "share"),
    [(None, 2, "4"), ("8", 3, "2"), ("8", 16, "1"), ("6", 2, "6"), ("1", 2, "1")],
)
def test_processes_share_the_cpus(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, value: str | None, processes: int, share: str
) -> None:
    """8 is also what `limit_threads` sets; any other number is the user's."""
    machine(cores=8, cpus=8)
    if value:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert share_threads(processes) == {**os.environ, "OMP_NUM_THREADS": share}


FAKE_GROUP = """
from pathlib import Path
from catalog import threads
threads.MEMBERSHIP, threads.CGROUPS = Path({folder!r}) / "cgroup", Path({folder!r}) / "fs"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("group", "quota", "words", "variables", "count"),
    [
        (IN_2, "cpu.max", [], {}, 2),
        (IN_1, "cpu/cpu.cfs_quota_us", [], {}, 1),
        (IN_2, "cpu.max", ["late"], {}, 1),
        (IN_2, "cpu.max", [], {"OMP_NUM_THREADS": "1"}, 1),
    ],
    ids=["version 2", "version 1", "libraries that are loaded already", "a number of the user"],
)
def test_all_pools_follow_the_quota_on_64_cores(
    machine: Machine, group: str, quota: str, words: list[str], variables: dict[str, str], count: int
) -> None:
    limit = f"{(2 if variables else count) * 100_000}"
    files = {"cpu.max": f"{limit} 100000"}
    if quota != "cpu.max":
        files = {quota: limit, "cpu/cpu.cfs_period_us": "100000"}
    folder = machine(group.format("/"), files)
    (folder / "sitecustomize.py").write_text(FAKE_CORES + FAKE_GROUP.format(folder=str(folder)))
    pools = run_pools({**os.environ, **variables, "PYTHONPATH": f"{folder}:{ROOT}"}, words)
    assert {"ours", "pyarrow", "torch", "faiss"} < pools.keys() and len(pools) > 6
    assert pools == dict.fromkeys(pools, count)


def run_pools(environment: dict[str, str], words: list[str]) -> dict[str, int]:
    command = [sys.executable, "-c", SCRIPT, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pools: dict[str, int] = json.loads(done.stdout)
    return pools


@pytest.mark.parametrize(
    "package", ["catalog", "components", "fusion", "pipelines", "registry", "serving.demo"]
)
def test_a_command_limits_its_threads_first(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(f"{package}.__main__")

    class LimitError(Exception):
        pass

    def stop() -> None:
        raise LimitError

    monkeypatch.setattr(module, "limit_threads", stop)
    monkeypatch.setattr(sys, "argv", [package])
    with pytest.raises(LimitError):
        module.main()


def test_commands_do_not_import_pytorch_before_they_limit_its_threads() -> None:
    script = "import sys, {0}.__main__; sys.exit('torch' in sys.modules)"
    for package in ("catalog", "components", "fusion", "pipelines", "registry", "serving.demo"):
        command = [sys.executable, "-c", script.format(package)]
        assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0, package


def test_every_pool_has_a_number_and_none_counts_cores_itself() -> None:
    pools, counts = [], []
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                name = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("PoolExecutor"):
                    pools.append((name, bool(node.args)))
                if isinstance(node, ast.Attribute) and is_core_count(node) and path.name != "threads.py":
                    counts.append(name)
    assert len(pools) > 5 and not [name for name, has_number in pools if not has_number]
    assert not counts, f"use catalog.threads.cpu_count: {counts}"


def is_core_count(node: Any) -> bool:
    return ast.unparse(node) in {"os.cpu_count", "os.sched_getaffinity", "multiprocessing.cpu_count"}


def test_the_image_sets_the_same_waiting() -> None:
    assert f"{threads.SPIN_VARIABLE}={threads.SPINS}\n" in (ROOT / "Dockerfile").read_text()
