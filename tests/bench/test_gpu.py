"""The program for a lent GPU must not fail there for the first time."""

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
UNITS = {
    "encoder": "pictures/s",
    "featurize": "pictures/s",
    "decoding": "pictures/s",
    "training": "steps/s",
    "memory": "MiB",
    "search": "queries/s",
    "compile": "pictures/s",
}
ROWS = {"encoder": 4, "featurize": 2, "decoding": 3, "training": 4, "memory": 4, "search": 1, "compile": 2}


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    importlib.import_module("gpu").main("--device", "cpu", "--small")
    device, empty, header, _, *lines = capsys.readouterr().out.splitlines()
    assert device.startswith("CPU, ") and "PyTorch" in device and not empty
    assert header == "| part | what | value | unit | beside | ratio |"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert {part: sum(row[0] == part for row in rows) for part in UNITS} == ROWS
    assert len(rows) == sum(ROWS.values())
    for part, name, value, unit, beside, ratio in rows:
        assert name and unit == UNITS[part]
        assert float(value.replace(",", "")) > 0 or unit == "MiB", (
            "memory of a small step may be in the peak already"
        )
        assert bool(beside) == bool(ratio)
    beside = {row[0] for row in rows if row[4]}
    assert beside >= set(UNITS) - {"memory"}
