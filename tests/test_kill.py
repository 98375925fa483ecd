"""Each stage is killed several times during its work; then the same command gives the same result as without kills."""

import inspect
import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import warm_python
import yaml
from warm_python import WarmProcess

from catalog import store
from catalog.sample import write_sample
from components.__main__ import load_stage
from components.params import SECTIONS

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMALL: dict[str, dict[str, Any]] = {
    "train": {"epochs": 5, "dim": 16, "hidden": 16, "batch_size": 64},
    "register": {
        "floors": {"ndcg@10": 0.0},
        "baselines": {},
        "min_queries": 2,
        "budgets": {"model_mb": 500},
        "promote": "auto",
    },
}
SHARD = 16  # rows, in place of components.featurize.FILE_ROWS
LIMIT = 120  # seconds
KILLS, REFRESH_KILLS = 5, 20

# Files that appear while a stage runs, as patterns below its folder: when they appear, the stage is killed.
MOMENTS = {
    "validate": [".validate.partial", ".validate.partial/expectations.json"],
    "featurize": [
        ".featurize.partial/made_from.json",
        ".featurize.partial/products/000001.parquet",
        ".featurize.partial/products/000003.parquet",
        ".featurize.partial/queries/000000.parquet",
    ],
    "train": [".train.partial/made_from.json", *[".train.partial/checkpoint.pt"] * 3],
    "index": [".index.partial", ".index.partial/products.parquet"],
    "evaluate": [
        ".evaluate.partial",
        ".evaluate.partial/runs/text-only.trec",
        ".evaluate.partial/tasks.json",
    ],
    "register": [
        ".register.partial",
        ".mlflow.db.partial",
        "mlartifacts/*/artifacts/evaluation/scores",
        "mlartifacts/models/*/artifacts/MLmodel",
        ".register.partial/registration.json",
    ],
}
MEASURED = {"facts.json"}  # of evaluate: holds times, which differ from run to run


def start(name: str, paths: dict[str, Path]) -> WarmProcess:
    """Start `python -m components NAME …` in a separate process."""
    words = [name, "--params", str(paths["params"])]
    for parameter in inspect.signature(load_stage(name)).parameters:
        if parameter != "params":
            words += [f"--{parameter}", str(paths[parameter])]
    script = f"""
import os, sys
import components.featurize
from components.__main__ import main
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.chdir({str(paths["work"])!r})
components.featurize.FILE_ROWS = {SHARD}
sys.exit(main({words!r}))
"""
    return warm_python.start(["-c", script])


def run(name: str, paths: dict[str, Path]) -> None:
    process = start(name, paths)
    process.join(LIMIT)
    assert process.exitcode == 0


def kill_when(appears: Callable[[], bool], process: WarmProcess) -> None:
    """Kill the process with SIGKILL at that moment."""
    end = time.monotonic() + LIMIT
    while not appears():
        assert process.is_alive() and time.monotonic() < end, "the process ended before that moment"
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, "the process ended before it was killed"


def output_of(name: str) -> str:
    return list(inspect.signature(load_stage(name)).parameters)[-1]


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in MEASURED
    }


@pytest.fixture(scope="module")
def undisturbed(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of a chain that was not killed."""
    root = tmp_path_factory.mktemp("undisturbed")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    paths = {"work": root, "params": root / "params.yaml", "data": root / "data"}
    paths["params"].write_text(yaml.safe_dump(params))
    write_sample(paths["data"], products=80, seed=3, queries=60, workers=1)
    shutil.copy(empty_store, root / "mlflow.db")
    for name in SECTIONS:
        paths[output_of(name)] = root / name
        run(name, paths)
    return paths


@pytest.mark.parametrize("name", SECTIONS)
def test_a_killed_stage_ends_as_if_nothing_had_happened(
    undisturbed: dict[str, Path], tmp_path: Path, name: str
) -> None:
    output = tmp_path / name
    paths = undisturbed | {"work": tmp_path, output_of(name): output}
    for moment in MOMENTS[name]:
        began = time.time()

        def appears(moment: str = moment, began: float = began) -> bool:
            assert not output.exists()
            return any(path.stat().st_ctime >= began for path in tmp_path.glob(moment))

        kill_when(appears, start(name, paths))
        assert not output.exists()
    if name == "train":  # each attempt resumed from the last epoch
        checkpoint = torch.load(tmp_path / ".train.partial" / "checkpoint.pt", weights_only=True)
        assert len(checkpoint["history"]) >= MOMENTS["train"].count(".train.partial/checkpoint.pt")
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob(".featurize.partial/*/*.parquet")}
    run(name, paths)

    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []
    if name == "register":
        one_run_and_one_version(tmp_path)
        files = [folder / "registration.json" for folder in (undisturbed["registration"], output)]
        before, after = (json.loads(file.read_text()) | {"run_id": "of its store"} for file in files)
        assert before == after
    else:
        assert content(output) == content(undisturbed[output_of(name)])
    for path, modified in finished.items():  # finished files were not written again
        assert (output / path.relative_to(tmp_path / ".featurize.partial")).stat().st_mtime_ns == modified


def one_run_and_one_version(work: Path) -> None:
    with closing(sqlite3.connect(work / "mlflow.db")) as database:
        names = "select name, status from runs where lifecycle_stage = 'active' order by name"
        assert database.execute(names).fetchall() == [
            ("history of product-search", "FINISHED"),
            ("version 1 · champion", "FINISHED"),
        ]
        assert database.execute("select version from model_versions").fetchall() == [(1,)]
        models = "select count(*) from logged_models where lifecycle_stage = 'active'"
        assert database.execute(models).fetchall() == [(1,)]
        verdicts = "select value from model_version_tags where key = 'vitrine.gate'"
        assert database.execute(verdicts).fetchall() == [("passed",)]
        aliases = "select alias, version from registered_model_aliases"
        assert database.execute(aliases).fetchall() == [("champion", 1)]
        moves = "select p.key from params p join runs r using (run_uuid) where r.name like 'history%' order by p.key"
        assert database.execute(moves).fetchall() == [("0001",), ("0001 done",)]


def test_register_may_be_killed_at_any_time(
    undisturbed: dict[str, Path], empty_store: Path, tmp_path: Path
) -> None:
    """Killed at five random times over its duration; each time, the next call completes it.

    The store has its tables: creating them takes twice as long as the rest, and `MOMENTS` has a kill for it.
    """
    paths = undisturbed | {"work": tmp_path / "undisturbed", "registration": tmp_path / "undisturbed" / "out"}
    paths["work"].mkdir()
    shutil.copy(empty_store, paths["work"] / "mlflow.db")
    began = time.monotonic()
    run("register", paths)
    length = time.monotonic() - began
    rng = np.random.default_rng(0)
    for number, share in enumerate((np.arange(KILLS) + rng.random(KILLS)) / KILLS):
        work = tmp_path / str(number)
        work.mkdir()
        shutil.copy(empty_store, work / "mlflow.db")
        process = start("register", paths | {"work": work, "registration": work / "out"})
        process.join(share * length)
        process.kill()
        process.join()
        run("register", paths | {"work": work, "registration": work / "out"})
        one_run_and_one_version(work)
        registrations = [
            json.loads((folder / "registration.json").read_text())
            for folder in (paths["registration"], work / "out")
        ]
        assert registrations[0] | {"run_id": ""} == registrations[1] | {"run_id": ""}


def test_the_last_result_stays_until_the_next_is_whole(undisturbed: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "train"
    shutil.copytree(undisturbed["model"], output)
    params = yaml.safe_load(undisturbed["params"].read_text())
    params["train"]["seed"] += 1
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    paths = undisturbed | {"work": tmp_path, "params": tmp_path / "params.yaml", "model": output}
    checkpoint = tmp_path / ".train.partial" / "checkpoint.pt"
    kill_when(checkpoint.exists, start("train", paths))
    assert content(output) == content(undisturbed["model"])


def start_refresh(paths: dict[str, Path], index: Path, previous: Path | None) -> WarmProcess:
    """Start `python -m fusion index` in a separate process, which keeps what it encoded after every few products."""
    words = ["index", f"--model={paths['model']}", f"--data={paths['data']}", f"--index={index}"]
    words += [f"--previous={previous}"] if previous else []
    script = f"""
import sys
from fusion import featurizer
from fusion.__main__ import main
from fusion.search import encoded_parts
featurizer.BATCH = encoded_parts.ROWS = 4
sys.exit(main({words!r}))
"""
    return warm_python.start(["-c", script])


def run_refresh(paths: dict[str, Path], index: Path, previous: Path | None) -> float:
    """Refresh to the end; the duration in seconds."""
    began = time.monotonic()
    process = start_refresh(paths, index, previous)
    process.join(LIMIT)
    assert process.exitcode == 0
    return time.monotonic() - began


def test_a_refresh_may_be_killed_at_any_time(undisturbed: dict[str, Path], tmp_path: Path) -> None:
    """Killed at 20 random times, each time going on where it stopped; the result has the bytes of one from nothing."""
    rows = store.read_table(undisturbed["data"], "products").to_pylist()
    for row in rows[:12]:
        row["title"] += " again"
    paths, previous = undisturbed | {"data": tmp_path / "data"}, tmp_path / "previous"
    shutil.copytree(undisturbed["data"], paths["data"], ignore=shutil.ignore_patterns("products"))
    with store.TableWriter(paths["data"], "products") as table:
        for row in rows[:-5]:
            table.write(row)
    run_refresh(undisturbed, previous, None)
    run_refresh(paths, tmp_path / "whole", None)
    length = run_refresh(paths, tmp_path / "incremental", previous)
    assert content(tmp_path / "incremental") == content(tmp_path / "whole")
    rng, index = np.random.default_rng(0), tmp_path / "index"
    killed = 0
    for share in (np.arange(REFRESH_KILLS) + rng.random(REFRESH_KILLS)) / REFRESH_KILLS:
        process = start_refresh(paths, index, previous)
        process.join(share * length)
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
        if index.exists():
            assert content(index) == content(tmp_path / "whole")
            shutil.rmtree(index)
    run_refresh(paths, index, previous)
    assert content(index) == content(tmp_path / "whole")
    assert killed >= REFRESH_KILLS / 2
