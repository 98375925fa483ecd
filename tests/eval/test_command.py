"""`vitrine-judge`, as it is called."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vitrine_judge.__main__ import main
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
    means = json.loads(
        run_command(capsys, "score", files / run, files / qrels, "--metrics", "ndcg@10", "mrr", "--json")
    )
    assert means == score(Run.from_dict(FIRST), Qrels.from_dict(JUDGEMENTS), ["ndcg@10", "mrr"]).means()


def test_scores_of_every_query(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = files / "scores.parquet"
    words = ["score", files / "two.trec", files / "qrels.trec", "--relevant", "2", "--scores", out]
    assert "12 judged queries, 1 of them unanswered" in run_command(capsys, *words, "--gains", "1:0.1,2:1")
    values = Scores.from_parquet(out).values["mrr@10"]
    assert sorted(values) == pytest.approx([0.0] + [1 / 3] * 11)


def test_compare(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", files / "one.trec", files / "two.trec", files / "qrels.trec", "--metrics", "ndcg@1"]
    (row,) = json.loads(run_command(capsys, *words, "--json"))
    assert (row["against"], row["won"], row["drawn"], row["lost"]) == ("two", 12, 0, 0)
    assert row["difference"] == pytest.approx(1 - 11 / 24)
    assert row["p_value"] == row["p_holm"] < 0.01
    assert row["low"] <= row["difference"] <= row["high"]
    assert "12/0/0" in run_command(capsys, *words)


def test_explain(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run_command(
        capsys, "explain", files / "two.trec", files / "qrels.trec", "--metrics", "mrr@10", "judged@10"
    )
    ours, trec = (line.split() for line in page.splitlines()[1:3])
    assert ours == ["vitrine", "0.9167", "0.6111"]
    assert trec == ["trec_eval", "1.0000", "–"]
    assert "left out of the mean: 1\n    mrr@10 +0.0833" in page


def test_report(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    queries = pa.table({"query_id": list(FIRST), "kind": ["odd", "even"] * 6, "count": [100, *[1] * 11]})
    pq.write_table(queries, files / "queries.parquet")
    out = files / "page.html"
    words = ["report", files / "one.trec", files / "two.trec", files / "qrels.trec", "--out", out]
    run_command(capsys, *words, "--queries", files / "queries.parquet", "--by", "kind", "count")
    assert all(word in out.read_text() for word in ("one compared with two", "odd", "even", "head", "tail"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["score", "none.trec", "qrels.trec"], "none.trec: cannot be read"),
        (["score", "qrels.trec", "one.trec"], "one.trec: "),
        (["score", "beir/qrels/test.tsv", "qrels.trec"], "this file holds BEIR judgements; give a run here"),
        (["score", "one.trec", "qrels.trec", "--metrics", "ndcg@0"], "'ndcg@0' is not a metric"),
        (["score", "one.trec", "qrels.trec", "--gains", "1:1"], "grade 2 has no gain"),
        (["score", "list.json", "qrels.trec"], "expected {query: {product: score}}"),
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
    assert main(words) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (files / "page.html").exists()


def test_a_page_without_groups(files: Path) -> None:
    words = ["report", *(str(files / name) for name in ("one.trec", "two.trec", "qrels.trec"))]
    assert main([*words, "--out", str(files / "page.html")]) == 0
    assert "by segment" in (files / "page.html").read_text()


def test_gains_that_are_none(files: Path) -> None:
    with pytest.raises(SystemExit):
        main(["score", str(files / "one.trec"), str(files / "qrels.trec"), "--gains", "much"])


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
