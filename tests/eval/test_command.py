"""`vitrine-judge`, as it is called."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vitrine_judge.__main__ import main
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.metrics import Scores, score
from vitrine_judge.rankings import Qrels, Run

FIRST = {f"q{i}": {"a": 3.0, "b": 2.0, "c": 1.0} for i in range(12)}
SECOND = {f"q{i}": {"c": 3.0, "b": 2.0, "a": 1.0} for i in range(11)}
JUDGEMENTS = {f"q{i}": {"a": 2, "c": 1} for i in range(12)}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The same runs and judgements in every format."""
    Run.from_dict(FIRST).to_trec(tmp_path / "one.trec")
    Run.from_dict(FIRST).to_parquet(tmp_path / "one.parquet")
    (tmp_path / "one.json").write_text(json.dumps(FIRST))
    Run.from_dict(SECOND).to_trec(tmp_path / "two.trec")
    qrels = Qrels.from_dict(JUDGEMENTS)
    qrels.to_trec(tmp_path / "qrels.trec")
    (tmp_path / "judgements").mkdir()
    qrels.to_parquet(tmp_path / "judgements" / "0.parquet")
    beir = tmp_path / "beir" / "qrels"
    beir.mkdir(parents=True)
    lines = [
        f"{query}\t{item}\t{grade}" for query, pairs in JUDGEMENTS.items() for item, grade in pairs.items()
    ]
    (beir / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
    return tmp_path


def run_command(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main(list(map(str, words))) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("run", ["one.trec", "one.parquet", "one.json"])
@pytest.mark.parametrize("qrels", ["qrels.trec", "judgements", "beir", "beir/qrels/test.tsv"])
def test_every_format_scores_the_same(
    files: Path, capsys: pytest.CaptureFixture[str], run: str, qrels: str
) -> None:
    words = ["score", "--metrics", "ndcg@10,mrr", files / run, files / qrels, "--json"]
    means = json.loads(run_command(capsys, *words))["means"]
    assert means == score(Run.from_dict(FIRST), Qrels.from_dict(JUDGEMENTS), ["ndcg@10", "mrr"]).means()


def test_scores_of_every_query(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "scores.parquet"
    words = ["score", files / "two.trec", files / "qrels.trec", "--relevant", "2", "--scores", out]
    assert "12 judged queries, 1 of them unanswered" in run_command(capsys, *words, "--gains", "1:0.1,2:1")
    values = Scores.from_parquet(out).values["mrr@10"]
    assert sorted(values) == pytest.approx([0.0] + [1 / 3] * 11)


def test_compare(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", files / "one.trec", files / "two.trec", files / "qrels.trec", "--metrics", "ndcg@1"]
    (row,) = json.loads(run_command(capsys, *words, "--json"))["comparisons"]
    assert (row["against"], row["won"], row["drawn"], row["lost"]) == ("two", 12, 0, 0)
    assert row["difference"] == pytest.approx(1 - 11 / 24)
    assert row["p_value"] == row["p_holm"] < 0.02
    assert row["low"] <= row["difference"] <= row["high"]
    assert "12/0/0" in run_command(capsys, *words)


def test_explain(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run_command(
        capsys, "explain", files / "two.trec", files / "qrels.trec", "--metrics", "mrr@10,ndcg@10:exp"
    )
    ours, trec = (line.split()[:2] for line in page.splitlines()[1:3])
    assert ours == ["vitrine", "0.9167"]
    assert trec == ["trec_eval", "1.0000"]
    assert page.splitlines()[2].endswith("–")
    assert "left out of the mean: 1\n    mrr@10 +0.0833" in page


def test_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = pa.table({"query_id": list(FIRST), "kind": ["odd", "even"] * 6, "count": [100, *[1] * 11]})
    pq.write_table(queries, files / "queries.parquet")
    out = files / "page.html"
    words = ["report", files / "one.trec", files / "two.trec", files / "qrels.trec", "--out", out]
    run_command(capsys, *words, "--queries", files / "queries.parquet", "--by", "kind,count")
    assert all(word in out.read_text() for word in ("one compared with two", "odd", "even", "head", "tail"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "none.trec", "qrels.trec"], "none.trec: cannot be read"),
        (["score", "qrels.trec", "one.trec"], "one.trec: "),
        (["score", "beir/qrels/test.tsv", "qrels.trec"], "holds judgements; give a run here"),
        (["score", "one.trec", "qrels.trec", "--metrics", "ndcg@0"], "'ndcg@0' is not a metric"),
        (["score", "one.trec", "qrels.trec", "--gains", "1:1"], "grade 2 has no gain"),
        (["score", "list.json", "qrels.trec"], "query 'q': expected {query: {product: number}}"),
        (["score", "broken.json", "qrels.trec"], "not readable as JSON"),
        (["report", "one.trec", "one.json", "qrels.trec", "--out", "page.html"], "must have different names"),
        (
            ["report", "one.trec", "two.trec", "qrels.trec", "--out", "p", "--queries", "one.parquet"],
            "'segment'",
        ),
        (
            ["report", "one.trec", "two.trec", "qrels.trec", "--out", "p", "--queries", "few.parquet"],
            "few.parquet: the judged query 'q1' is missing",
        ),
        (["score", "one.trec", "qrels.trec", "--scores", "no/folder.parquet"], "no/folder.parquet"),
    ],
)
def test_bad_input_gives_one_line(
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(files)
    (files / "list.json").write_text('{"q": ["a"]}')
    pq.write_table(pa.table({"query_id": ["q0"], "segment": ["a"]}), files / "few.parquet")
    (files / "broken.json").write_text('{"q": ')
    assert main(words) == 3
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (files / "page.html").exists()


def test_a_page_without_groups(files: Path) -> None:
    words = ["report", *(str(files / name) for name in ("one.trec", "two.trec", "qrels.trec"))]
    assert main([*words, "--out", str(files / "page.html")]) == 0
    assert "by segment" in (files / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["score"],
            "score: the following arguments are required: RUN, QRELS; see vitrine-judge score --help",
        ),
        (["weigh", "a", "b"], "invalid choice: 'weigh'"),
        (["score", "a", "b", "c"], "unrecognized arguments: c"),
        (["score", "a", "b", "--gains", "much"], "'much' does not have the form 0:0,1:0.1,2:1"),
        (["score", "a", "b", "--gains", "1:0.1,1:0.2"], "'1:0.1,1:0.2' gives a grade two gains"),
        (["score", "a", "b", "--ties", "none"], "invalid choice: 'none'"),
        (
            ["compare", "a", "b", "c", "--confidence", "95"],
            "'95' is not a number between 0 and 1, such as 0.95",
        ),
        (["compare", "a", "b", "c", "--confidence", "nan"], "'nan' is not a number between 0 and 1"),
    ],
)
def test_bad_usage_gives_one_line(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 3
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


# The configuration beside the judgements


@pytest.fixture
def stored(files: Path) -> MetricConfiguration:
    configuration = MetricConfiguration(("mrr", "ndcg@1"), {1: 0.1, 2: 1.0}, relevant=2)
    configuration.to_file(files / "judging.json")
    return configuration


def test_score_reads_it(files: Path, stored: MetricConfiguration, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", files / "two.trec", files / "qrels.trec"]
    content = json.loads(run_command(capsys, *words, "--json"))
    assert content["means"] == pytest.approx({"mrr": 11 / 36, "ndcg@1": 1.1 / 12})
    source = str(files / "judging.json")
    gains = {"1": 0.1, "2": 1.0}
    assert content["configuration"] == {
        "metrics": ["mrr", "ndcg@1"], "gains": gains, "relevant": 2, "ties": "id", "source": source,
    }  # fmt: skip
    assert f"Configuration: {stored.describe()} ({source})." in run_command(capsys, *words)


def test_a_flag_replaces_one_field(
    files: Path, stored: MetricConfiguration, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "--relevant", "1", files / "two.trec", files / "qrels.trec", "--json"]
    content = json.loads(run_command(capsys, *words))
    assert content["means"] == pytest.approx({"mrr": 11 / 12, "ndcg@1": 1.1 / 12})
    assert content["configuration"]["source"] == f"{files / 'judging.json'}, --relevant"
    assert content["configuration"]["gains"] == {"1": 0.1, "2": 1.0}


@pytest.mark.usefixtures("stored")
def test_compare_and_report_read_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [files / "one.trec", files / "two.trec", files / "qrels.trec"]
    content = json.loads(run_command(capsys, "compare", *words, "--json"))
    assert [row["metric"] for row in content["comparisons"]] == ["mrr", "ndcg@1"]
    assert content["comparisons"][0]["ours"] == 1.0
    assert content["comparisons"][0]["theirs"] == pytest.approx(11 / 36)
    assert content["configuration"]["relevant"] == 2
    assert "gains 1:0.1 2:1; relevant from grade 2" in run_command(capsys, "compare", *words)
    run_command(capsys, "report", *words, "--out", files / "page.html")
    assert "gains 1:0.1 2:1; relevant from grade 2; from " in (files / "page.html").read_text()


@pytest.mark.usefixtures("stored")
def test_explain_shows_what_flags_change(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", files / "two.trec", files / "qrels.trec"]
    assert "The flags differ" not in run_command(capsys, *words, "--metrics", "mrr")
    lines = run_command(capsys, *words, "--relevant", "1", "--metrics", "mrr").splitlines()
    start = lines.index(f"The flags differ from {files / 'judging.json'}:")
    flags, stored = lines[start + 2 : start + 4]
    assert flags.startswith("--metrics, --relevant: gains 1:0.1 2:1; relevant from grade 1 ")
    assert stored.startswith("judging.json: gains 1:0.1 2:1; relevant from grade 2 ")
    assert [line.split()[-1] for line in (flags, stored)] == [f"{11 / 12:.4f}", f"{11 / 36:.4f}"]


def test_without_it_defaults_count(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", files / "one.trec", files / "qrels.trec"]
    line = "Configuration: gain = grade; relevant from grade 1 (defaults, --ties)."
    assert line in run_command(capsys, *words, "--ties", "id")


def test_a_broken_configuration_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "judging.json").write_text('{"metrics": []}')
    assert main(["score", str(files / "one.trec"), str(files / "qrels.trec")]) == 3
    assert f"{files / 'judging.json'}: metrics: none is given" in capsys.readouterr().err


def test_names_of_ir_measures(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["score", files / "one.trec", files / "qrels.trec", "--json"]
    content = json.loads(run_command(capsys, *words, "--metrics", "nDCG@10,P@1", "--metrics", "RR"))
    assert list(content["means"]) == ["ndcg@10", "precision@1", "mrr"]


def test_ties_by_average(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "tied.json").write_text(json.dumps({query: dict.fromkeys("xya", 1.0) for query in FIRST}))
    words = ["score", files / "tied.json", files / "qrels.trec", "--metrics", "mrr"]
    assert "0.6111" in run_command(capsys, *words, "--ties", "average")
    assert "1.0000" in run_command(capsys, *words)


# Coverage, and few queries


def test_how_ids_meet(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "more.json").write_text(json.dumps({**SECOND, "new": {"a": 1.0}}))
    words = [files / "more.json", files / "one.trec", files / "qrels.trec", "--json"]
    expected = {
        "judged": 12, "unanswered": 1, "unjudged": 1, "shares_queries": True, "shares_products": True,
    }  # fmt: skip
    assert json.loads(run_command(capsys, "score", words[0], *words[2:]))["coverage"] == expected
    coverage = json.loads(run_command(capsys, "compare", *words))["coverage"]
    assert coverage == {"more": expected, "one": expected | {"unanswered": 0, "unjudged": 0}}


@pytest.mark.parametrize(
    ("run", "kind", "flags"),
    [
        ({"Q0": {"a": 1.0}}, "query", (False, True)),
        ({"q0": {"z": 1.0}}, "product", (True, False)),
        ({"Q0": {"z": 1.0}}, "query", (False, False)),
    ],
)
def test_ids_that_do_not_meet(
    files: Path, capsys: pytest.CaptureFixture[str], run: dict, kind: str, flags: tuple[bool, bool]
) -> None:
    (files / "other.json").write_text(json.dumps(run))
    words = ["score", str(files / "other.json"), str(files / "qrels.trec")]
    assert main(words) == 0
    error = capsys.readouterr().err
    assert f"other.json: no {kind} id of the judgements is in the run, so every score is 0" in error
    assert error.count("\n") == 1
    coverage = json.loads(run_command(capsys, *words, "--json"))["coverage"]
    assert (coverage["shares_queries"], coverage["shares_products"]) == flags


def test_no_warning_where_ids_meet(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(files / "two.trec"), str(files / "qrels.trec")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_few_queries_decide_nothing(files: Path, capsys: pytest.CaptureFixture[str], queries: int) -> None:
    few = dict(list(JUDGEMENTS.items())[:queries])
    (files / "few.json").write_text(json.dumps(few))
    words = ["compare", files / "one.trec", files / "two.trec", files / "few.json", "--metrics", "mrr"]
    page = run_command(capsys, *words)
    assert page.splitlines()[1].split()[5:] == ["–", "–", "–", f"0/{queries}/0", "–"]
    assert f"{queries} judged queries. They decide nothing: at 95 % confidence a test needs 6 queries" in page
    (row,) = json.loads(run_command(capsys, *words, "--json"))["comparisons"]
    assert {row[name] for name in ("low", "high", "p_value", "p_holm", "detectable")} == {None}


def test_another_confidence(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", files / "one.trec", files / "two.trec", files / "qrels.trec", "--metrics", "ndcg@1"]
    narrow, wide = (
        json.loads(run_command(capsys, *words, "--confidence", share, "--json"))["comparisons"][0]
        for share in ("0.8", "0.99")
    )
    assert wide["low"] < narrow["low"] < narrow["difference"] < narrow["high"] <= wide["high"]
    assert "80 % interval" in run_command(capsys, *words, "--confidence", "0.8")


def test_it_needs_only_numpy_and_pyarrow(files: Path) -> None:
    """The third-party packages that a score imports, in a fresh process."""
    code = (
        "import sys; from vitrine_judge.__main__ import main; main(sys.argv[1:]); "
        "print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    words = ["score", str(files / "one.trec"), str(files / "qrels.trec"), "--json"]
    done = subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.splitlines()[-1].split()) - set(sys.stdlib_module_names)
    assert {"numpy", "pyarrow"} <= loaded
    assert not loaded & {"pandas", "torch", "scipy", "sklearn", "jinja2", "catalog", "fusion", "components"}
