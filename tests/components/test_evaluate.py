import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from chain_fixtures import index_and_evaluate
from vitrine_judge.__main__ import main as run_judge
from vitrine_judge.combine import WEIGHTS, weighted
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.fingerprint import fingerprint
from vitrine_judge.metrics import Scores, score
from vitrine_judge.rankings import Qrels, Run

from catalog import store
from catalog.schema import GAINS, QUERIES, DataError
from components.evaluate import evaluate
from components.featurize import featurize
from components.params import EvaluateParams, FeaturizeParams, TrainParams, Tune
from components.train import train
from fusion.__main__ import main as rank_products
from fusion.encoders.text import TextEncoderInit
from fusion.features import Items
from fusion.model import ProductSearchModel
from fusion.search.catalogue_search import load_model, read_texts
from fusion.search.hybrid import HYBRID_FILE
from fusion.search.marker import ModelMarker, embed_queries
from fusion.search.search_index import SearchIndex
from scoring.judgements import (
    read_judgements,
    read_judgements_by_judge,
)
from scoring.report_content import read_survey
from scoring.systems import CANDIDATE, HYBRID, read_served

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]
QUICK = EvaluateParams()
SYSTEMS = {
    "bm25", "text-only", "image-only", "video-only", "no text", "no image", "no video", "no gallery", CANDIDATE,
    HYBRID,
}  # fmt: skip


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_system_by_every_metric(evaluation: Path) -> None:
    metrics = read(evaluation / "metrics.json")
    assert set(metrics) == SYSTEMS
    assert all(list(means) == EvaluateParams().metrics for means in metrics.values())
    assert all(0 <= value <= 1 for means in metrics.values() for value in means.values())


def test_the_means_are_those_of_the_runs(evaluation: Path, data: Path) -> None:
    """Both files of a run give the scores per query, and those give the means."""
    params = EvaluateParams()
    qrels, segments, _, _ = read_judgements(data, "test", params.holdout)
    for system, means in read(evaluation / "metrics.json").items():
        parquet = Run.from_parquet(evaluation / "runs" / f"{system}.parquet")
        trec = Run.from_trec(evaluation / "runs" / f"{system}.trec")
        assert parquet.to_dict().keys() == trec.to_dict().keys()
        scores = score(parquet, qrels, params.metrics, gains=params.gains, relevant=params.relevant)
        assert scores.means() == pytest.approx(means)
        stored = Scores.from_parquet(evaluation / "scores" / f"{system}.parquet")
        assert stored.means() == means
    assert Qrels.from_trec(evaluation / "qrels.trec").to_dict() == qrels.to_dict()
    queries = pq.read_table(evaluation / "queries.parquet")
    assert queries["query_id"].to_pylist() == list(qrels.query_ids)
    assert queries["segment"].to_pylist() == segments.tolist()


def test_the_hybrid_weighs_the_candidate_against_bm25(evaluation: Path) -> None:
    ours, lexical, both = (
        Run.from_parquet(evaluation / "runs" / f"{name}.parquet") for name in (CANDIDATE, "bm25", HYBRID)
    )
    weight = read(evaluation / "facts.json")["hybrid_weight"]
    assert weight in WEIGHTS
    rankings, expected = both.to_dict(), weighted([ours, lexical], [weight, 1 - weight]).to_dict()
    answered = lexical.to_dict()
    assert 0 < len(answered) < len(rankings)
    for query, ranking in rankings.items():  # a query without text keeps the candidate's ranking
        assert ranking == (expected if query in answered else ours.to_dict())[query]


@pytest.mark.slow
def test_bm25_reads_the_text_on_pictures(data: Path, features: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(features, tmp_path / "features")
    path = tmp_path / "features" / "products" / "000000.parquet"
    products = pq.read_table(path)
    pq.write_table(products.append_column("ocr", pa.array(["VONDRA", *[""] * 59])), path)
    index_and_evaluate(data, tmp_path / "features", model, QUICK, tmp_path)
    index = SearchIndex.load(tmp_path / "index", tmp_path / "evaluation" / HYBRID_FILE)
    assert index.require_lexical().search("vondra", 5)[0].tolist() == [0]


def test_the_index_ranks_like_the_system_that_is_judged(
    evaluation: Path, index: Path, data: Path, model: Path
) -> None:
    served = read_served(evaluation)
    assert served == HYBRID, "of this small model, the hybrid is the better system"
    assert read(evaluation / "facts.json")["hybrid_weight"] < 1
    served_index = SearchIndex.load(index, evaluation / HYBRID_FILE)
    network, featurizer = load_model(model)
    queries = featurizer.featurize_table(data, "queries")
    queries = queries.take(queries.splits == "test")
    texts = read_texts(data, queries.ids)
    rows, scores = served_index.search(embed_queries(network, queries), 10, None, texts)
    expected = Run.from_parquet(evaluation / "runs" / f"{served}.parquet")
    ids = np.array(served_index.fields["product_id"].to_pylist())
    for query, query_rows, query_scores in zip(queries.ids, rows, scores, strict=True):
        pairs = expected.pairs_of(query)
        pairs = slice(pairs.start, min(pairs.stop, pairs.start + 10))
        assert ids[query_rows].tolist() == expected.product_ids[pairs].tolist()
        np.testing.assert_allclose(query_scores, expected.values[pairs], atol=1e-5)
    means = read(evaluation / "metrics.json")
    assert read(evaluation / "summary.json") == means[served] != means[CANDIDATE]


def test_the_command_ranks_like_the_index(evaluation: Path, data: Path, model: Path, tmp_path: Path) -> None:
    words = ["rank", "--model", str(model), "--data", str(data), "--run", str(tmp_path / "run.parquet")]
    assert rank_products([*words, "--hybrid", str(evaluation / HYBRID_FILE)]) == 0
    run, expected = (
        Run.from_parquet(path)
        for path in (tmp_path / "run.parquet", evaluation / "runs" / f"{HYBRID}.parquet")
    )
    configuration = EvaluateParams().configuration
    qrels = read_judgements(data, "test", QUICK.holdout).qrels
    assert configuration.score(run, qrels).means() == configuration.score(expected, qrels).means()
    for query, ranking in run.to_dict().items():
        assert ranking == pytest.approx(expected.to_dict()[query], abs=1e-5)


def test_the_command_of_the_judge_gives_the_same_numbers(evaluation: Path, tmp_path: Path) -> None:
    """To the last digit, by the configuration beside the judgements."""
    for system, means in read(evaluation / "metrics.json").items():
        words = ["score", str(evaluation / "runs" / f"{system}.trec"), str(evaluation / "qrels.trec")]
        assert run_judge([*words, "--scores", str(tmp_path / "scores.parquet")]) == 0
        assert Scores.from_parquet(tmp_path / "scores.parquet").means() == means
    assert MetricConfiguration.from_file(evaluation / "judging.json") == QUICK.configuration
    assert QUICK.configuration.describe() in (evaluation / "report.html").read_text()


def test_segments_add_up_to_the_whole(evaluation: Path) -> None:
    rows = pv.read_csv(evaluation / "segments.csv").to_pylist()
    metrics = read(evaluation / "metrics.json")
    for system in SYSTEMS:
        segments = [row for row in rows if row["system"] == system]
        assert len(segments) > 1
        queries = [row["queries"] for row in segments]
        mean = np.average([row["ndcg@10"] for row in segments], weights=queries)
        assert mean == pytest.approx(metrics[system]["ndcg@10"])


def test_only_the_test_split_is_asked(evaluation: Path, data: Path) -> None:
    rows = store.read_table(data, "queries", ["query_id", "split"]).to_pylist()
    test_ids = {row["query_id"] for row in rows if row["split"] == "test"}
    assert 0 < len(test_ids) < len(rows)
    for system in SYSTEMS:
        answered = set(pq.read_table(evaluation / "runs" / f"{system}.parquet")["query_id"].to_pylist())
        assert answered <= test_ids
    scored_ids = set(pq.read_table(evaluation / "queries.parquet")["query_id"].to_pylist())
    assert scored_ids == set(read_judgements(data, "test", QUICK.holdout).qrels.query_ids) < test_ids


def test_what_it_was_made_from_and_what_it_costs(evaluation: Path, data: Path) -> None:
    provenance = read(evaluation / "made_from.json")
    assert provenance["data"] == store.fingerprint(data)
    assert set(provenance["params"]) == {"featurize", "train", "index", "evaluate"}
    assert provenance["judge"] == fingerprint(EvaluateParams().metrics)
    assert provenance["params"]["evaluate"]["holdout"] == 0.3
    costs = {"latency_ms_p95", "model_mb", "index_mb", "index_recall@10"}
    people = {f"{kind}/{model}" for kind in ("rating", "agreement") for model in read_survey(data).models}
    facts = read(evaluation / "facts.json")
    assert set(facts) == {*costs, *people, "hybrid_weight"}
    assert facts["index_recall@10"] == 1  # small enough to be searched exactly
    assert set(read(evaluation / "comparisons.json")) == SYSTEMS - {HYBRID}
    page = (evaluation / "report.html").read_text()
    assert "data:image/" in page and "<script src" not in page


def test_who_judged_is_never_averaged(
    data: Path, features: Path, model: Path, index: Path, tmp_path: Path
) -> None:
    """Of 12 test queries, some judged by people, some by clicks, the rest derived: only the first decide."""
    shutil.copytree(data, tmp_path / "data")
    (path,) = (tmp_path / "data" / "queries").glob("*.parquet")
    rows = pq.read_table(path).to_pylist()
    test_rows = [row for row in rows if row["split"] == "test"]
    for row, judge in zip(test_rows, [None, None, "human", "implicit", "implicit"], strict=False):
        row["judged_by"] = judge
    pq.write_table(pa.Table.from_pylist(rows, schema=QUERIES), path)
    counts = Counter(row["judged_by"] or "human" for row in test_rows)
    assert list(read_judgements_by_judge(tmp_path / "data", "test")) == ["human", "implicit", "derived"]
    out = tmp_path / "evaluation"
    evaluate(tmp_path / "data", features, model, index, EvaluateParams(holdout=0), out)
    table = pv.read_csv(out / "judged_by.csv").to_pylist()
    assert {(row["judged_by"], row["queries"]) for row in table} == set(counts.items())
    means = read(out / "metrics.json")[CANDIDATE]
    (decides,) = [row for row in table if (row["judged_by"], row["system"]) == ("human", CANDIDATE)]
    assert means["ndcg@10"] == pytest.approx(decides["ndcg@10"])
    (implicit,) = [row for row in table if (row["judged_by"], row["system"]) == ("implicit", CANDIDATE)]
    implicit_ids = [row["query_id"] for row in test_rows if row["judged_by"] == "implicit"]
    qrels = read_judgements_by_judge(tmp_path / "data", "test")["implicit"].qrels
    assert sorted(qrels.query_ids) == sorted(implicit_ids)
    rescored = score(
        Run.from_parquet(out / "runs" / f"{CANDIDATE}.parquet"), qrels, ["ndcg@10"], gains=GAINS
    ).means()
    assert implicit["ndcg@10"] == pytest.approx(rescored["ndcg@10"])
    page = (out / "report.html").read_text()
    assert f"{counts['human']} judged queries (human)" in page and "by source of judgements" in page


def test_an_index_of_another_model_or_of_other_data_is_not_judged(
    data: Path, features: Path, model: Path, index: Path, tmp_path: Path
) -> None:
    loaded = SearchIndex.load(index)
    for name, marker, problem in (
        (
            "model",
            loaded.marker._replace(model=ModelMarker("0" * 32, "0" * 32)),
            "another model made this index",
        ),
        ("data", loaded.marker._replace(data="0" * 32), "the index is of other data than the features"),
    ):
        folder = shutil.copytree(index, tmp_path / name)
        marker.save(folder)
        with pytest.raises(DataError, match=problem):
            evaluate(data, features, model, folder, QUICK, tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()


def test_without_judged_test_queries_there_is_nothing_to_do(
    data: Path, features: Path, model: Path, index: Path, tmp_path: Path
) -> None:
    shutil.copytree(data, tmp_path / "data")
    path = tmp_path / "data" / "judgements" / "00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    with pytest.raises(DataError, match="no judged query has the split 'test'"):
        evaluate(tmp_path / "data", features, model, index, EvaluateParams(), tmp_path / "evaluate")
    assert not (tmp_path / "evaluate").exists()


def test_every_task_is_measured(evaluation: Path) -> None:
    measures = read(evaluation / "tasks.json")
    tasks = {measure["task"] for measure in measures}
    assert {
        "title → picture",
        "picture → title",
        "similar products",
        "tags: category",
        "tags: color",
    } <= tasks
    assert all(0 <= measure["value"] <= 1 and measure["basis"] for measure in measures)
    page = (evaluation / "report.html").read_text()
    assert "Other tasks" in page and "title → picture" in page


def test_the_page_says_what_people_said(evaluation: Path, data: Path) -> None:
    survey = read_survey(data)
    assert survey
    page = (evaluation / "report.html").read_text()
    assert f"<td><bdi>{survey.ratings.mean():.2f}</bdi></td>" in page
    assert "Kendall’s τ" in page
    (model,) = set(survey.models)
    facts = json.loads((evaluation / "facts.json").read_text())
    assert facts[f"rating/{model}"] == pytest.approx(survey.by_query(model)[1].mean())
    assert -1 <= facts[f"agreement/{model}"] <= 1


def test_the_page_says_why(evaluation: Path) -> None:
    page = (evaluation / "report.html").read_text()
    examples = page.count("<article>")
    assert page.count(f"Why <bdi>{HYBRID}</bdi> puts") == examples > 0
    assert "Score of the model" in page
    assert "It matches mainly through its" in page and "Without its" in page


def test_published_encoders_are_baselines(
    data: Path, report: Path, clip: Path, embedders: Callable[..., Path], tmp_path: Path
) -> None:
    """A CLIP as both towers, and an embedder that reads text and pictures together."""
    encoders = {"text_encoder": f"clip:{clip}", "image_encoder": f"clip:{clip}"}
    encoders["joint_encoder"] = f"st:{embedders('qwen3_vl')}"
    featurize(
        data,
        report,
        FeaturizeParams(image_size=32, max_tokens=12, max_unreadable=1, **encoders),
        tmp_path / "features",
    )
    tuned = TrainParams(epochs=1, dim=16, hidden=16, batch_size=64, tune=Tune(text="last_1"))
    train(tmp_path / "features", tuned, tmp_path / "model")
    index_and_evaluate(data, tmp_path / "features", tmp_path / "model", QUICK, tmp_path)
    published = {"zero-shot", "zero-shot joint", "joint-only", "no joint"}
    assert set(read(tmp_path / "evaluation" / "metrics.json")) == SYSTEMS | published
    assert "Without its text" in (page := (tmp_path / "evaluation" / "report.html").read_text())
    assert "text with pictures: " in page
    network, featurizer = load_model(tmp_path / "model")
    assert network.config.joint_features == 32
    queries = Items.load(tmp_path / "features", "queries")
    rows = pq.read_table(data / "queries").slice(0, 8).to_pylist()
    served, _ = featurizer.featurize_rows("queries", rows)
    np.testing.assert_allclose(served.joint, queries.joint[:8], atol=1e-3)
    assert queries.joint.any(1).all()
    start = TextEncoderInit.load(tmp_path / "features").state
    (trunk,) = ProductSearchModel.load(tmp_path / "model").trunks
    moved = {name for name, value in trunk.state_dict().items() if not value.equal(start[name])}
    assert {name for name in moved if ".layers." in name} == {name for name in start if ".layers.2." in name}
    assert {name for name in moved if ".layers." not in name} == {
        "model.text_model.final_layer_norm.weight", "model.text_model.final_layer_norm.bias",
        "model.text_projection.weight",
    }  # fmt: skip
