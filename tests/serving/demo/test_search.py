"""The address of a search, and changes of rank."""

from urllib.parse import parse_qsl, urlsplit

from hypothesis import given
from hypothesis import strategies as st

from serving.demo.search import Answer, Product, Search, parse, rank_changes


@given(st.dictionaries(st.sampled_from([*Search.model_fields, "other"]), st.text(max_size=20)))
def test_any_fields_give_a_search_whose_address_gives_it_again(fields: dict[str, str]) -> None:
    search, wrong = parse(fields)
    again = dict(parse_qsl(urlsplit(search.url()).query))
    assert parse(again)[0] == search
    if not wrong:
        assert search.text == fields.get("text", "").strip()


def test_rank_changes() -> None:
    def answer(ids: str) -> Answer:
        return Answer([Product(key, key, [], "", None, {}) for key in ids], "", 1.0)

    assert rank_changes(answer("abcd"), answer("dbea")) == {"d": 3, "b": 0, "e": None, "a": -3}
