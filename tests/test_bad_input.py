"""Bad input at the command line: one clear message, exit code 1, no file lost or half-written."""

import inspect
import json
import re
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import warm_python
import yaml

from catalog import store
from components.__main__ import load_stage, main
from components.params import SECTIONS

ROOT = Path(__file__).parents[1]
AS_NOBODY = """
import os, sys
from components.__main__ import main
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""
Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]
Params = Callable[..., Path]
Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def no_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MLflow: otherwise `validate` would use the champion in this project's own store."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")


@pytest.fixture
def params(tmp_path: Path) -> Params:
    """Write a copy of the project's params.yaml with changes by section."""

    def write(**changes: dict[str, Any]) -> Path:
        content = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, values in changes.items():
            content[section] = content.get(section, {}) | values
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(content))
        return path

    return write


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Refused:
    """Run a command that must fail and leave no files but `leaves`; returns the message."""

    def run(*words: str | Path, leaves: tuple[str, ...] = ()) -> str:
        before = {path.name for path in tmp_path.iterdir()}
        assert main([str(word) for word in words]) == 1
        output = capsys.readouterr()
        assert output.err.count("vitrine: ") == 1 and "Traceback" not in output.err + output.out
        appeared = {path.name for path in tmp_path.iterdir()} - before
        assert {name for name in appeared if not name.startswith(".")} == set(leaves)
        return output.err[output.err.index("vitrine: ") :].strip()

    return run


def validate(data: Path, params: Path) -> list[str | Path]:
    return ["validate", "--params", params, "--data", data, "--report", data.parent / "report"]


def featurize(data: Path, params: Path) -> list[str | Path]:
    words: list[str | Path] = ["featurize", "--params", params, "--data", data]
    return [*words, "--report", data.parent / "report", "--features", data.parent / "features"]


# --- the data --------------------------------------------------------------------------------------------------------

ROWS: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "duplicate id": ("products", 3, {"product_id": "p2"}, r"duplicate_ids \(products\).*2 of 12 .*: p2"),
    "grade 7": ("judgements", 1, {"grade": 7}, r"grades \(judgements\).*1 of 24 .*: q0 p1: 7"),
    "unknown product": (
        "judgements", 2, {"product_id": "p99"}, r"unknown_products \(judgements\).*1 of 24 .*: q0 p99",
    ),
}  # fmt: skip


@pytest.mark.parametrize("breach", ROWS)
def test_broken_rows(
    tiny_tables: Tables, write_data: Write, params: Params, refused: Refused, breach: str
) -> None:
    table, row, change, message = ROWS[breach]
    tiny_tables[table][row] |= change
    data = write_data(tiny_tables)
    before = store.fingerprint(data)
    error = refused(*validate(data, params()), leaves=("report-failed",))
    assert re.search(message, error)
    assert str(data.parent / "report-failed" / "data.html") in error
    assert store.fingerprint(data) == before


def _without_title(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns(["title"]), path)


FILES: dict[str, tuple[Callable[[Path], Any], str, tuple[str, ...]]] = {
    "missing column": (_without_title, r"schema .*products/00000.parquet title: missing", ("report-failed",)),
    "empty file": (lambda path: path.write_bytes(b""), r"products/00000.parquet: not a readable parquet", ()),
    "truncated file": (
        lambda path: path.write_bytes(path.read_bytes()[:-100]), r"products/00000.parquet: not a readable parquet", (),
    ),
    "no file": (lambda path: path.unlink(), r"products: no parquet files; a data set needs products/", ()),
}  # fmt: skip


@pytest.mark.parametrize("breach", FILES)
def test_broken_files(tiny_data: Path, params: Params, refused: Refused, breach: str) -> None:
    damage, message, leaves = FILES[breach]
    damage(tiny_data / "products" / "00000.parquet")
    assert re.search(message, refused(*validate(tiny_data, params()), leaves=leaves))


def test_an_earlier_report_outlives_a_failure(tiny_data: Path, params: Params, refused: Refused) -> None:
    assert main([str(word) for word in validate(tiny_data, params())]) == 0
    before = store.fingerprint(tiny_data.parent / "report")
    _without_title(tiny_data / "products" / "00000.parquet")
    refused(*validate(tiny_data, params()), leaves=("report-failed",))
    assert store.fingerprint(tiny_data.parent / "report") == before
    assert "changed since" in refused(*featurize(tiny_data, params()))


@pytest.fixture
def corrupt_data(tiny_tables: Tables, write_data: Write, png: Callable[..., bytes]) -> Path:
    """Like tiny_data with 188 more products; the last 40 have truncated pictures."""
    for n in range(188):
        picture = png(200 + n, 32, 32)
        picture = picture[: len(picture) // 2] if n >= 148 else picture
        tiny_tables["products"].append(
            {"product_id": f"x{n}", "title": f"Thing {n}", "images": [{"bytes": picture, "path": None}]}
        )
    return write_data(tiny_tables)


def test_forty_corrupt_pictures(
    corrupt_data: Path, params: Params, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(*validate(corrupt_data, params()), leaves=("report-failed",))
    assert re.search(r"broken_images .*40 of 202 .*products/x148: broken", error)

    # within the allowed share they are a warning, here and in featurize
    allowing = params(validate={"max_broken_images": 0.2})
    assert main([str(word) for word in validate(corrupt_data, allowing)]) == 0
    assert "warning: broken_images" in capsys.readouterr().err
    error = refused(*featurize(corrupt_data, allowing))
    assert re.search(
        r"40 of 202 pictures are broken \(19\.8%\), featurize.max_broken_images allows 1\.0%; x148", error
    )

    assert (
        main([str(word) for word in featurize(corrupt_data, params(featurize={"max_broken_images": 0.2}))])
        == 0
    )
    assert "warning: 40 broken pictures count as missing; x148" in capsys.readouterr().err
    recorded = json.loads((corrupt_data.parent / "features" / "broken.json").read_text())
    assert list(recorded) == [f"x{n}" for n in range(148, 188)]


def test_a_picture_of_900_million_pixels(
    tiny_tables: Tables, write_data: Write, params: Params, refused: Refused
) -> None:
    """It is refused by its header; decoding it would take 2.7 GB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(
        bytes(1_000_000)
    )  # the first rows only; the decoder must stop before it needs more
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    tiny_tables["products"][4]["images"][0]["bytes"] = bomb
    error = refused(*validate(write_data(tiny_tables), params()), leaves=("report-failed",))
    assert "products/p4: too many pixels (Image size (900000000 pixels) exceeds limit" in error


# --- the parameters --------------------------------------------------------------------------------------------------

PARAMETERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unknown key": ("train", {"epohcs": 3}, r"train\.epohcs: unknown key; known are fusion, dim, .*epochs"),
    "out of range": ("train", {"epochs": 0}, r"train\.epochs: .*greater than or equal to 1, got 0"),
    "another type": ("train", {"dim": "wide"}, r"train\.dim: .*valid integer.*got 'wide'"),
    "half an epoch": ("train", {"epochs": 2.5}, r"train\.epochs: .*fractional part, got 2\.5"),
    "no number": ("register", {"min_gain": float("nan")}, r"register\.min_gain: .*finite number.*got nan"),
    "unknown fusion": ("train", {"fusion": "glued"}, r"train\.fusion: unknown fusion 'glued'; .*concat, .*coattention"),
    "unknown section": ("trian", {"epochs": 3}, r"trian: unknown section; known are validate, featurize, train"),
    "unknown severity": ("validate", {"severity": {"grades": "fatal"}}, r"validate\.severity\.grades: .*'fatal'"),
}  # fmt: skip


@pytest.mark.parametrize("breach", PARAMETERS)
def test_broken_parameters(params: Params, refused: Refused, tmp_path: Path, breach: str) -> None:
    section, values, message = PARAMETERS[breach]
    file = params(**{section: values})
    name = section if section in SECTIONS else "train"
    flags = [f"--{flag}" for flag in inspect.signature(load_stage(name)).parameters if flag != "params"]
    error = refused(
        name, "--params", file, *(word for flag in flags for word in (flag, tmp_path / "nowhere"))
    )
    assert error.startswith(f"vitrine: {file}") and re.search(message, error)


def test_an_unknown_encoder(tiny_data: Path, params: Params, refused: Refused) -> None:
    assert main([str(word) for word in validate(tiny_data, params())]) == 0
    error = refused(*featurize(tiny_data, params(featurize={"image_encoder": "resnet5"})))
    assert "unknown image encoder 'resnet5'; known are efficientnet_lite0, auto, clip, " in error
    assert "any classification model of torchvision" in error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epochs: 3", r"params\.yaml: not YAML .*line 1"),
        ("- train", r"params\.yaml: expected keys and values, got a list"),
        ("", r"params\.yaml: empty; expected the sections validate, featurize"),
        ("train: 3", r"params\.yaml: train: .*got 3"),
        (None, r"params\.yaml: No such file or directory"),
    ],
)
def test_a_broken_params_file(tmp_path: Path, refused: Refused, text: str | None, message: str) -> None:
    path = tmp_path / "params.yaml"
    if text is not None:
        path.write_text(text)
    error = refused("train", "--params", path, "--features", tmp_path / "f", "--model", tmp_path / "m")
    assert re.search(message, error, re.DOTALL)


# --- the machine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["train", "--features", "nowhere", "--model", "out"],
        ["featurize", "--data", "nowhere", "--report", "nowhere", "--features", "out"],
        ["validate", "--data", "nowhere", "--report", "out"],
        [
            "register",
            "--data",
            "nowhere",
            "--report",
            "nowhere",
            "--model",
            "nowhere",
            "--index",
            "nowhere",
            "--evaluation",
            "nowhere",
            "--registration",
            "out",
        ],
        ["index", "--data", "nowhere", "--features", "nowhere", "--model", "nowhere", "--index", "out"],
        [
            "evaluate",
            "--data",
            "nowhere",
            "--features",
            "nowhere",
            "--model",
            "nowhere",
            "--index",
            "nowhere",
            "--evaluation",
            "out",
        ],
    ],
    ids=lambda words: words[0],
)
def test_inputs_that_are_not_there(
    words: list[str], params: Params, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = params()
    monkeypatch.chdir(tmp_path)
    assert "nowhere" in refused(*words, "--params", file)


@pytest.fixture
def shelf() -> Iterator[Path]:
    """A folder that every user can enter, unlike those of pytest."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_nobody(words: list[str], folder: Path, log: Path) -> int | None:
    """Run a command as a user who is not root, as root ignores permissions; returns the exit code.

    Its process is forked from one that has imported what it needs: Python itself may lie where only root may read.
    """
    with log.open("w") as stream:
        process = warm_python.start(["-c", AS_NOBODY, *words], folder, output=stream.fileno())
    process.join(120)
    return process.exitcode


@pytest.mark.parametrize("sealed", ["report", "data"])
def test_no_permission(tiny_data: Path, shelf: Path, sealed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(shelf))
    shutil.copytree(tiny_data, shelf / "data")
    shutil.copy(ROOT / "params.yaml", shelf / "params.yaml")
    (shelf / "reports").mkdir()
    (shelf / "reports").chmod(0o555 if sealed == "report" else 0o777)
    hidden = shelf / "data" / "products" / "00000.parquet"
    hidden.chmod(0 if sealed == "data" else 0o644)
    words = ["validate", "--params", f"{shelf}/params.yaml", "--data", f"{shelf}/data"]
    code = as_nobody([*words, "--report", f"{shelf}/reports/validate"], shelf, shelf / "log")
    error = (shelf / "log").read_text()
    assert code == 1, error
    assert error.count("vitrine: ") == 1 and "Traceback" not in error
    if sealed == "report":
        assert f"vitrine: {shelf}/reports/validate: cannot write here (Permission denied)" in error
    else:
        assert f"vitrine: {hidden}" in error and "Permission denied" in error
    assert list((shelf / "reports").iterdir()) == []
