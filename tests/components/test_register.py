import json
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement

from catalog import store
from catalog.schema import DataError
from components.params import RegisterParams
from components.register import register
from fusion.featurizer import SETTINGS
from fusion.search.marker import IndexMarker
from registry.champion_process import has_artifact
from registry.live_index import INDEX
from registry.model_logging import list_featurizer_packages, list_requirements
from registry.model_registry import ModelRegistry
from registry.promotion import promote
from scoring.systems import read_served

if TYPE_CHECKING:
    from mlflow import MlflowClient

OPEN = RegisterParams(floors={"ndcg@10": 0.0}, budgets={}, baselines={}, min_queries=2)
AUTO = OPEN.model_copy(update={"promote": "auto"})
CLOSED = RegisterParams(floors={"ndcg@10": 1.0}, baselines={})


def read(folder: Path) -> Any:
    return json.loads((folder / "registration.json").read_text())


@pytest.mark.slow
def test_a_verdict_may_change_and_a_champion_stays(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    def decide(params: RegisterParams) -> tuple[str, dict[str, str]]:
        register(data, report, model, index, evaluation, params, tmp_path / "out")
        aliases = client.get_registered_model(params.model_name).aliases
        return read(tmp_path / "out")["verdict"], {alias: str(version) for alias, version in aliases.items()}

    assert decide(CLOSED) == ("failed", {})
    assert decide(OPEN) == ("passed", {"challenger": "1"})
    assert decide(CLOSED) == ("failed", {})
    assert decide(AUTO) == ("passed", {"champion": "1"})
    assert decide(CLOSED) == ("passed", {"champion": "1"})
    assert len(client.search_model_versions(f"name = '{OPEN.model_name}'")) == 1


def test_an_equal_candidate_does_not_pass(
    data: Path,
    report: Path,
    model: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    """Another model with the champion's very scores: a tie is no gain."""
    register(data, report, model, index, evaluation, AUTO, tmp_path / "out")
    register(data, report, twin, index, evaluation, AUTO, tmp_path / "out")
    result = read(tmp_path / "out")
    assert (result["version"], result["compared_with"], result["verdict"], result["aliases"]) == (
        "2",
        "1",
        "undecided",
        [],
    )
    assert client.get_model_version_by_alias(OPEN.model_name, "champion").version in {1, "1"}
    (version,) = (
        v for v in client.search_model_versions(f"name = '{OPEN.model_name}'") if str(v.version) == "2"
    )
    assert version.tags["vitrine.gate"] == "undecided"
    assert "not significantly different" in version.tags["vitrine.reasons"]

    page = (tmp_path / "out" / "decision.html").read_text()
    assert "<h1>Do not promote version 2 yet</h1>" in page and "champion is version 1, since " in page
    names = ("version 2", r"champion \(version 1\)")
    candidate, champion = (
        re.search(rf"<bdi>{name}</bdi></th>\s*<td[^>]*><bdi>([\d.]+)", page) for name in names
    )
    assert candidate and champion and candidate[1] == champion[1]
    assert "promote 2 --force --reason &#34;…&#34;" in page
    assert "decision.html" in [artifact.path for artifact in client.list_artifacts(result["run_id"])]


def test_the_first_version_has_no_champion_to_compare_with(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "registration.json", "model_card.md", "decision.html",
    }  # fmt: skip
    page = (tmp_path / "out" / "decision.html").read_text()
    assert "<h1>Version 1 may be promoted</h1>" in page and "there is no champion yet" in page
    assert "registry promote 1\n" in page or "registry promote 1</pre>" in page


def test_a_champion_from_elsewhere_is_one_clear_message(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    client.create_registered_model(OPEN.model_name)
    version = client.create_model_version(OPEN.model_name, source=tmp_path.as_uri())
    client.set_registered_model_alias(OPEN.model_name, "champion", version.version)
    with pytest.raises(DataError, match=r"the champion, version 1 of product-search, has no run"):
        register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_serving_needs_is_pinned() -> None:
    assert set(list_requirements(["transformers"])) - set(list_requirements()) == {
        f"transformers=={metadata.version('transformers')}"
    }
    requirements = {requirement.name: requirement for requirement in map(Requirement, list_requirements())}
    assert {"torch", "numpy", "pyarrow", "mlflow", "pandas"} <= set(requirements)
    assert not {"dvc", "kfp", "great-expectations", "pytest"} & set(requirements)
    specifiers = [requirement.specifier for requirement in requirements.values()]
    assert all(len(specifier) == 1 and "+" not in str(specifier) for specifier in specifiers)


def test_serving_needs_what_reads_the_text_on_pictures(tmp_path: Path) -> None:
    for reader, packages in ((None, ["openvino"]), ("rapidocr", ["openvino", "rapidocr", "openvino"])):
        (tmp_path / SETTINGS).write_text(json.dumps({"runtime": "openvino", "ocr": reader}))
        assert list_featurizer_packages(tmp_path) == packages


def test_ratings_of_equal_weights_count(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    """The survey rated version 1, whose weights the candidate has."""
    survey = store.read_table(data, "satisfaction", ["rating"])["rating"].to_numpy()
    for limit, verdict in ((survey.mean() - 0.01, "passed"), (survey.mean() + 0.01, "failed")):
        params = OPEN.model_copy(update={"min_rating": limit})
        register(data, report, model, index, evaluation, params, tmp_path / "out")
        (finding,) = (row for row in read(tmp_path / "out")["findings"] if row["rule"] == "rating")
        assert (finding["verdict"], finding["value"]) == (verdict, pytest.approx(survey.mean()))
        assert finding["low"] < finding["value"] < finding["high"]


def test_warnings_of_the_validation_have_a_budget(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    for budget, verdict in ((2, "passed"), (1, "failed")):  # the report has 2
        params = OPEN.model_copy(update={"budgets": {"validation_warnings": budget}})
        register(data, report, model, index, evaluation, params, tmp_path / "out")
        assert read(tmp_path / "out")["verdict"] == verdict


def test_a_version_without_an_index_is_not_promoted_before_one_is_built(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    params = OPEN.model_copy(update={"package_index": False})
    register(data, report, model, index, evaluation, params, tmp_path / "out")
    version = client.get_model_version(OPEN.model_name, "1")
    assert json.loads(version.tags["vitrine.judged_index"]) == IndexMarker.load(index).describe()
    assert has_artifact(version, "hybrid") and not has_artifact(version, "index")
    registry = ModelRegistry(client, OPEN.model_name)
    with pytest.raises(DataError, match=r"it holds no index .* python -m serving refresh --version 1"):
        promote(registry, "1")
    client.set_model_version_tag(OPEN.model_name, "1", INDEX, "runs:/1/index")
    assert promote(registry, "1").startswith("version 1 is the champion")


def test_an_index_of_another_model_is_not_registered(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    foreign = shutil.copytree(index, tmp_path / "index")
    marker = IndexMarker.load(index)
    marker._replace(model=marker.model._replace(weights="0" * 32)).save(foreign)
    with pytest.raises(DataError, match="another model made this index"):
        register(data, report, model, foreign, evaluation, OPEN, tmp_path / "out")
    assert not client.search_registered_models() and not (tmp_path / "out").exists()


def test_a_version_says_where_it_comes_from_and_how_good_it_is(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
) -> None:
    register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    (version,) = client.search_model_versions(f"name = '{OPEN.model_name}'")
    assert version.tags["vitrine.judgements"] == store.fingerprint(data / "judgements")
    assert "torch 2." in version.tags["vitrine.libraries"]
    import mlflow

    requirements = Path(mlflow.pyfunc.get_model_dependencies(version.source)).read_text()
    assert f"openvino=={metadata.version('openvino')}" in requirements.splitlines()
    card = (tmp_path / "out" / "model_card.md").read_text()
    for heading in ("Quality on", "Known weaknesses", "Intended use", "Data", "Model", "Lineage"):
        assert f"\n## {heading}" in card
    assert card.startswith("# product-search, version 1\n\n**Gate passed: version 1 may be promoted with ")
    assert "60 products, 60 queries" in card and store.fingerprint(data) in card
    means = json.loads((evaluation / "metrics.json").read_text())
    served = read_served(evaluation)
    ours, theirs = (f"{means[system]['ndcg@10']:.3f}" for system in (served, "bm25"))
    assert re.search(rf"\| ndcg@10 \| {ours} \| [\d.]+–[\d.]+ \| {theirs} \|", card)
    assert version.description and version.description.startswith(
        "Gate passed: version 1 may be promoted with "
    )
    link = "/artifacts/decision.html?workflowType=machine_learning"
    assert f"runs/{version.run_id}{link})" in version.description
    assert len(version.description) <= 5000
    run = client.get_run(version.run_id)
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("data", store.fingerprint(data))
    assert json.loads(used.dataset.profile)["tables"]["products"] == 60
    assert any(
        column["name"] == "products.title" for column in json.loads(used.dataset.schema)["mlflow_colspec"]
    )
    assert run.info.run_name == "version 1 · challenger"
    register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    assert len(client.get_run(version.run_id).inputs.dataset_inputs) == 1


def test_a_logged_model_that_was_not_registered_is_used(
    data: Path,
    report: Path,
    model: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mlflow.register_model", interrupt)
        register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    experiment = client.get_experiment_by_name("product-search")
    assert experiment
    (logged,) = client.search_logged_models([experiment.experiment_id])
    (version,) = client.search_model_versions(f"name = '{OPEN.model_name}'")
    assert logged.model_id in version.source


@pytest.mark.slow
def test_a_promotion_in_the_meantime_is_not_overruled(
    data: Path,
    report: Path,
    model: Path,
    twin: Path,
    index: Path,
    evaluation: Path,
    tmp_path: Path,
    client: "MlflowClient",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The verdict was against another champion, so the promotion is refused; the next run judges again."""
    register(data, report, model, index, evaluation, OPEN, tmp_path / "out")
    from registry import comparison as module

    decide = module.decide

    def promote_and_decide(*arguments: Any) -> Any:
        monkeypatch.setattr(module, "decide", decide)
        client.set_registered_model_alias(OPEN.model_name, "champion", "1")
        return decide(*arguments)

    monkeypatch.setattr(module, "decide", promote_and_decide)
    with pytest.raises(
        DataError,
        match=r"version 2 is not promoted: the champion has changed \(version 1, by hand, user unknown\)",
    ):
        register(data, report, twin, index, evaluation, AUTO, tmp_path / "out2")
    assert client.get_registered_model(OPEN.model_name).aliases["champion"] in {1, "1"}
    register(data, report, twin, index, evaluation, AUTO, tmp_path / "out2")
    assert read(tmp_path / "out2")["compared_with"] == "1"
