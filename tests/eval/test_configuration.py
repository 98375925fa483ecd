"""How runs are scored, in a file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.configuration import MetricConfiguration, stored_configuration
from vitrine_judge.errors import JudgeError
from vitrine_judge.rankings import Qrels, Run

CONFIGURATIONS = st.builds(
    MetricConfiguration,
    st.lists(st.sampled_from(["ndcg@10", "mrr", "rbp:0.95", "ndcg@3:exp"]), min_size=1, unique=True).map(
        tuple
    ),
    st.none() | st.dictionaries(st.integers(-2, 5), st.floats(0, 1e6), min_size=1),
    st.integers(0, 5) | st.floats(-1, 5),
    st.sampled_from(["id", "average"]),
)


@given(CONFIGURATIONS)
def test_it_survives_a_file(
    tmp_path_factory: pytest.TempPathFactory, configuration: MetricConfiguration
) -> None:
    path = tmp_path_factory.getbasetemp() / "judging.json"
    configuration.to_file(path)
    assert MetricConfiguration.from_file(path) == configuration


@pytest.mark.parametrize(
    ("configuration", "phrase"),
    [
        (MetricConfiguration(), "gain = grade; relevant from grade 1"),
        (
            MetricConfiguration(("mrr",), {3: 1.0, 0: 0, 1: 0.01, 2: 0.1}, 3),
            "gains 0:0 1:0.01 2:0.1 3:1; relevant from grade 3",
        ),
        (
            MetricConfiguration(relevant=0.5, ties="average"),
            "gain = grade; relevant from grade 0.5; mean over all orders of ties",
        ),
    ],
)
def test_it_describes_itself(configuration: MetricConfiguration, phrase: str) -> None:
    assert configuration.describe() == phrase


def test_it_scores() -> None:
    run, qrels = Run.from_dict({"q": {"a": 1.0, "b": 1.0}}), Qrels.from_dict({"q": {"a": 1, "b": 2}})
    assert MetricConfiguration(("RR",), relevant=2).score(run, qrels).means() == {"mrr": 0.5}
    assert MetricConfiguration(("mrr",), relevant=2, ties="average").score(run, qrels).means() == {
        "mrr": 0.75
    }
    gains = MetricConfiguration(("nDCG@1",), {1: 0.25, 2: 0.5})
    assert gains.score(run, qrels).means() == {"ndcg@1": 0.5}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"metrics": ()}, "metrics: none is given"),
        ({"metrics": ("ndgc",)}, "'ndgc' is not a metric"),
        ({"metrics": ("P@5", "precision@5")}, "metrics: 'precision@5' is listed twice"),
        ({"gains": {}}, "gains: none is given"),
        ({"gains": {1: float("nan")}}, "gains: 1: nan; a gain is a finite number ≥ 0"),
        ({"gains": {1: -1.0}}, "gains: 1: -1.0"),
        ({"relevant": float("inf")}, "relevant: inf; it must be a finite grade"),
        ({"ties": "random"}, "ties: 'random'; it must be id or average"),
    ],
)
def test_what_cannot_be_scored(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        MetricConfiguration(**fields)


def test_missing_fields_have_defaults(tmp_path: Path) -> None:
    path = tmp_path / "judging.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"relevant": 2}).encode())  # with a byte order mark
    assert MetricConfiguration.from_file(path) == MetricConfiguration(relevant=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected an object with metrics, gains, relevant, ties"),
        ("{", "Expecting property name"),
        ("\xff", "can't decode byte"),
        ('{"relevance": 1}', "unknown field 'relevance'; known are metrics, gains, relevant, ties"),
        ('{"relevant": 1, "relevant": 2}', "the key 'relevant' is there twice"),
        ('{"gains": {"1": 1, "1": 2}}', "the key '1' is there twice"),
        ('{"gains": {"1": 1, "01": 2}}', 'gains: {"1": 1, "01": 2}; expected null or gains by grade'),
        ('{"gains": {"1": "a"}}', "expected null or gains by grade"),
        ('{"gains": {"1": NaN}}', "NaN is not a finite number"),
        ('{"gains": {"1": 1e999}}', "gains: 1: inf; a gain is a finite number"),
        ('{"gains": {"1": true}}', "expected null or gains by grade"),
        ('{"relevant": "1"}', 'relevant: "1"; expected a number'),
        ('{"relevant": true}', "relevant: true; expected a number"),
        ('{"metrics": "mrr"}', 'metrics: "mrr"; expected a list of names'),
        ('{"metrics": [1]}', "expected a list of names"),
        ('{"ties": 1}', "ties: 1; expected a word"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "judging.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(JudgeError) as caught:
        MetricConfiguration.from_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"none.json: cannot be read"):
        MetricConfiguration.from_file(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["qrels.trec", "judgements"])
def test_it_lies_beside_the_judgements(tmp_path: Path, name: str) -> None:
    assert stored_configuration(tmp_path / name) is None
    MetricConfiguration().to_file(tmp_path / "judging.json")
    assert stored_configuration(tmp_path / name) == tmp_path / "judging.json"
