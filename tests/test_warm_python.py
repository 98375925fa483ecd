"""Processes of the warm Python are as those of a new interpreter."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm_python

pytestmark = pytest.mark.slow

REPORT = "import fusion, os, sys, torch; print(fusion.__file__, os.getcwd(), os.environ['SHOP'], sys.argv)"


@pytest.mark.parametrize(
    ("program", "code"),
    [("pass", 0), ("raise SystemExit(3)", 3), ("1 / 0", 1), ("import os; os.abort()", -signal.SIGABRT)],
)
def test_a_process_ends_with_the_code_of_its_program(program: str, code: int) -> None:
    process = warm_python.start(["-c", program])
    process.join()
    assert process.exitcode == code and not process.is_alive()


def test_a_process_has_the_modules_of_its_folder(launcher: Path, tmp_path: Path) -> None:
    """And its environment, arguments and hooks; libraries are those that the server has imported."""
    (tmp_path / "fusion").mkdir()
    (tmp_path / "fusion" / "__init__.py").touch()
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text("print('hook')")
    (tmp_path / "report.py").write_text(REPORT)
    environment = os.environ | {"SHOP": "mugs", "PYTHONPATH": str(tmp_path / "hook")}
    outputs = [
        subprocess.run(
            [python, "report.py", "a"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for python in (launcher, sys.executable)
    ]
    assert (
        outputs[0]
        == outputs[1]
        == f"hook\n{tmp_path}/fusion/__init__.py {tmp_path} mugs ['report.py', 'a']\n"
    )


def test_a_process_ends_with_its_launcher(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "wait.py").write_text("import os, time; print(os.getpid(), flush=True); time.sleep(60)")
    command = [launcher, "wait.py"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
    end = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < end, "the process still runs"
        time.sleep(0.01)
