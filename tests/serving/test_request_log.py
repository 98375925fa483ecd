"""The log of requests: what is written is read, whatever is killed, and texts that are personal stay out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.request_log import COLUMNS, EVENTS, SEARCHES, LogFile, LogFolder, read_rows, split_replaced
from catalog.schema import DataError
from registry import local_stack
from serving import log_files, request_log
from serving.log_files import clean_log, file_path, write_table
from serving.params import LogParams
from serving.request_log import Event, RequestLog, Result, Search, read_events, read_searches

NOON = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
KEY = "a secret of some length"
SEARCH = Search(
    request_id="a1",
    time=NOON,
    session="s1",
    text="Red shoe",
    has_picture=False,
    filters="{}",
    k=10,
    version="3",
    index="f00",
    results=[Result("p1", 0.5, "3"), Result("p2", 0.25, "3")],
    latency_ms=12.5,
    status=200,
    unknown_tokens=0.5,
)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITRINE_LOG_KEY", KEY)


@pytest.fixture
def address() -> Iterator[str]:
    """A folder in fsspec's memory."""
    yield (address := f"memory://{uuid4().hex}")
    LogFolder.open(address).files.store.clear()


def write_log(address: str, entries: list[Any], **params: Any) -> RequestLog:
    with RequestLog(LogParams(folder=address, retention_days=36_500, **params)) as log:
        for entry in entries:
            log.add(entry)
    return log


def rows_of(address: str) -> list[dict[str, Any]]:
    return read_searches(address).to_pylist()


# a share of float32, as it comes back
shares = st.integers(0, 64).map(lambda number: number / 64)
result_lists = st.lists(st.builds(Result, st.text(max_size=5), shares, st.sampled_from("123")), max_size=4)
searches = st.builds(
    Search,
    request_id=st.uuids().map(lambda value: value.hex),
    time=st.datetimes(datetime(2026, 11, 27), datetime(2026, 11, 29), timezones=st.just(UTC)),
    session=st.none() | st.text(st.characters(), max_size=5),
    text=st.none() | st.text(st.characters(), max_size=20),
    has_picture=st.booleans(),
    filters=st.just("{}"),
    k=st.integers(1, 1000),
    version=st.sampled_from("123"),
    index=st.just("f00"),
    results=result_lists,
    latency_ms=st.integers(0, 5000).map(float),
    status=st.sampled_from([200, 400, 500]),
    unknown_tokens=st.none() | shares,
    experiment=st.none() | st.just("shadow"),
    arm=st.none() | st.just("shadow"),
    champion=st.none() | st.just("1"),
    challenger=st.none() | st.just("2"),
    shadow_results=st.none() | result_lists,
    shadow_ms=st.none() | shares,
)


@settings(max_examples=25)
@given(st.lists(searches, max_size=8))
def test_what_is_logged_is_read_sorted_by_time(entries: list[Search]) -> None:
    address = f"memory://{uuid4().hex}"
    log = write_log(address, entries)
    assert (log.written, log.dropped) == (len(entries), 0)
    times = [row["time"] for row in rows_of(address)]
    assert times == sorted(times)
    rows = {row["request_id"]: row for row in rows_of(address)}
    assert rows.keys() == {entry.request_id for entry in entries}
    for entry in entries:
        row = rows[entry.request_id]
        for name in (
            "time",
            "has_picture",
            "k",
            "version",
            "index",
            "latency_ms",
            "status",
            "unknown_tokens",
            "experiment",
            "arm",
            "champion",
            "challenger",
            "shadow_ms",
        ):
            assert row[name] == getattr(entry, name)
        for name in ("results", "shadow_results"):
            values = getattr(entry, name)
            assert row[name] == (None if values is None else [value._asdict() for value in values])
        if row["withheld"] is None and entry.text is not None:
            assert row["text"] == entry.text.encode(errors="replace").decode()
        assert row["session"] is None if entry.session is None else len(row["session"]) == 32


def test_halves_of_characters_and_nan_do_not_stop_the_log(address: str) -> None:
    entries = [
        replace(SEARCH, request_id="b", text="\ud800 shoe", session="\udfff", latency_ms=float("nan")),
        replace(SEARCH, request_id="c", k="ten"),
        replace(SEARCH, request_id="d", time=None),
        replace(SEARCH, request_id="e", text="x" * 5000),
    ]
    log = write_log(address, [SEARCH, *entries], queries="text")
    assert (log.written, log.dropped) == (3, 2)
    texts = {row["request_id"]: row["text"] for row in rows_of(address)}
    assert texts == {"a1": "Red shoe", "b": "? shoe", "e": "x" * 1000}


def test_equal_queries_have_equal_hashes_and_no_text(address: str) -> None:
    texts = ["Red  shoe", "red shoe", "blue shoe"]
    entries = [replace(SEARCH, request_id=str(number), text=text) for number, text in enumerate(texts)]
    write_log(address, entries, queries="hash")
    rows = sorted(rows_of(address), key=lambda row: row["request_id"])
    hashes = [row["text_hash"] for row in rows]
    assert hashes[0] == hashes[1] != hashes[2]
    assert {(row["text"], row["withheld"], row["words"]) for row in rows} == {(None, "log.queries", 2)}
    assert {row["session"] for row in rows}.isdisjoint({"s1", *hashes})
    assert "shoe" not in str(rows).lower() and KEY not in str(rows)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("order of anna@example.com", "e-mail addresses"),
        ("call +49 171 2345678", "telephone numbers"),
        ("DE89370400440532013000", "bank accounts"),
        ("card 4111 1111 1111 1111", "payment cards"),
        ("shoe 4006381333931", None),
    ],
)
def test_personal_texts_are_withheld(
    text: str, kind: str | None, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_log(address, [replace(SEARCH, text=text, filters=f'{{"brand": ["{text}"]}}')])
    (row,) = rows_of(address)
    assert (row["withheld"], row["text"]) == (kind, None if kind else text)
    assert (row["text_hash"] is None, row["filters"] is None) == (kind is None, kind is not None)
    monkeypatch.delenv("VITRINE_LOG_KEY")
    write_log(address, [replace(SEARCH, request_id="a2", text=text)])
    assert rows_of(address)[1]["text_hash"] is None


def test_a_key_is_needed_for_hashes_and_makes_sessions_comparable(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        write_log(address, [SEARCH])
    assert len({row["session"] for row in rows_of(address)}) == 1
    monkeypatch.setenv("VITRINE_LOG_KEY", "short")
    with pytest.raises(DataError, match="VITRINE_LOG_KEY: shorter than 16 characters") as raised:
        RequestLog(LogParams(folder=address))
    assert "short;" not in str(raised.value)
    monkeypatch.delenv("VITRINE_LOG_KEY")
    write_log(address, [SEARCH])
    assert len({row["session"] for row in rows_of(address)}) == 2
    with pytest.raises(
        DataError, match=r"log\.queries is hash: set the environment variable VITRINE_LOG_KEY"
    ):
        RequestLog(LogParams(folder=address, queries="hash"))


@pytest.mark.parametrize(
    ("bad_address", "problem"),
    [("s4://bucket/log", "s4://bucket/log: Protocol not known"), ("gs://b/log", "install the extra")],
)
def test_an_unusable_address_is_an_error_at_the_start(bad_address: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        RequestLog(LogParams(folder=bad_address))


def test_without_a_folder_nothing_is_kept() -> None:
    log = write_log(None, [SEARCH])  # type: ignore[arg-type]
    assert (log.written, log.dropped) == (0, 0)


def test_entries_wait_for_a_store_that_fails_and_are_dropped_beyond_a_limit(
    address: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(request_log, "QUEUE_ENTRIES", 4)
    is_broken, write = [True], write_table

    def fail_first(log: LogFolder, path: str, rows: pa.Table) -> None:
        if is_broken[0]:
            raise DataError("no space")
        write(log, path, rows)

    monkeypatch.setattr(request_log, "write_table", fail_first)
    with RequestLog(LogParams(folder=address, flush_seconds=0.02)) as log:
        log.add(SEARCH)
        wait_until(lambda: log.failures > 0)
        for number in range(20):
            log.add(replace(SEARCH, request_id=f"b{number}"))
        wait_until(log._queue.full)
        is_broken[0] = False
    assert log.dropped == 21 - log.written and 8 >= log.written >= 5
    assert len(rows_of(address)) == log.written
    assert "log: no space; entries wait in memory" in capsys.readouterr().err
    is_broken[0] = True
    assert write_log(address, [SEARCH]).dropped == 1


def wait_until(condition: Callable[[], bool], limit: float = 30) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_writer_loses_what_it_has_not_flushed_and_no_more(tmp_path: Path) -> None:
    """Two processes write to one folder; they are killed in the middle of writing."""
    code = f"""
import sys, time
from dataclasses import replace
from datetime import UTC, datetime
from serving.params import LogParams
from serving.request_log import RequestLog, Search
log = RequestLog(LogParams(folder={str(tmp_path)!r}, flush_seconds=0.5))
for number in range(10**9):
    name = f"{{sys.argv[1]}}-{{number}}"
    log.add(Search(name, datetime.now(UTC), None, "shoe", False, "", 1, "1", "f", [], 1.0, 200))
    print(time.time(), flush=True)
    time.sleep(0.001)
"""
    root = Path(__file__).parents[2]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(root / "eval"), str(root)])}
    logs = [tmp_path / f"{name}.txt" for name in "ab"]
    writers = []
    for name, path in zip("ab", logs, strict=True):
        with path.open("w") as stream:
            writers.append(subprocess.Popen([sys.executable, "-c", code, name], stdout=stream, env=env))
    try:
        wait_until(lambda: all(path.stat().st_size > 40_000 for path in logs))
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
    killed = time.time()
    rows = rows_of(str(tmp_path))
    ids = [row["request_id"] for row in rows]
    assert len(ids) == len(set(ids))
    for name, path in zip("ab", logs, strict=True):
        numbers = sorted(int(key[2:]) for key in ids if key.startswith(name))
        assert numbers == list(range(len(numbers)))  # without gaps
        times = [float(line) for line in path.read_text().split()[:-1]]
        assert len(numbers) > 100
        lost = times[len(numbers) :]
        assert not lost or killed - lost[0] < 1.5, "half a second, and what a busy machine needs"


def make_hours(address: str, hours: list[datetime], rows_each: int = 1, writer: str = "ab") -> LogFolder:
    """Write a file for each hour, with a number each."""
    log = LogFolder.open(address)
    for number, hour in enumerate(hours):
        row = {"time": hour, "product_id": "p"}
        rows = [{**row, "request_id": f"{writer}{number}-{place}"} for place in range(rows_each)]
        table = pa.Table.from_pylist(rows, schema=COLUMNS[EVENTS])
        write_table(log, file_path(log, EVENTS, hour, writer, number, number), table)
    return log


def test_old_hours_are_deleted_and_no_others(tmp_path: Path) -> None:
    start = datetime(2026, 11, 20, tzinfo=UTC)
    hours = [start + timedelta(hours=number) for number in range(60)]
    log = make_hours(str(tmp_path / "log"), hours)
    (tmp_path / "log/events/date=2026-11-20/.00-ab.partial").touch()
    now = start + timedelta(days=8, hours=1, minutes=30)
    clean_log(log, 7, now)
    assert [file.hour for file in log.list_files(EVENTS)] == hours[25:]
    assert sorted(path.name for path in (tmp_path / "log/events").iterdir()) == [
        "date=2026-11-21",
        "date=2026-11-22",
    ]
    assert read_events(str(tmp_path / "log"), hours[30], hours[32])["time"].to_pylist() == hours[30:32]


def test_the_writer_deletes_old_hours_when_it_starts(address: str) -> None:
    make_hours(address, [NOON - timedelta(days=40_000)])
    with RequestLog(LogParams(folder=address)):
        wait_until(lambda: read_events(address).num_rows == 0)


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.sampled_from(["ab", "cd"]), st.integers(0, 1)), min_size=1, max_size=12),
    st.integers(1, 5),
    st.lists(st.integers(0, 4), max_size=4),
)
def test_merging_changes_no_rows_at_any_time(
    files: list[tuple[str, int]], merged_rows: int, ages: list[int]
) -> None:
    """Whichever files were merged, by however many processes, and whoever was killed before it deleted."""
    address = f"memory://{uuid4().hex}"
    for number, (writer, hour) in enumerate(files):
        log = LogFolder.open(address)
        row = {"time": NOON + timedelta(hours=hour), "request_id": str(number)}
        path = file_path(log, EVENTS, row["time"], writer, number, number)
        write_table(log, path, pa.Table.from_pylist([row], schema=COLUMNS[EVENTS]))
    expected = read_events(address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log_files, "MERGED_ROWS", merged_rows)
        for age in ages:
            clean_log(log, 90, NOON + timedelta(hours=age))
            assert read_events(address).equals(expected)
        for _ in range(2):
            clean_log(log, 90, NOON + timedelta(hours=6))
        assert read_events(address).equals(expected)
        count = sum(len(log.list_day(day, folder)) for day, folder in log.list_days(EVENTS).items())
        assert count == len(log.list_files(EVENTS))  # nothing that was replaced is left
        if merged_rows == 5 and len(files) <= 5:
            assert count == len(set(files))


def test_a_wider_file_replaces_those_that_it_covers() -> None:
    spans = [(0, 0), (0, 1), (1, 1), (2, 2), (2, 5), (3, 3), (6, 6)]
    files = [LogFile(NOON, "ab", first, last, "") for first, last in spans]
    other = LogFile(NOON, "cd", 0, 0, "")
    current, replaced = split_replaced([*files, other])
    assert [file[2:4] for file in current] == [(0, 1), (2, 5), (6, 6), (0, 0)]
    assert [file[2:4] for file in replaced] == [(0, 0), (1, 1), (2, 2), (3, 3)]


def test_a_broken_or_missing_file_is_named(tmp_path: Path) -> None:
    log = make_hours(str(tmp_path), [NOON])
    (file,) = log.list_files(EVENTS)
    Path(file.path).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be used \\(ArrowInvalid"):
        read_events(str(tmp_path))
    assert read_searches(str(tmp_path / "none")).num_rows == 0


@pytest.mark.services
def test_a_log_in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with local_stack.run_s3(tmp_path / "s3", local_stack.find_free_port()) as env:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", env["MLFLOW_S3_ENDPOINT_URL"])
        address = f"s3://{local_stack.BUCKET}/log"
        now = datetime.now(UTC)
        events = [Event("a1", now, "p1", "click", "s1"), Event("a1", now, "p1", "cart", "s1")]
        for number in range(2):
            entries = [replace(SEARCH, request_id=f"r{number}", time=now), *events]
            log = write_log(address, entries)
            assert (log.written, log.failures) == (3, 0)
        assert read_rows(LogFolder.open(address), SEARCHES)["request_id"].to_pylist() == ["r0", "r1"]
        folder = make_hours(address, [now.replace(minute=0, second=0, microsecond=0)] * 3)
        clean_log(folder, 90, now + timedelta(hours=3))
        clean_log(folder, 90, now + timedelta(hours=5))
        assert read_events(address).num_rows == 7 and len(folder.list_files(EVENTS)) == 3
        clean_log(folder, 1, now + timedelta(days=2))
        assert read_events(address).num_rows == 0
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        folder.files.clear_instance_cache()
        with pytest.raises(DataError, match=f"{address}: cannot be used"):
            read_events(address)
