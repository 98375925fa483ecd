"""`vitrine-judge gate`: files in, an exit code out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from vitrine_judge.__main__ import main

QUERIES = 200
Files = dict[str, Path]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    """Runs of 200 queries: of the only relevant product at rank 1, 2 or 3, and nowhere; and tables of queries."""
    ids = [f"q{number:03d}" for number in range(QUERIES)]
    (tmp_path / "qrels.trec").write_text("".join(f"{query} 0 good 1\n" for query in ids))

    def write_run(name: str, rank: Callable[[int], int]) -> None:
        lines = []
        for number, query in enumerate(ids):
            results = ["bad1", "bad2", "bad3"]
            results.insert(rank(number) - 1, "good")
            lines += [f"{query} Q0 {product} 0 {9 - place} {name}\n" for place, product in enumerate(results)]
        (tmp_path / name).write_text("".join(lines))

    write_run("first.trec", lambda number: 1)
    write_run("second.trec", lambda number: 2)
    write_run("mixed.trec", lambda number: 1 + number % 2)
    write_run("broken.trec", lambda number: 4 if number < 30 else 1)
    segments = ["rare" if number < 30 else "common" for number in range(QUERIES)]
    clusters = [f"c{number % 20}" for number in range(QUERIES)]
    pq.write_table(pa.table({"query_id": ids, "segment": segments}), tmp_path / "segments.parquet")
    pq.write_table(pa.table({"query_id": ids, "cluster": clusters}), tmp_path / "clusters.parquet")
    return {path.stem: path for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("candidate", "champion", "code", "verdict"),
    [("first", "second", 0, "passed"), ("second", "first", 1, "failed"), ("mixed", "mixed", 2, "undecided")],
)
def test_the_exit_code_is_the_verdict(
    files: Files, capsys: pytest.CaptureFixture[str], candidate: str, champion: str, code: int, verdict: str
) -> None:
    champion_file = files[champion]
    if candidate == champion:
        champion_file = champion_file.with_name("other.trec")
        champion_file.write_bytes(files[champion].read_bytes())
    assert main(["gate", str(files[candidate]), str(champion_file), str(files["qrels"])]) == code
    output = capsys.readouterr().out
    assert output.startswith(f"{verdict}\n  ")
    assert "200 judged queries. Configuration: gain = grade; relevant from grade 1 (defaults)." in output


def test_rules_of_a_file_decide(files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text("primary: mrr@10\nfloors: {hit@1: 0.9}\nmargins: {recall@100: 0.05}\nmin_gain: 0.6\n")
    command = [
        "gate",
        *(str(files[name]) for name in ("first", "second", "qrels")),
        "--rules",
        str(rules),
        "--json",
    ]
    assert main(command) == 1
    decision = json.loads(capsys.readouterr().out)
    findings = {item["rule"]: item["verdict"] for item in decision["findings"]}
    assert findings == {
        "floor hit@1": "passed", "gain mrr@10": "failed", "margin recall@100": "passed", "segment all": "passed",
    }  # fmt: skip
    assert decision["configuration"]["metrics"][:3] == ["mrr@10", "recall@100", "hit@1"]
    rules.write_text(json.dumps({"primary": "mrr@10"}))
    assert main(command) == 0


def test_segments_clusters_and_baselines_of_files(files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*extra: str, candidate: str = "broken") -> dict[str, Any]:
        command = ["gate", *(str(files[name]) for name in (candidate, "second", "qrels")), "--json", *extra]
        code = main(command)
        decision: dict[str, Any] = json.loads(capsys.readouterr().out)
        assert code == {"passed": 0, "failed": 1, "undecided": 2}[decision["verdict"]]
        return {item["rule"]: item for item in decision["findings"]}

    assert run()["segment all"]["verdict"] == "passed"
    assert run("--queries", str(files["segments"]))["segment rare"]["verdict"] == "failed"
    clustered = run("--queries", str(files["clusters"]), candidate="first")
    assert (
        clustered["queries"]["text"]
        == "There are too few independent queries: 20; a comparison needs at least 50."
    )
    assert "in 20 clusters" in clustered["gain ndcg@10"]["text"]
    noted = run("--baseline", str(files["first"]), "--queries", str(files["segments"]))
    assert noted["weakness first rare"]["verdict"] == "noted"
    assert "look 7 at these queries" in run("--look", "7")["gain ndcg@10"]["text"]


def test_the_page_shows_the_verdict(files: Files, tmp_path: Path) -> None:
    page = tmp_path / "gate.html"
    assert (
        main(["gate", *(str(files[name]) for name in ("first", "second", "qrels")), "--page", str(page)]) == 0
    )
    text = page.read_text()
    assert "<h1>Gate passed: first against second</h1>" in text and "ndcg@10 improved: +" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("primary: ndgc@10", "primary: 'ndgc@10' is no metric"),
        ("min_gian: 0.1", "'min_gian' is no rule of this command; known are baselines, confidence, "),
        ("budgets: {latency: 3}", "'budgets' is no rule of this command"),
        ("margins: 0.1", "margins: 0.1 must map names to numbers"),
        ("min_gain: much", "min_gain: 'much' is no number"),
        ("min_gain: true", "min_gain: True is no number"),
        ("- primary", "it must hold rules"),
        ("a: [", "it is neither JSON nor YAML"),
    ],
)
def test_rules_that_cannot_be(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "rules.yaml").write_text(content)
    command = ["gate", *(str(files[name]) for name in ("first", "second", "qrels"))]
    assert main([*command, "--rules", str(tmp_path / "rules.yaml")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("vitrine-judge: ") and message in line


def test_a_query_without_a_row_is_named(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(files["segments"])
    for content, message in (
        (table.slice(1), "the judged query 'q000' is missing"),
        (table.select(["segment"]), "column 'query_id' is missing"),
    ):
        pq.write_table(content, tmp_path / "part.parquet")
        command = ["gate", *(str(files[name]) for name in ("first", "second", "qrels"))]
        assert main([*command, "--queries", str(tmp_path / "part.parquet")]) == 3
        assert message in capsys.readouterr().err


def test_without_pyyaml_the_message_names_the_extra(
    files: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    (tmp_path / "rules.yaml").write_text("primary: ndcg@10")
    command = ["gate", *(str(files[name]) for name in ("first", "second", "qrels"))]
    assert main([*command, "--rules", str(tmp_path / "rules.yaml")]) == 3
    assert "pip install 'vitrine-judge[yaml]'" in capsys.readouterr().err
