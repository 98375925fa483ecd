"""register: MLflow run and model version, and the gate's verdict on it. The only stage that changes the registry."""

import csv
import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from components.params import RegisterParams
from fusion.encoders.families import list_packages
from fusion.search.hybrid import HYBRID_FILE
from fusion.search.marker import IndexMarker, ModelMarker
from fusion.search.search_index import PRODUCTS_FILE, unpack_vectors
from registry import mlflow_runs
from registry.comparison import WEIGHTS, Candidate
from registry.index_publishing import JUDGED_INDEX
from registry.lineage import collect_lineage
from registry.mlflow_store import connect, with_retries
from registry.model_logging import create_signature, ensure_registered
from registry.model_registry import ModelRegistry
from registry.verdict import CARD, DECISION, RESULT, describe_result, judge_version
from scoring.systems import read_served
from validation.champion_comparison import PROFILE
from validation.drift import add_vectors
from validation.query_splits import QUERY_SPLITS

if TYPE_CHECKING:
    from mlflow import ActiveRun, MlflowClient
    from mlflow.entities.model_registry import ModelVersion

EVALUATION_FILES = (  # of `evaluate`, logged to the run
    "made_from.json", "metrics.json", "segments.csv", "comparisons.json", "facts.json", "queries.parquet", "scores",
    "report.html",
)  # fmt: skip
SYSTEMS = "systems.json"  # artifact: a table of every system's metrics


@dataclass(frozen=True)
class StageOutputs:
    """The folders that the stages before `register` wrote, and the data set."""

    data: Path
    report: Path
    model: Path
    index: Path
    evaluation: Path

    def read_provenance(self) -> dict[str, Any]:
        """Data and parameters of the evaluation."""
        return json.loads((self.evaluation / "made_from.json").read_text())

    def read_validation(self) -> dict[str, Any]:
        """The report of `validate`."""
        return json.loads((self.report / "report.json").read_text())


def register(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    params: RegisterParams,
    registration: Path,
) -> None:
    """Register the candidate, decide whether it may be promoted, and write the verdict on its version.

    A second call for the same model and evaluation uses the same run and version.

    Args:
        data: The data set; a champion of other data is scored again on it.
        report: What `validate` wrote about it.
        model: What `train` wrote.
        index: What `index` wrote: the index that it was judged with.
        evaluation: What `evaluate` wrote about it.
        params: Rules for promotion.
        registration: Folder to write: registration.json (run, version, verdict, findings, aliases), model_card.md, and
            decision.html: verdict and reasons, a comparison of candidate, champion and baselines, what to do next.

    Raises:
        DataError: where the index is of another model, MLflow cannot be reached, the champion cannot be scored again,
            or another version became champion in the meantime.
    """
    outputs = StageOutputs(data, report, model, index, evaluation)
    with_retries(lambda: _register(outputs, params, registration))


def _register(outputs: StageOutputs, params: RegisterParams, registration: Path) -> None:
    provenance, validation = outputs.read_provenance(), outputs.read_validation()
    lineage = collect_lineage(provenance["data"], outputs.data)
    marker = IndexMarker.load(outputs.index)
    marker.require_model(ModelMarker.read(outputs.model))
    with store.new_atomic_dir(registration) as folder:
        client = connect()
        registry = ModelRegistry(client, params.model_name)
        champion = registry.reconcile_and_warn()
        training = store.fingerprint(outputs.model / "made_from.json")
        chain = hash_chain(outputs.model, outputs.evaluation)
        with mlflow_runs.open_chain_run(chain, training, lineage) as run:
            _log_outputs(client, run, outputs, lineage)
            tags = lineage | {WEIGHTS: marker.model.weights, JUDGED_INDEX: json.dumps(marker.describe())}
            version = _register_version(client, run, outputs, params, tags)
            if champion == str(version.version):
                print(f"register: version {champion} is the champion already; its verdict does not change")
                _download_verdict(run, folder)
                return
            candidate = Candidate(version, run, outputs.data, outputs.evaluation, provenance, validation)
            comparison = judge_version(registry, candidate, champion, params, folder)
    print(f"register: {describe_result(params.model_name, comparison)}")


def hash_chain(model: Path, evaluation: Path) -> str:
    """Identify a chain by a hash: equal for the same model with the same scores, evaluated with the same settings."""
    files = [json.loads((evaluation / name).read_text()) for name in ("made_from.json", "metrics.json")]
    parts = json.dumps([store.fingerprint(model), *files], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def _download_verdict(run: "ActiveRun", folder: Path) -> None:
    for name in (RESULT, CARD, DECISION):
        mlflow_runs.download_artifact(run.info.run_id, name, folder)


def _log_outputs(
    client: "MlflowClient", run: "ActiveRun", outputs: StageOutputs, lineage: dict[str, str]
) -> None:
    """Log parameters, metrics, data set and files of the stages; the metrics of all systems as a table."""
    provenance, validation = outputs.read_provenance(), outputs.read_validation()
    means = json.loads((outputs.evaluation / "metrics.json").read_text())
    facts = json.loads((outputs.evaluation / "facts.json").read_text())
    metrics = _select_metrics(means[read_served(outputs.evaluation)], facts, validation)
    curves = _read_curves(outputs.model)
    mlflow_runs.log_values(client, run, _flatten(provenance["params"]), metrics, curves)
    rows = [{"system": name, **values} for name, values in means.items()]
    mlflow_runs.log_table(client, run, SYSTEMS, rows)
    mlflow_runs.log_dataset(client, run, validation, lineage)
    evaluation_files = [*EVALUATION_FILES, *_list_runs(outputs.evaluation)]
    mlflow_runs.log_files(run, outputs.evaluation, evaluation_files, "evaluation")
    pages = sorted(page.name for page in outputs.report.glob("*.html"))
    mlflow_runs.log_files(run, outputs.report, [*pages, "report.json"], "validation")


def _list_runs(evaluation: Path) -> list[str]:
    """Rankings to show, and to score again with another judge: not of the ablations "no …", which decide nothing."""
    runs = sorted((evaluation / "runs").glob("*.parquet"))
    return [f"runs/{run.name}" for run in runs if not run.name.startswith("no ")]


def _register_version(
    client: "MlflowClient",
    run: "ActiveRun",
    outputs: StageOutputs,
    register_params: RegisterParams,
    tags: dict[str, str],
) -> "ModelVersion":
    """The run's model version, with the files that it needs to serve and to be compared with other data."""
    params = outputs.read_provenance()["params"]["featurize"]
    names = (params[f"{kind}_encoder"] or "" for kind in ("text", "image", "joint"))
    packages = list_packages(*names)
    products = pq.read_table(outputs.report / PROFILE)
    # a catalogue may have millions of vectors; the profile is a sample
    in_profile = pc.field("product_id").isin(products["product_id"].combine_chunks())
    indexed = pq.read_table(
        outputs.index / PRODUCTS_FILE, columns=["product_id", "vector"], filters=in_profile
    )
    (array,) = unpack_vectors(indexed).values()
    column = pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.shape[1])
    vectors = pa.table({"product_id": indexed["product_id"], "vector": column})
    with tempfile.TemporaryDirectory() as folder:
        profile = Path(folder) / PROFILE
        pq.write_table(add_vectors(products, vectors), profile)
        artifacts = {
            "model": outputs.model,
            "hybrid": outputs.evaluation / HYBRID_FILE,
            "profile": profile,
            "query_splits": outputs.report / QUERY_SPLITS,
        }
        if register_params.package_index:
            artifacts["index"] = outputs.index
        signature = create_signature(outputs.model)
        name = register_params.model_name
        return ensure_registered(client, run, artifacts, signature, name, tags, packages)


def _flatten(params: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {f"{section}.{key}": value for section, keys in params.items() for key, value in keys.items()}


def _select_metrics(
    means: dict[str, float], facts: dict[str, float], validation: dict[str, Any]
) -> dict[str, float]:
    """The metrics by which runs are compared: the served system's metrics and facts, and the data drift.

    MLflow draws a bar chart for each, so metrics of baselines and of rated models ("rating/MODEL") are left out.
    """
    drift = {"drift": validation["champion"]["drift"]} if validation["champion"] else {}
    return means | {name: value for name, value in facts.items() if "/" not in name} | drift


def _read_curves(model: Path) -> list[dict[str, float]]:
    with (model / "history.csv").open() as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
