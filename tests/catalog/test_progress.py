"""Progress on a terminal and in a log."""

import ast
import os
import pty
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

from catalog import progress
from catalog.progress import show_progress
from pipelines.code_deps import PACKAGES

ROOT = Path(__file__).parents[2]
FOLDERS = (*PACKAGES, "pipelines", "bench", "examples", "plugins")
WORK = "import time; from catalog import progress; progress.PAUSE = progress.INTERVAL = 0.01\n"
WORK += "for _ in progress.show_progress(range(30), 'work', unit='row'): time.sleep(0.01)"


class Clock:
    """Seconds since 1970, as tqdm reads them."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Log:
    """The lines of a run under a clock."""

    def __init__(self, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        self.clock, self.capsys = clock, capsys

    def work(self, bar: progress.Progress, seconds: float, count: int) -> str:
        """Take some time, then finish some items; returns what is printed."""
        self.clock.now += seconds
        bar.update(count)
        return self.read()

    def read(self) -> str:
        return self.capsys.readouterr().err


def progress_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == progress.THREAD}


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Log:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return Log(clock, capsys)


def test_ten_percent_give_a_line_but_not_within_ten_seconds(log: Log) -> None:
    with show_progress(desc="featurize", total=10_000, unit="row") as bar:
        assert log.work(bar, 5, 2_000) == ""
        assert log.work(bar, 5, 1) == "featurize: 2,001 of 10,000 (20 %) in 00:10, 200.1 row/s\n"
        assert log.work(bar, 11, 500) == ""
        assert log.work(bar, 4, 500) == "featurize: 3,001 of 10,000 (30 %) in 00:25, 120.0 row/s\n"


def test_thirty_seconds_give_a_line(log: Log) -> None:
    with show_progress(desc="import", unit="row") as bar:
        assert log.work(bar, 29, 1_500) == ""
        assert log.work(bar, 1, 30) == "import: 1,530 in 00:30, 51.0 row/s\n"
        assert log.work(bar, 29, 10) == ""
        assert log.work(bar, 1, 2) == "import: 1,542 in 01:00, 25.7 row/s\n"


def test_a_resumed_run_counts_from_its_start(log: Log) -> None:
    with show_progress(desc="train", total=100, initial=80, unit="step") as bar:
        bar.set_postfix({"loss": "0.125"}, refresh=False)
        assert log.work(bar, 10, 2) == ""
        assert log.work(bar, 5, 10) == "train: 92 of 100 (92 %) in 00:15, 0.8 step/s, loss=0.125\n"


def test_short_work_prints_nothing(log: Log) -> None:
    for _ in show_progress(range(4), "queries"):
        log.clock.now += 2
    assert log.read() == ""


def test_the_last_line_has_the_total_time(log: Log) -> None:
    for item in show_progress("abc", "pictures", unit="picture"):
        log.clock.now += 15 if item == "a" else 1
    first = "pictures: 1 of 3 (33 %) in 00:15, 0.1 picture/s\n"
    assert log.read() == first + "pictures: 3 of 3 (100 %) in 00:17, 0.2 picture/s\n"


def test_the_last_line_is_not_repeated(log: Log) -> None:
    with show_progress(total=1, desc="index") as bar:
        assert log.work(bar, 12, 1).count("\n") == 1
    assert log.read() == ""


def test_failed_work_ends_with_a_line(log: Log) -> None:
    with pytest.raises(ZeroDivisionError), show_progress(desc="rerank", total=8, unit="pair") as bar:
        log.work(bar, 12, 0)
        raise ZeroDivisionError
    assert log.read() == "rerank: 0 of 8 (0 %) in 00:12, 0.0 pair/s\n"


def test_a_line_can_have_another_content(log: Log) -> None:
    with show_progress(bar_format="{desc} {elapsed}") as bar:
        log.clock.now += 90
        bar.set_description_str("running")
        assert log.read() == "running 01:30\n"


def test_a_disabled_bar_prints_nothing_and_starts_no_thread(log: Log) -> None:
    before = progress_threads()
    with show_progress(total=5, disable=True) as bar:
        assert log.work(bar, 90, 1) == "" and progress_threads() <= before
    assert log.read() == ""


def test_items_pass_through() -> None:
    assert list(show_progress(iter("abc"), "letters")) == ["a", "b", "c"]


def test_work_that_waits_prints_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = threading.Event()

    class Stream:
        def write(self, text: str) -> None:
            printed.set()

        def flush(self) -> None:
            pass

        def isatty(self) -> bool:
            return False

    monkeypatch.setattr(sys, "stderr", Stream())
    monkeypatch.setattr(progress, "PAUSE", 0.001)
    monkeypatch.setattr(progress, "INTERVAL", 0.001)
    with show_progress(total=10, desc="train"):
        assert printed.wait(10)


def test_abandoned_work_stops_printing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PAUSE", 0.001)
    before = progress_threads()
    bar = show_progress(range(10), "queries")
    (thread,) = progress_threads() - before
    del bar
    thread.join(10)
    assert not thread.is_alive()


def test_a_log_has_no_carriage_returns() -> None:
    done = subprocess.run([sys.executable, "-c", WORK], cwd=ROOT, capture_output=True, check=True)
    assert b"work: 30 of 30 (100 %)" in done.stderr and b"\r" not in done.stderr


def test_a_terminal_has_a_bar() -> None:
    terminal, stderr = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    try:
        subprocess.run([sys.executable, "-c", WORK], cwd=ROOT, stderr=stderr, check=True)
        shown = os.read(terminal, 10_000)
    finally:
        os.close(terminal)
        os.close(stderr)
    assert b"\rwork: 100%|" in shown


def test_no_other_module_uses_bars() -> None:
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    users = {
        path.relative_to(ROOT).as_posix()
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "tqdm"
    }
    # status.py prints a line at each change of a run's state
    assert users - {"pipelines/status.py"} == {"catalog/progress.py"}
