"""Threads of processes that share the CPUs of a container, and of the container itself."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from containers import run_in_container
from thread_pools import FAKE_CORES, SCRIPT

from catalog import threads
from components.params import TrainParams
from pipelines import nodes, processes


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """OMP_NUM_THREADS of the commands that are started; they do nothing, on a machine with 8 CPUs."""
    numbers: list[str] = []

    def run(command: list[str], env: dict[str, str], check: bool) -> Any:
        numbers.append(env["OMP_NUM_THREADS"])
        return subprocess.CompletedProcess(command, 0)

    class Process:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            run(command, env, check=False)

        def __enter__(self) -> Any:
            return SimpleNamespace(wait=lambda _: 0, terminate=lambda: None)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "available_cpus", lambda: 8)
    monkeypatch.setattr(processes, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(nodes, "subprocess", SimpleNamespace(Popen=Process))
    return numbers


def test_the_processes_of_a_pod_share_its_cpus(shares: list[str], tmp_path: Path) -> None:
    processes.train_on_gpus(tmp_path, TrainParams(), tmp_path / "model", processes=2)
    assert shares == ["4"]


def test_the_processes_of_a_node_share_its_cpus(
    shares: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes.signal, "signal", lambda *_: None)
    assert nodes.run_node(tmp_path) == 0
    monkeypatch.setenv("PET_NPROC_PER_NODE", "4")
    assert nodes.run_node(tmp_path) == 0
    assert shares == ["8", "2"]


@pytest.mark.docker
@pytest.mark.parametrize(("cpus", "count"), [(1, 1), (1.5, 2), (2, 2)])
def test_all_pools_follow_the_quota_of_a_container(image: str, cpus: float, count: int) -> None:
    words = ["python", "-c", FAKE_CORES + SCRIPT]
    output = run_in_container(image, words, nano_cpus=int(cpus * 1e9), read_only=True)
    pools = json.loads(output)
    assert {"ours", "pyarrow", "torch", "faiss"} < pools.keys()
    assert pools == dict.fromkeys(pools, count)


@pytest.mark.docker
def test_a_number_of_the_user_wins_in_a_container(image: str) -> None:
    words = ["python", "-c", FAKE_CORES + SCRIPT]
    output = run_in_container(
        image, words, environment={"OMP_NUM_THREADS": "1"}, nano_cpus=int(2e9), read_only=True
    )
    pools = json.loads(output)
    assert pools == dict.fromkeys(pools, 1)
