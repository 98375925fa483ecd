"""The URL of a search, and rank changes."""

from urllib.parse import parse_qsl, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from serving.demo.search import Answer, Product, Search, compare_ranks, parse_search


@given(st.dictionaries(st.sampled_from([*Search.model_fields, "other"]), st.text(max_size=20)))
def test_the_url_of_a_search_gives_the_same_search(fields: dict[str, str]) -> None:
    search, problems = parse_search(fields)
    url_fields = dict(parse_qsl(urlsplit(search.url()).query))
    assert parse_search(url_fields)[0] == search
    if not problems:
        assert search.text == fields.get("text", "").strip()


def test_compare_ranks() -> None:
    def make_answer(ids: str) -> Answer:
        return Answer([Product(key, key, [], "", None, {}) for key in ids], "", 1.0)

    assert compare_ranks(make_answer("abcd"), make_answer("dbea")) == {"d": 3, "b": 0, "e": None, "a": -3}
