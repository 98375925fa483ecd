"""The examples run as their first lines say, and stay short."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import warm_python

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
LINES = 40


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.slow
def test_an_example_runs(path: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW_", "DVC_"))}
    with tempfile.TemporaryFile("w+") as log:
        process = warm_python.start([path], tmp_path, environment, log.fileno())
        process.join()
        log.seek(0)
        output = log.read()
    assert process.exitcode == 0, output[-3000:]
    assert len(output.splitlines()) >= 4
    assert not list(tmp_path.iterdir()), "an example leaves no files"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= LINES
    assert f"python examples/{path.name}" in text.split('"""')[1], "the docstring shows how to run it"


def test_a_run_of_your_own_is_judged(tmp_path: Path) -> None:
    (tmp_path / "run.trec").write_text("q1 Q0 p1 1 0.9 new\nq2 Q0 p2 1 0.5 new\n")
    (tmp_path / "baseline.trec").write_text("q1 Q0 p1 1 0.9 old\nq2 Q0 p1 1 0.5 old\n")
    (tmp_path / "qrels.trec").write_text("q1 0 p1 1\nq2 0 p2 1\n")
    files = ("run.trec", "baseline.trec", "qrels.trec")
    command = [sys.executable, EXAMPLES[0].with_name("judge_a_run.py"), *files]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "mrr@10       1.0000   baseline 0.5000" in output
