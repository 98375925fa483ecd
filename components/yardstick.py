"""Candidate and champion by the same yardstick: the same queries, judgements and catalogue, judged in the same way."""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import yaml

from catalog.schema import DataError
from components import tracking
from components.evaluate import CANDIDATE, judged
from components.params import EvaluateParams
from eval.gate import Evidence
from eval.metrics import Scores, score
from eval.rankings import Run

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class Judged:
    """A model as the gate takes it, its rankings, and how it was scored again, if it was."""

    evidence: Evidence
    run: Run
    again: str = ""


def stored(evaluation: Path) -> Judged:
    """What `evaluate` left."""
    scores = Scores.from_parquet(evaluation / "scores" / f"{CANDIDATE}.parquet")
    segments = pq.read_table(evaluation / "queries.parquet")["segment"].to_numpy()
    facts = json.loads((evaluation / "facts.json").read_text())
    run = Run.from_parquet(evaluation / "runs" / f"{CANDIDATE}.parquet")
    return Judged(Evidence(scores, segments, facts), run)


def of_champion(champion: "ModelVersion", data: Path, source: dict[str, Any], primary: str) -> Judged:
    """The champion on this data: what is stored if it was judged on the same in the same way, else scored again.

    Args:
        champion: The model version.
        data: The data set.
        source: How the candidate was judged, as `evaluate` writes it to made_from.json.
        primary: The metric of which to tell what changed.

    Raises:
        DataError: where it was not registered by this chain, or its process fails.
    """
    import mlflow

    if not champion.run_id:
        raise DataError(
            f"register: the champion, version {champion.version} of {champion.name}, has no run and so no scores; "
            "move the alias 'champion' to a version that this chain registered"
        )
    with tempfile.TemporaryDirectory() as folder:
        evaluation = tracking.fetch(champion.run_id, "evaluation", Path(folder))
        then = json.loads((evaluation / "made_from.json").read_text())
        if then["data"] == source["data"] and then["params"]["evaluate"] == source["params"]["evaluate"]:
            return stored(evaluation)
        began = time.monotonic()
        uri = f"models:/{champion.name}/{champion.version}"
        package = Path(mlflow.artifacts.download_artifacts(uri, dst_path=folder))
        params = EvaluateParams(**source["params"]["evaluate"])
        found = _scored_again(package, data.resolve(), params, Path(folder) / "run.parquet")
        before = json.loads((evaluation / "metrics.json").read_text())[CANDIDATE].get(primary)
        was = "unknown" if before is None else f"{before:.4f}"
        again = (
            f"The champion, version {champion.version}, was judged on other data or in another way, with {primary} at "
            f"{was}. Scored again on this data, in {time.monotonic() - began:.0f} s, it is at "
            f"{found.evidence.scores.means()[primary]:.4f}."
        )
        return Judged(found.evidence, found.run, again)


def _scored_again(package: Path, data: Path, params: EvaluateParams, run: Path) -> Judged:
    """A registered model judged on a data set, by the code that was registered with it, in a process of its own."""
    flavour = yaml.safe_load((package / "MLmodel").read_text())["flavors"]["python_function"]
    model = package / flavour["artifacts"]["model"]["path"]  # MLflow keeps the name the folder had
    command = [python_for(package), "-m", "fusion", "rank", "--model", str(model)]
    command += ["--data", str(data), "--split", "test", "--depth", str(params.depth), "--run", str(run)]
    environment = os.environ | {"PYTHONPATH": str(package / "code"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        command, env=environment, cwd=package, stderr=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise DataError(f"register: the champion could not be scored again: {done.stderr.strip()[-500:]}")
    qrels, segments = judged(data, "test")
    found = Run.from_parquet(run)
    scores = score(found, qrels, params.metrics, gains=params.gains, relevant=params.relevant)
    return Judged(Evidence(scores, segments, {}), found)


def python_for(package: Path) -> str:
    """An interpreter with what a registered model needs: this one where that is installed, else one made for it.

    What is made is kept in the user's cache, for other models that need the same.

    Raises:
        DataError: where it cannot be made.
    """
    needed = [line for line in (package / "requirements.txt").read_text().splitlines() if line.strip()]
    version = yaml.safe_load((package / "python_env.yaml").read_text())["python"]
    here = ".".join(map(str, sys.version_info[:2]))
    if version.startswith(f"{here}.") and all(_installed(line) for line in needed):
        return sys.executable
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitrine"
    key = blake2b("\n".join([version, *sorted(needed)]).encode(), digest_size=8).hexdigest()
    made = cache / key
    if not (made / "whole").exists():
        cache.mkdir(parents=True, exist_ok=True)
        print(
            f"register: the champion needs other libraries than are installed here; making {made}",
            file=sys.stderr,
        )
        major = ".".join(version.split(".")[:2])
        uv = [sys.executable, "-m", "uv"]
        for command in (
            [*uv, "venv", "--quiet", "--clear", "--python", major, str(made)],
            [*uv, "pip", "install", "--quiet", "--python", str(made), *needed],
        ):
            done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise DataError(
                    f"register: the champion's environment could not be made: {done.stderr.strip()[-500:]}"
                )
        (made / "whole").touch()
    return str(made / "bin" / "python")


def _installed(line: str) -> bool:
    from packaging.requirements import Requirement

    wanted = Requirement(line)
    try:
        return wanted.specifier.contains(metadata.version(wanted.name), prereleases=True)
    except metadata.PackageNotFoundError:
        return False
