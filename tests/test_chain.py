"""The chain as a user runs it, without a network, in a small git and DVC repository that all tests here share."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import requests
import yaml
from PIL import Image

from catalog import store
from catalog.sample import write_sample
from components.__main__ import main
from components.evaluate import evaluate
from components.featurize import featurize
from components.index import index
from components.params import SECTIONS, load_section
from components.train import train
from pipelines.code_deps import PACKAGES, PLUGINS
from registry import local_stack
from scoring.systems import read_served

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
CODE = (*PACKAGES, PLUGINS, "pipelines")
FILES = ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
SMALL = {
    "train": {"epochs": 2, "dim": 16, "hidden": 16},
    # no budget for latency: it depends on the load of the machine
    "register": {"floors": {"ndcg@10": 0.0}, "baselines": {}, "min_queries": 2, "budgets": {"model_mb": 500}},
}
STAGES = tuple(SECTIONS)

# Loaded by every Python process of the chain: a connection to another machine is logged, and fails.
OFFLINE = """
import os, socket

def is_remote(address):
    return isinstance(address, tuple) and address[0] not in ("localhost", "127.0.0.1", "::1", None, "")

def guarded(function, pick):
    def call(*arguments, **named):
        if is_remote(pick(arguments)):
            with open(os.environ["VITRINE_TEST_CALLS"], "a") as log:
                log.write(repr(pick(arguments)) + chr(10))
            raise OSError("no network in this test")
        return function(*arguments, **named)
    return call

socket.socket.connect = guarded(socket.socket.connect, lambda arguments: arguments[1])
socket.getaddrinfo = guarded(socket.getaddrinfo, lambda arguments: arguments[:2])
"""


@dataclass(frozen=True)
class Shop:
    """A separate project in which the chain has run.

    Attributes:
        root: Its folder.
        environment: Of its commands.
        calls: Log of attempts to reach the network.
        launcher: Of `warm_python`, which has a folder of its own.
    """

    root: Path
    environment: dict[str, str]
    calls: Path
    launcher: Path

    def run(self, *command: str, cwd: Path | None = None, warm: bool = False) -> str:
        """Run a command that must succeed, `warm` with `launcher` as `python`; returns its stdout and stderr."""
        search_path = [str(self.launcher.parent)] * warm + [self.environment["PATH"]]
        done = subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment | {"PATH": os.pathsep.join(search_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return done.stdout

    def read(self, path: str) -> Any:
        return json.loads((self.root / path).read_text())

    def commit(self, message: str) -> str:
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--message", message)
        return self.run("git", "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def shop(empty_store: Path, launcher: Path, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    base = tmp_path_factory.mktemp("chain")
    (base / "offline").mkdir()
    (base / "offline" / "sitecustomize.py").write_text(OFFLINE)
    # with the last, every process would compile its libraries
    excluded = ("MLFLOW_", "GIT_", "DVC_", "VITRINE_", "PYTHONDONTWRITEBYTECODE")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(excluded)}
    environment = inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(base / "offline"),
        "VITRINE_TEST_CALLS": str(base / "calls"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{
            f"GIT_{role}_{field}": f"shop@{field}"
            for role in ("AUTHOR", "COMMITTER")
            for field in ("NAME", "EMAIL")
        },
    }
    shop = Shop(base / "shop", environment, base / "calls", launcher)
    for package in CODE:
        shutil.copytree(ROOT / package, shop.root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        (shop.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, shop.root / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    (shop.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    write_sample(shop.root / "data", products=120, seed=5, queries=80, workers=1)
    shutil.copy(empty_store, shop.root / "mlflow.db")

    shop.run("git", "init", "--quiet")
    shop.run("dvc", "add", "--quiet", "data")
    shop.run("dvc", "push", "--quiet")
    shop.commit("A shop")
    shop.run("dvc", "repro")
    shop.commit("Its first chain")
    return shop


@pytest.fixture
def client(shop: Shop, warm_start: None, monkeypatch: pytest.MonkeyPatch) -> Iterator["MlflowClient"]:
    """The client of the shop's store; stages that run in this process use it, and start others at once."""
    import mlflow

    monkeypatch.chdir(shop.root)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # restored afterwards; MLflow sets it itself
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(f"sqlite:///{shop.root / 'mlflow.db'}")
    yield mlflow.MlflowClient()
    mlflow.set_tracking_uri(None)


def runs(client: "MlflowClient") -> list[Any]:
    experiment = client.get_experiment_by_name("product-search")
    assert experiment
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])


def aliases(client: "MlflowClient") -> dict[str, str]:
    """Alias → version."""
    model = client.get_registered_model("product-search")
    return {alias: str(version) for alias, version in model.aliases.items()}


def versions(client: "MlflowClient") -> list[Any]:
    rows = client.search_model_versions("name = 'product-search'")
    return sorted(rows, key=lambda version: int(version.version))


# --- dvc repro -------------------------------------------------------------------------------------------------------


def test_the_chain_writes_the_outputs_of_each_stage(shop: Shop) -> None:
    metrics = shop.read("artifacts/evaluate/metrics.json")
    towers = {"text-only", "image-only", "video-only"}
    ablations = {"no text", "no image", "no video", "no gallery"}
    assert set(metrics) == {"bm25", "fused", "hybrid"} | towers | ablations
    assert shop.read("artifacts/validate/report.json")["passed"]
    folders = {path.name for path in (shop.root / "artifacts").iterdir()}
    assert folders == set(STAGES)


def test_a_second_repro_runs_nothing(shop: Shop) -> None:
    before = (shop.root / "dvc.lock").read_bytes()
    log = shop.run("dvc", "repro")
    for stage in STAGES:
        assert f"Stage '{stage}' didn't change, skipping" in log
    assert "Running stage" not in log
    assert (shop.root / "dvc.lock").read_bytes() == before


def test_a_fresh_clone_pulls_its_data(shop: Shop, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shop.run("git", "clone", "--quiet", str(shop.root), str(clone))
    assert not (clone / "data").exists()
    shop.run("dvc", "pull", "--quiet", "data", cwd=clone)
    assert store.fingerprint(clone / "data") == store.fingerprint(shop.root / "data")


# --- the MLflow store ------------------------------------------------------------------------------------------------


def test_the_run_says_what_was_done(shop: Shop, client: "MlflowClient") -> None:
    (run,) = runs(client)
    assert run.info.status == "FINISHED"
    metrics = shop.read("artifacts/evaluate/metrics.json")
    assert run.data.metrics["ndcg_at_10"] == shop.read("artifacts/evaluate/summary.json")["ndcg@10"]
    assert not [name for name in run.data.metrics if name.startswith("bm25")], (
        "MLflow would plot each as a bar"
    )
    systems = client.load_table(run.info.experiment_id, "systems.json", [run.info.run_id])
    means = dict(zip(systems["system"], systems["ndcg@10"], strict=True))
    assert means == pytest.approx({name: round(values["ndcg@10"], 4) for name, values in metrics.items()})
    assert run.data.params["train.fusion"] == "concat"
    assert run.data.params["train.epochs"] == "2"
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in curve] == [1, 2]
    listed = {entry.path for entry in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/report.html", "evaluation/metrics.json", "evaluation/scores"} <= listed


def test_the_version_says_where_it_comes_from(shop: Shop, client: "MlflowClient") -> None:
    (version,) = versions(client)
    commit = shop.run("git", "rev-parse", "HEAD^").strip()
    pointer = yaml.safe_load((shop.root / "data.dvc").read_text())
    assert version.tags["vitrine.git.commit"] == commit
    assert version.tags["vitrine.git.dirty"] == "false"
    assert version.tags["vitrine.data"] == store.fingerprint(shop.root / "data")
    assert version.tags["vitrine.data.dvc"] == pointer["outs"][0]["md5"]
    assert version.tags["vitrine.gate"] == "passed"
    assert "There is no champion yet" in version.tags["vitrine.reasons"]
    assert aliases(client) == {"challenger": "1"}
    registration = shop.read("artifacts/register/registration.json")
    assert registration["run_id"] == version.run_id and registration["verdict"] == "passed"


def _register(shop: Shop, tmp_path: Path, **changes: Any) -> tuple[int, Any]:
    """Run `register` in this process with other parameters; returns its exit code and its registration."""
    params = yaml.safe_load((shop.root / "params.yaml").read_text())
    params["register"] |= changes
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    words = ["register", "--params", str(tmp_path / "params.yaml"), "--registration", str(tmp_path / "out")]
    words += [
        "--data",
        "data",
        "--report",
        "artifacts/validate",
        "--model",
        "artifacts/train",
        "--index",
        "artifacts/index",
        "--evaluation",
        "artifacts/evaluate",
    ]
    code = main(words)
    return code, json.loads((tmp_path / "out" / "registration.json").read_text())


def test_registering_again_adds_nothing(shop: Shop, client: "MlflowClient", tmp_path: Path) -> None:
    def state() -> Any:
        (run,), (version,) = runs(client), versions(client)
        points = client.get_metric_history(run.info.run_id, "train/loss")
        return run.info.run_id, run.data.to_dictionary(), version.version, version.tags, points

    before = state()
    assert _register(shop, tmp_path) == (0, shop.read("artifacts/register/registration.json"))
    assert state() == before


def test_other_evaluate_parameters_make_another_run(
    shop: Shop, client: "MlflowClient", tmp_path: Path
) -> None:
    """The metrics may be the same, but MLflow refuses to change the parameters of a run."""
    from components.register import hash_chain

    model, evaluation = shop.root / "artifacts" / "train", shop.root / "artifacts" / "evaluate"
    shutil.copytree(evaluation, tmp_path / "evaluate")
    assert hash_chain(model, tmp_path / "evaluate") == hash_chain(model, evaluation)
    made_from = json.loads((evaluation / "made_from.json").read_text())
    made_from["params"]["evaluate"]["depth"] += 1
    (tmp_path / "evaluate" / "made_from.json").write_text(json.dumps(made_from))
    assert hash_chain(model, tmp_path / "evaluate") != hash_chain(model, evaluation)


def test_a_score_below_the_floor_removes_the_alias(
    shop: Shop, client: "MlflowClient", tmp_path: Path
) -> None:
    code, registration = _register(shop, tmp_path, floors={"ndcg@10": 0.999})
    assert (code, registration["verdict"], registration["aliases"]) == (0, "failed", [])
    assert aliases(client) == {}
    (version,) = versions(client)
    assert version.tags["vitrine.gate"] == "failed"
    assert "too low: at least 0.999" in version.tags["vitrine.reasons"]

    code, registration = _register(shop, tmp_path)
    assert (code, registration["verdict"], aliases(client)) == (0, "passed", {"challenger": "1"})


def test_the_registered_model_answers_anywhere(shop: Shop, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(stream, "PNG")
    picture = base64.b64encode(stream.getvalue()).decode()
    script = """
        import json, sys
        from pathlib import Path
        import mlflow, pandas
        mlflow.set_tracking_uri(sys.argv[1])
        model = mlflow.pyfunc.load_model("models:/product-search@challenger")
        import fusion.model
        queries = pandas.DataFrame([{"text": "red shirt", "image": None}, {"text": None, "image": sys.argv[2]}])
        results = model.predict(queries, params={"k": 3})
        print(json.dumps({"rows": results.to_dict("records"), "code": fusion.model.__file__}))
    """
    log = shop.run(
        sys.executable,
        "-c",
        textwrap.dedent(script),
        f"sqlite:///{shop.root / 'mlflow.db'}",
        picture,
        cwd=tmp_path,
    )
    answer = json.loads(log.splitlines()[-1])
    assert not Path(answer["code"]).is_relative_to(ROOT) and "code/fusion" in answer["code"]
    assert [(row["query"], row["rank"]) for row in answer["rows"]] == [
        (q, r) for q in (0, 1) for r in (1, 2, 3)
    ]
    products = store.read_table(shop.root / "data", "products", ["product_id", "title"]).to_pylist()
    titles = {row["product_id"]: row["title"] for row in products}
    assert all(titles[row["product_id"]] == row["title"] for row in answer["rows"])
    scores = [row["score"] for row in answer["rows"]]
    assert scores[:3] == sorted(scores[:3], reverse=True)
    assert len({row["product_id"] for row in answer["rows"][:3]}) == 3


def test_the_served_model_says_what_was_wrong_with_a_request(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, from a folder without the project: 200 with products, 400 with the reason."""
    import mlflow

    def ask(query: dict[str, Any], **params: Any) -> requests.Response:
        body = {"dataframe_records": [query], "params": params}
        return requests.post(address, json=body, timeout=60)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    mlflow.set_tracking_uri(f"sqlite:///{shop.root / 'mlflow.db'}")
    with local_stack.serve_model("models:/product-search@challenger", tmp_path / "log") as address:
        answer = ask({"text": "red shirt"}, k=3, filters={"color": ["red"]}, max_price=10_000)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        assert [row["rank"] for row in rows] == [1, 2, 3][: len(rows)] and rows
        assert {row["color"] for row in rows} == {"red"}
        assert all(0 <= row[f"share_{name}"] <= 1 for row in rows for name in ("text", "image", "video"))
        for query, params, reason in [
            ({"image": "no base64!"}, {}, "query 0: `image` is not base64"),
            ({"image": base64.b64encode(b"<svg/>").decode()}, {}, "query 0: picture not a JPEG"),
            ({"text": ""}, {}, "query 0: give `text`, `image` (base64) or both"),
            ({"text": "red"}, {"k": 0}, "from 1 to 1,000, got 0"),
            ({"text": "red"}, {"k": "many"}, "many"),
            ({"text": "red"}, {"filters": {"size": ["XL"]}}, "size"),
            ({"text": "red"}, {"min_price": 5, "max_price": 4}, "prices from 5 to 4"),
            ({"text": 7}, {}, "text"),
        ]:
            answer = ask(query, **params)
            assert (answer.status_code, reason in answer.text) == (400, True), (query, params, answer.text)


# --- the pipeline ----------------------------------------------------------------------------------------------------


def test_the_pipeline_gives_the_same_metrics(shop: Shop, client: "MlflowClient", tmp_path: Path) -> None:
    shop.run("python", "-m", "pipelines", "run", "--root", str(tmp_path), warm=True)
    (path,) = tmp_path.glob("*/evaluate/evaluation/metrics.json")
    assert json.loads(path.read_text()) == shop.read("artifacts/evaluate/metrics.json")
    (path,) = tmp_path.glob("*/register/registration/registration.json")
    assert json.loads(path.read_text())["run_id"] == runs(client)[0].info.run_id
    assert len(runs(client)) == len(versions(client)) == 1  # the same chain is the same run


# --- experiments -----------------------------------------------------------------------------------------------------


def test_an_experiment_is_another_run_in_the_same_store(shop: Shop, client: "MlflowClient") -> None:
    before = shop.run("git", "status", "--porcelain")
    words = ("exp", "run", "--temp", "--name", "gated", "--set-param", "train.fusion=gated")
    log = shop.run("dvc", *words, warm=True)
    assert "Running stage 'featurize'" not in log
    assert shop.run("git", "status", "--porcelain") == before

    fusions = {run.data.params["train.fusion"]: run for run in runs(client)}
    assert set(fusions) == {"concat", "gated"} and len(runs(client)) == 2
    (_, version) = versions(client)
    assert version.run_id == fusions["gated"].info.run_id

    rows = json.loads(shop.run("dvc", "exp", "show", "--json"))
    experiments = {row["name"]: row["data"] for row in _flatten(rows) if row.get("name") and row.get("data")}
    experiment, base = experiments["gated"], next(row["data"] for row in rows if row["rev"] == "workspace")
    settings = [row["params"]["params.yaml"]["data"]["train"]["fusion"] for row in (base, experiment)]
    assert settings == ["concat", "gated"]
    (base_metrics,), (metrics,) = (row["metrics"].values() for row in (base, experiment))
    assert base_metrics["data"] == shop.read("artifacts/evaluate/summary.json")
    assert base_metrics["data"]["ndcg@10"] != metrics["data"]["ndcg@10"]


def _flatten(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row
        for experiment in row.get("experiments") or []:
            yield from experiment["revs"]


# --- the champion ----------------------------------------------------------------------------------------------------


def paths(**flags: Path) -> list[str]:
    return [word for name, path in flags.items() for word in (f"--{name}", str(path))]


@pytest.fixture(scope="module")
def other(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop one season later: other data, and a candidate trained on it."""
    root = tmp_path_factory.mktemp("later")
    params = shop.root / "params.yaml"
    write_sample(root / "data", products=80, seed=6, queries=60, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(shop.launcher))
        patch.chdir(shop.root)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shop.root / 'mlflow.db'}")
        assert main(["validate", *paths(data=root / "data", report=root / "validate")]) == 0
    settings: dict[str, Any] = {name: load_section(params, name) for name in STAGES}
    featurize(root / "data", root / "validate", settings["featurize"], root / "featurize")
    train(root / "featurize", settings["train"], root / "train")
    index(root / "data", root / "featurize", root / "train", settings["index"], root / "index")
    inputs = (root / name for name in ("data", "featurize", "train", "index"))
    evaluate(*inputs, settings["evaluate"], root / "evaluate")
    return root


def test_promote_auto_makes_a_champion_and_its_verdict_stands(
    shop: Shop, client: "MlflowClient", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, registration = _register(shop, tmp_path, promote="auto")
    assert (code, registration["aliases"]) == (0, ["champion"])
    assert aliases(client)["champion"] == "1" != aliases(client).get("challenger")
    capsys.readouterr()

    assert _register(shop, tmp_path, floors={"ndcg@10": 0.999}) == (0, registration)
    assert "is the champion already" in capsys.readouterr().out
    assert aliases(client)["champion"] == "1"


def test_a_champion_of_the_same_data_is_not_scored_again(
    shop: Shop, client: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry import champion_scoring

    def never(*_: object) -> None:
        raise AssertionError("rescored")

    source = shop.read("artifacts/evaluate/made_from.json")
    champion = client.get_model_version_by_alias("product-search", "champion")
    served = read_served(shop.root / "artifacts" / "evaluate")
    stored = pq.read_table(shop.root / "artifacts" / "evaluate" / "scores" / f"{served}.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(champion_scoring, "_score_run", never)
        stored_evidence = champion_scoring.evaluate_champion(
            champion, shop.root / "data", source, "ndcg@10"
        ).evidence
    assert stored_evidence.scores.query_ids.tolist() == stored["query_id"].to_pylist()
    assert stored_evidence.scores.values["ndcg@10"].tolist() == stored["ndcg@10"].to_pylist()

    # with another depth it is ranked again: by its own code, from texts and pictures, with the same result
    source["params"]["evaluate"]["depth"] += 1
    evidence = champion_scoring.evaluate_champion(champion, shop.root / "data", source, "ndcg@10").evidence
    assert evidence.scores.query_ids.tolist() == stored_evidence.scores.query_ids.tolist()
    for metric, values in stored_evidence.scores.values.items():
        np.testing.assert_allclose(evidence.scores.values[metric], values, atol=1e-9, err_msg=metric)


def test_a_champion_of_other_data_is_scored_on_the_new(
    shop: Shop, other: Path, client: "MlflowClient", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["register", "--params", str(shop.root / "params.yaml"), "--registration", str(tmp_path / "out")]
    words += ["--data", str(other / "data"), "--report", str(other / "validate")]
    words += ["--model", str(other / "train"), "--index", str(other / "index")]
    assert main([*words, "--evaluation", str(other / "evaluate")]) == 0
    page = (tmp_path / "out" / "decision.html").read_text()
    assert "<bdi>champion (version 1)</bdi>" in page and "<bdi>bm25</bdi>" in page
    registration = json.loads((tmp_path / "out" / "registration.json").read_text())
    before = shop.read("artifacts/evaluate/summary.json")["ndcg@10"]
    match = re.fullmatch(
        r"The champion, version 1, was evaluated on other data: ndcg@10 ([\d.]+)\. "
        r"It was ranked and scored again on this data in (\d+) s: ndcg@10 ([\d.]+)\.",
        registration["scored_again"],
    )
    assert match and match[1] == f"{before:.4f}" != match[3]
    assert registration["scored_again"] in page
    assert registration["scored_again"] in (tmp_path / "out" / "model_card.md").read_text()
    assert registration["compared_with"] == "1"
    query_count = pq.read_metadata(other / "evaluate" / "queries.parquet").num_rows
    assert f"{query_count} queries" in next(
        f["text"] for f in registration["findings"] if f["rule"] == "gain ndcg@10"
    )


def test_data_are_compared_with_the_champions(
    shop: Shop, other: Path, client: "MlflowClient", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Similar data, the champion's own data, and data with higher prices: the numbers, the page, and the rules."""
    champion = json.loads((other / "validate" / "report.json").read_text())["champion"]
    assert champion["version"] == "1"
    assert 0 < champion["drift"] == max(drift["index"] for drift in champion["drifts"].values())
    (logged,) = (run for run in runs(client) if "drift" in run.data.metrics)
    assert logged.data.metrics["drift"] == champion["drift"]
    assert client.list_artifacts(logged.info.run_id, "validation")[0].path == "validation/champion.html"

    flags = paths(params=shop.root / "params.yaml", data=shop.root / "data", report=tmp_path / "own")
    assert main(["validate", *flags]) == 0
    champion = json.loads((tmp_path / "own" / "report.json").read_text())["champion"]
    assert {(drift["index"], drift["p"]) for drift in champion["drifts"].values()} == {(0, 1)}
    page = (tmp_path / "own" / "champion.html").read_text()
    shares = [float(share) for share in re.findall(r"<strong class=\"\w+\">([\d.]+) %</strong>", page)]
    assert shares == sorted(shares) and len(shares) == page.count('src="data:image/jpeg;base64,') == 60

    dear = shutil.copytree(shop.root / "data", tmp_path / "dear")
    (file,) = (dear / "products").glob("*.parquet")
    rows = pq.read_table(file)
    prices = pc.multiply(rows["price"], 10.0)
    pq.write_table(rows.set_column(rows.schema.get_field_index("price"), "price", prices), file)
    params = yaml.safe_load((shop.root / "params.yaml").read_text())
    params["validate"]["severity"] = {"drift": "error"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    flags = paths(params=tmp_path / "params.yaml", data=dear, report=tmp_path / "new")
    assert main(["validate", *flags]) == 1
    message = r"drift \(drift\): products must not drift from .*; 1 of \d .*: prices: \d"
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "new").exists() and (tmp_path / "new-failed" / "champion.html").exists()


def test_a_champion_is_scored_by_the_code_it_was_registered_with(
    shop: Shop, other: Path, client: "MlflowClient", tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    champion = client.get_model_version_by_alias("product-search", "champion")
    (code,) = (shop.root / "mlartifacts").glob(
        f"models/{champion.source.rpartition('/')[2]}/artifacts/code/fusion/search/catalogue_search.py"
    )
    original = code.read_text()
    code.write_text("raise SystemExit('not as it was')")
    try:
        words = ["--params", str(shop.root / "params.yaml"), "--registration", str(tmp_path / "out")]
        words += ["--data", str(other / "data"), "--report", str(other / "validate")]
        words += ["--model", str(other / "train"), "--index", str(other / "index")]
        assert main(["register", *words, "--evaluation", str(other / "evaluate")]) == 1
    finally:
        code.write_text(original)
    stderr = capfd.readouterr().err  # includes that of child processes
    assert "not as it was" in stderr and "the champion's own code failed to rank (exit code 1)" in stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "out").exists()


# --- the network -----------------------------------------------------------------------------------------------------


def test_nothing_used_the_network(shop: Shop) -> None:
    """Runs last, after all processes of this file."""
    assert not shop.calls.exists(), shop.calls.read_text()
