"""Votes of the demo page, and their use as survey answers."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vitrine_judge.people import mean_ratings

from catalog import store
from catalog.schema import DataError
from scoring.report_content import read_survey
from serving.demo import votes as votes_module
from serving.demo.votes import RATINGS, Votes


def summarise_survey(data: Path) -> dict[str, tuple[float, int]]:
    """Version → mean rating and number of answers in the survey of a data set."""
    survey = read_survey(data)
    assert survey is not None
    return {rating.model: (rating.segment.mean, rating.answers) for rating in mean_ratings(survey, {})}


def test_votes_count_as_survey_answers(tiny_data: Path, tmp_path: Path) -> None:
    votes = Votes(tmp_path / "votes")
    for query, vote in {"q4": "better", "q5": "better", "demo-1": "same", "demo-2": "worse"}.items():
        votes.write_vote(query, "1", "2", vote)
    (tiny_data / "satisfaction").mkdir()
    shutil.copy(votes.path, tiny_data / "satisfaction")
    assert summarise_survey(tiny_data) == {
        "1": (2.75, 4),
        "2": (3.25, 4),
    }  # (2 + 2 + 3 + 4) / 4, (4 + 4 + 3 + 2) / 4


def test_ratings_are_on_the_scale() -> None:
    assert {rating for pair in RATINGS.values() for rating in pair} <= set(range(1, 6))
    # the mean is 3, so that a comparison alone helps no version
    assert all(sum(pair) == 6 for pair in RATINGS.values())


def test_a_later_vote_replaces_the_one_on_the_same_query_and_versions(tmp_path: Path) -> None:
    votes = Votes(tmp_path)
    votes.write_vote("q", "1", "2", "better")
    votes.write_vote("q", "2", "3", "same")
    votes.write_vote("q", "1", "2", "worse")
    assert votes.read_vote("q", "1", "2") == "worse"
    assert votes.read_vote("q", "2", "3") == "same"
    assert votes.read_vote("q", "1", "3") is None and votes.read_vote("other", "1", "2") is None
    assert len(store.read_table(tmp_path, "satisfaction")) == 4


VOTE = st.tuples(st.sampled_from("ab"), st.sampled_from(["12", "23", "21"]), st.sampled_from(list(RATINGS)))


@settings(max_examples=40, deadline=None)
@given(st.lists(VOTE, max_size=8))
def test_the_last_vote_on_each_query_and_versions_is_kept(entries: list[tuple[str, str, str]]) -> None:
    with TemporaryDirectory() as folder:
        votes = Votes(Path(folder))
        last = {}
        for query, versions, vote in entries:
            votes.write_vote(query, versions[0], versions[1], vote)
            pair = frozenset(versions)
            last.pop((query, pair), None)
            last[query, pair] = versions, vote
        for (query, _), (versions, vote) in last.items():
            assert votes.read_vote(query, versions[0], versions[1]) == vote
        assert len(store.read_table(Path(folder), "satisfaction")) == 2 * len(last)


def test_votes_at_once_are_all_kept(tmp_path: Path) -> None:
    writers = [Votes(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: writers[n % 4].write_vote(f"q{n}", "1", "2", "better"), range(40)))
    assert len(store.read_table(tmp_path, "satisfaction")) == 80
    assert [path.name for path in (tmp_path / "satisfaction").iterdir()] == ["votes.parquet"]


def test_a_vote_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    votes = Votes(tmp_path)
    votes.write_vote("q", "1", "2", "better")
    monkeypatch.setattr(votes_module, "MAX_ROWS", 3)
    with pytest.raises(DataError, match=r"full, with 2 answers; copy it into the data set"):
        votes.write_vote("r", "1", "2", "better")
    votes.write_vote("q", "1", "2", "same")  # replaces a vote, so there is room
    assert votes.read_vote("q", "1", "2") == "same"


def test_votes_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "satisfaction").mkdir()
    (tmp_path / "satisfaction" / "votes.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"votes\.parquet: not a readable parquet file"):
        Votes(tmp_path)
