"""The judge by itself: its wheel in an environment that holds nothing else of Vitrine."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LARGEST = 300e6  # bytes on disk, with NumPy and pyarrow

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("uv"), reason="needs uv")]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment with the wheel of the judge and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    built = shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    shutil.copytree(ROOT / "eval", folder / "source", ignore=built)
    run("uv", "build", "--wheel", "--out-dir", folder, folder / "source")
    (wheel,) = folder.glob("vitrine_judge-*.whl")
    run("uv", "venv", folder / "bare")
    python = folder / "bare" / "bin" / "python"
    # Copies, not links into uv's cache: its size is that of a new machine.
    pins = ROOT / "requirements.lock"
    run("uv", "pip", "install", "--link-mode", "copy", "--python", python, "--constraints", pins, wheel)
    yield folder / "bare"


def run(*words: str | Path, cwd: Path = ROOT) -> str:
    """The output of a command that knows nothing of the environment of these tests."""
    unset = ("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    result = subprocess.run(words, check=False, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_scores_a_run(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "run.txt").write_text("q Q0 a 1 2 x\nq Q0 b 2 1 x\n")
    (tmp_path / "qrels.txt").write_text("q 0 b 1\n")
    command = environment / "bin" / "vitrine-judge"
    words = ("score", "run.txt", "qrels.txt", "--metrics", "mrr", "--json")
    assert json.loads(run(command, *words, cwd=tmp_path))["means"] == {"mrr": 0.5}


def test_it_brings_numpy_and_pyarrow_alone(environment: Path) -> None:
    packages = json.loads(
        run("uv", "pip", "list", "--format", "json", "--python", environment / "bin" / "python")
    )
    assert {package["name"] for package in packages} == {"vitrine-judge", "numpy", "pyarrow"}


def test_it_is_typed_and_carries_its_pages(environment: Path) -> None:
    (package,) = environment.glob("lib/python*/site-packages/vitrine_judge")
    source = ROOT / "eval" / "vitrine_judge"
    suffixes = {".py", ".css", ".jinja", ".typed"}
    expected = {path.name for path in source.iterdir() if path.suffix in suffixes or path.name == "py.typed"}
    assert "py.typed" in expected
    assert {path.name for path in package.iterdir() if path.is_file()} == expected


def test_it_is_light(environment: Path) -> None:
    size = sum(
        path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink()
    )
    python = environment / "bin" / "python"
    run(python, "-c", "import vitrine_judge.metrics")  # compiled
    began = time.perf_counter()
    run(python, "-c", "import vitrine_judge.metrics")
    print(f"{size / 1e6:.0f} MB; import {time.perf_counter() - began:.2f} s")  # `pytest -s` shows it
    assert size < LARGEST
