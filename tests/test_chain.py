"""The chain as a user runs it: one small repository of git and DVC, made once for this file, and no network."""

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
from catalog.sample import sample
from components.__main__ import main
from components.evaluate import evaluate
from components.featurize import featurize
from components.params import SECTIONS, load
from components.train import train
from registry import local_stack

if TYPE_CHECKING:
    from mlflow import MlflowClient

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PACKAGES = ("catalog", "components", "eval", "fusion", "pipelines")
FILES = ("dvc.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore")
SMALL = {
    "train": {"epochs": 2, "dim": 16, "hidden": 16},
    "evaluate": {"resamples": 200},
    "register": {
        "floors": {"ndcg@10": 0.0},
        "budgets": {"model_mb": 500},
    },  # how fast a busy machine is, nobody knows
}
STAGES = tuple(SECTIONS)

# Loaded by every Python process of the chain: an attempt to leave this machine is written down, and fails.
OFFLINE = """
import os, socket

def leaves(address):
    return isinstance(address, tuple) and address[0] not in ("localhost", "127.0.0.1", "::1", None, "")

def guarded(function, pick):
    def call(*arguments, **named):
        if leaves(pick(arguments)):
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
    """A project of its own, in which the chain has run."""

    root: Path
    environment: dict[str, str]
    calls: Path  # where attempts to reach the network are written

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """What a command says, on both streams; it must succeed."""
        done = subprocess.run(
            command,
            cwd=cwd or self.root,
            env=self.environment,
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
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    base = tmp_path_factory.mktemp("chain")
    (base / "offline").mkdir()
    (base / "offline" / "sitecustomize.py").write_text(OFFLINE)
    # without the last, each of the many processes would compile its libraries anew
    unwanted = ("MLFLOW_", "GIT_", "DVC_", "VITRINE_", "PYTHONDONTWRITEBYTECODE")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
    environment = inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(base / "offline"),
        "VITRINE_TEST_CALLS": str(base / "calls"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        **{
            f"GIT_{role}_{what}": f"shop@{what}"
            for role in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        },
    }
    shop = Shop(base / "shop", environment, base / "calls")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, shop.root / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        (shop.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, shop.root / name)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for section, changes in SMALL.items():
        params[section] |= changes
    (shop.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    sample(shop.root / "data", products=120, seed=5, queries=80, workers=1)

    shop.run("git", "init", "--quiet")
    shop.run("dvc", "add", "--quiet", "data")
    shop.run("dvc", "push", "--quiet")
    shop.commit("A shop")
    shop.run("dvc", "repro")
    shop.commit("Its first chain")
    return shop


@pytest.fixture
def client(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Iterator["MlflowClient"]:
    """Of the shop's own store, as the stages find it when they run in this process."""
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
    found = client.get_registered_model("product-search").aliases
    return {alias: str(version) for alias, version in found.items()}


def versions(client: "MlflowClient") -> list[Any]:
    found = client.search_model_versions("name = 'product-search'")
    return sorted(found, key=lambda version: int(version.version))


# --- dvc repro -------------------------------------------------------------------------------------------------------


def test_the_chain_leaves_what_each_stage_promises(shop: Shop) -> None:
    metrics = shop.read("artifacts/evaluate/metrics.json")
    alone = {"text-only", "image-only", "video-only"}
    assert set(metrics) == {"bm25", "fused", "hybrid"} | alone | {"no text", "no image", "no video"}
    assert shop.read("artifacts/validate/report.json")["passed"]
    left = {path.name for path in (shop.root / "artifacts").iterdir()}
    assert left == set(STAGES)


def test_a_second_repro_runs_nothing(shop: Shop) -> None:
    before = (shop.root / "dvc.lock").read_bytes()
    said = shop.run("dvc", "repro")
    for stage in STAGES:
        assert f"Stage '{stage}' didn't change, skipping" in said
    assert "Running stage" not in said
    assert (shop.root / "dvc.lock").read_bytes() == before


def test_dvc_knows_the_metrics(shop: Shop) -> None:
    shown = json.loads(shop.run("dvc", "metrics", "show", "--json"))
    assert shown[""]["data"]["artifacts/evaluate/metrics.json"]["data"] == shop.read(
        "artifacts/evaluate/metrics.json"
    )


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
    ours = shop.read("artifacts/evaluate/metrics.json")
    assert run.data.metrics["ndcg_at_10"] == ours["fused"]["ndcg@10"]
    assert not [name for name in run.data.metrics if name.startswith("bm25")], "MLflow would draw bars"
    systems = client.load_table(run.info.experiment_id, "systems.json", [run.info.run_id])
    means = dict(zip(systems["system"], systems["ndcg@10"], strict=True))
    assert means == {name: round(values["ndcg@10"], 4) for name, values in ours.items()}
    assert run.data.params["train.fusion"] == "concat"
    assert run.data.params["train.epochs"] == "2"
    curve = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in curve] == [1, 2]
    listed = {entry.path for entry in client.list_artifacts(run.info.run_id, "evaluation")}
    assert {"evaluation/report.html", "evaluation/metrics.json", "evaluation/scores"} <= listed


def test_the_version_says_where_it_comes_from(shop: Shop, client: "MlflowClient") -> None:
    (version,) = versions(client)
    made = shop.run("git", "rev-parse", "HEAD^").strip()
    pointer = yaml.safe_load((shop.root / "data.dvc").read_text())
    assert version.tags["vitrine.git.commit"] == made
    assert version.tags["vitrine.git.dirty"] == "false"
    assert version.tags["vitrine.data"] == store.fingerprint(shop.root / "data")
    assert version.tags["vitrine.data.dvc"] == pointer["outs"][0]["md5"]
    assert version.tags["vitrine.gate"] == "passed"
    assert "There is no champion yet" in version.tags["vitrine.reasons"]
    assert aliases(client) == {"challenger": "1"}
    registration = shop.read("artifacts/register/registration.json")
    assert registration["run_id"] == version.run_id and registration["verdict"] == "passed"


def _register(shop: Shop, tmp_path: Path, **changes: Any) -> tuple[int, Any]:
    """The stage, in this process, with other parameters; its exit code and what it wrote."""
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


def test_another_way_to_judge_is_another_run(shop: Shop, client: "MlflowClient", tmp_path: Path) -> None:
    """Its metrics may be the same; MLflow would refuse its parameters as a change of the first run's."""
    from components.register import _chain

    model, judged = shop.root / "artifacts" / "train", shop.root / "artifacts" / "evaluate"
    shutil.copytree(judged, tmp_path / "evaluate")
    assert _chain(model, tmp_path / "evaluate") == _chain(model, judged)
    made = json.loads((judged / "made_from.json").read_text())
    made["params"]["evaluate"]["seed"] += 1
    (tmp_path / "evaluate" / "made_from.json").write_text(json.dumps(made))
    assert _chain(model, tmp_path / "evaluate") != _chain(model, judged)


def test_a_floor_that_is_not_met_takes_the_alias_away(
    shop: Shop, client: "MlflowClient", tmp_path: Path
) -> None:
    code, said = _register(shop, tmp_path, floors={"ndcg@10": 0.999})
    assert (code, said["verdict"], said["aliases"]) == (0, "failed", [])
    assert aliases(client) == {}
    (version,) = versions(client)
    assert version.tags["vitrine.gate"] == "failed"
    assert "too low: at least 0.999" in version.tags["vitrine.reasons"]

    code, said = _register(shop, tmp_path)
    assert (code, said["verdict"], aliases(client)) == (0, "passed", {"challenger": "1"})


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
        asked = pandas.DataFrame([{"text": "red shirt", "image": None}, {"text": None, "image": sys.argv[2]}])
        found = model.predict(asked, params={"k": 3})
        print(json.dumps({"rows": found.to_dict("records"), "code": fusion.model.__file__}))
    """
    said = shop.run(
        sys.executable,
        "-c",
        textwrap.dedent(script),
        f"sqlite:///{shop.root / 'mlflow.db'}",
        picture,
        cwd=tmp_path,
    )
    answer = json.loads(said.splitlines()[-1])
    assert not Path(answer["code"]).is_relative_to(ROOT) and "code/fusion" in answer["code"]
    assert [(row["query"], row["rank"]) for row in answer["rows"]] == [
        (q, r) for q in (0, 1) for r in (1, 2, 3)
    ]
    products = store.read(shop.root / "data", "products", ["product_id", "title"]).to_pylist()
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
    with local_stack.model("models:/product-search@challenger", tmp_path / "log") as address:
        answer = ask({"text": "red shirt"}, k=3, filters={"color": ["red"]}, max_price=10_000)
        assert answer.status_code == 200, answer.text
        found = answer.json()["predictions"]
        assert [row["rank"] for row in found] == [1, 2, 3][: len(found)] and found
        assert {row["color"] for row in found} == {"red"}
        assert all(0 <= row[f"share_{name}"] <= 1 for row in found for name in ("text", "image", "video"))
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
    shop.run("python", "-m", "pipelines", "run", "--root", str(tmp_path))
    (path,) = tmp_path.glob("*/evaluate/evaluation/metrics.json")
    assert json.loads(path.read_text()) == shop.read("artifacts/evaluate/metrics.json")
    (path,) = tmp_path.glob("*/register/registration/registration.json")
    assert json.loads(path.read_text())["run_id"] == runs(client)[0].info.run_id
    assert len(runs(client)) == len(versions(client)) == 1  # the same chain, found again


# --- experiments -----------------------------------------------------------------------------------------------------


def test_an_experiment_is_told_apart_and_kept_in_the_same_store(shop: Shop, client: "MlflowClient") -> None:
    before = shop.run("git", "status", "--porcelain")
    said = shop.run("dvc", "exp", "run", "--temp", "--name", "gated", "--set-param", "train.fusion=gated")
    assert "Running stage 'featurize'" not in said
    assert shop.run("git", "status", "--porcelain") == before

    fusions = {run.data.params["train.fusion"]: run for run in runs(client)}
    assert set(fusions) == {"concat", "gated"} and len(runs(client)) == 2
    (_, version) = versions(client)
    assert version.run_id == fusions["gated"].info.run_id

    rows = json.loads(shop.run("dvc", "exp", "show", "--json"))
    found = {row["name"]: row["data"] for row in _flat(rows) if row.get("name") and row.get("data")}
    experiment, base = found["gated"], next(row["data"] for row in rows if row["rev"] == "workspace")
    settings = [one["params"]["params.yaml"]["data"]["train"]["fusion"] for one in (base, experiment)]
    assert settings == ["concat", "gated"]
    ours, theirs = (one["metrics"]["artifacts/evaluate/metrics.json"]["data"] for one in (base, experiment))
    assert ours["bm25"] == theirs["bm25"] and ours["fused"] != theirs["fused"]


def _flat(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield row
        for one in row.get("experiments") or []:
            yield from one["revs"]


# --- the champion ----------------------------------------------------------------------------------------------------


def paths(**flags: Path) -> list[str]:
    return [word for name, path in flags.items() for word in (f"--{name}", str(path))]


@pytest.fixture(scope="module")
def other(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shop's catalogue a season later: other data, and a candidate made of it."""
    root = tmp_path_factory.mktemp("later")
    params = shop.root / "params.yaml"
    sample(root / "data", products=80, seed=6, queries=60, workers=1)
    shop.run("python", "-m", "components", "validate", *paths(data=root / "data", report=root / "validate"))
    settings: dict[str, Any] = {name: load(params, name) for name in STAGES}
    featurize(root / "data", root / "validate", settings["featurize"], root / "featurize")
    train(root / "featurize", settings["train"], root / "train")
    evaluate(root / "data", root / "featurize", root / "train", settings["evaluate"], root / "evaluate")
    return root


def test_promote_auto_makes_a_champion_and_its_verdict_stands(
    shop: Shop, client: "MlflowClient", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = _register(shop, tmp_path, promote="auto")
    assert (code, said["aliases"]) == (0, ["champion"])
    assert aliases(client)["champion"] == "1" != aliases(client).get("challenger")
    capsys.readouterr()

    assert _register(shop, tmp_path, floors={"ndcg@10": 0.999}) == (0, said)
    assert "is the champion already" in capsys.readouterr().out
    assert aliases(client)["champion"] == "1"


def test_a_champion_of_the_same_data_is_not_scored_again(
    shop: Shop, client: "MlflowClient", monkeypatch: pytest.MonkeyPatch
) -> None:
    from registry import champion_scoring

    def never(*_: object) -> None:
        raise AssertionError("scored again")

    source = shop.read("artifacts/evaluate/made_from.json")
    champion = client.get_model_version_by_alias("product-search", "champion")
    stored = pq.read_table(shop.root / "artifacts" / "evaluate" / "scores" / "fused.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(champion_scoring, "_scored_again", never)
        found = champion_scoring.of_champion(champion, shop.root / "data", source, "ndcg@10").evidence
    assert found.scores.query_ids.tolist() == stored["query_id"].to_pylist()
    assert found.scores.values["ndcg@10"].tolist() == stored["ndcg@10"].to_pylist()

    # judged in another way, it is scored again: by its own code, from texts and pictures, to the same result
    source["params"]["evaluate"]["resamples"] += 1
    again = champion_scoring.of_champion(champion, shop.root / "data", source, "ndcg@10").evidence
    assert again.scores.query_ids.tolist() == found.scores.query_ids.tolist()
    for metric, values in found.scores.values.items():
        np.testing.assert_allclose(again.scores.values[metric], values, atol=1e-9, err_msg=metric)


def test_a_champion_of_other_data_is_scored_on_the_new(
    shop: Shop, other: Path, client: "MlflowClient", tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["register", "--params", str(shop.root / "params.yaml"), "--registration", str(tmp_path / "out")]
    words += ["--data", str(other / "data"), "--report", str(other / "validate")]
    words += ["--model", str(other / "train")]
    assert main([*words, "--evaluation", str(other / "evaluate")]) == 0
    page = (tmp_path / "out" / "decision.html").read_text()
    assert "<bdi>champion (version 1)</bdi>" in page and "<bdi>bm25</bdi>" in page
    said = json.loads((tmp_path / "out" / "registration.json").read_text())
    before = shop.read("artifacts/evaluate/metrics.json")["fused"]["ndcg@10"]
    told = re.fullmatch(
        r"The champion, version 1, was judged on other data or in another way, with ndcg@10 at ([\d.]+)\. "
        r"Scored again on this data, in (\d+) s, it is at ([\d.]+)\.",
        said["scored_again"],
    )
    assert told and told[1] == f"{before:.4f}" != told[3]
    assert said["scored_again"] in page
    assert said["scored_again"] in (tmp_path / "out" / "model_card.md").read_text()
    assert said["compared_with"] == "1"
    asked = store.read(other / "data", "queries", ["split"])["split"].to_pylist().count("test")
    assert f"{asked} queries" in next(f["text"] for f in said["findings"] if f["rule"] == "gain ndcg@10")


def test_data_are_set_beside_the_champions(
    shop: Shop, other: Path, client: "MlflowClient", tmp_path: Path
) -> None:
    """Of the same kind, its own, and dearer ones: the numbers, the page, and the rules."""
    told = json.loads((other / "validate" / "report.json").read_text())["champion"]
    assert told["version"] == "1"
    assert 0 < told["drift"] == max(one["index"] for one in told["drifts"].values())
    (logged,) = (run for run in runs(client) if "drift" in run.data.metrics)
    assert logged.data.metrics["drift"] == told["drift"]
    assert client.list_artifacts(logged.info.run_id, "validation")[0].path == "validation/champion.html"

    flags = paths(data=shop.root / "data", report=tmp_path / "own")
    shop.run("python", "-m", "components", "validate", *flags)
    told = json.loads((tmp_path / "own" / "report.json").read_text())["champion"]
    assert {(one["index"], one["p"]) for one in told["drifts"].values()} == {(0, 1)}
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
    with pytest.raises(
        AssertionError, match=r"drift \(drift\): products must be like .*; 1 of \d .*: prices: \d"
    ):
        shop.run("python", "-m", "components", "validate", *flags)
    assert not (tmp_path / "new").exists() and (tmp_path / "new-failed" / "champion.html").exists()


def test_a_champion_is_scored_by_the_code_it_was_registered_with(
    shop: Shop, other: Path, client: "MlflowClient", tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    champion = client.get_model_version_by_alias("product-search", "champion")
    (code,) = (shop.root / "mlartifacts").glob(
        f"models/{champion.source.rpartition('/')[2]}/artifacts/code/fusion/search/catalogue_search.py"
    )
    kept = code.read_text()
    code.write_text("raise SystemExit('not as it was')")
    try:
        words = ["--params", str(shop.root / "params.yaml"), "--registration", str(tmp_path / "out")]
        words += ["--data", str(other / "data"), "--report", str(other / "validate")]
        words += ["--model", str(other / "train")]
        assert main(["register", *words, "--evaluation", str(other / "evaluate")]) == 1
    finally:
        code.write_text(kept)
    said = capfd.readouterr().err  # its process's, too
    assert "not as it was" in said and "the champion's own code failed to rank (1)" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


# --- all of it -------------------------------------------------------------------------------------------------------


def test_nothing_asked_for_the_network(shop: Shop) -> None:
    """Runs last, after all processes of this file."""
    assert not shop.calls.exists(), shop.calls.read_text()
