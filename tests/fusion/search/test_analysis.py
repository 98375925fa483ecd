"""The tokens of texts in many languages, and queries that find their titles with them."""

import csv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusion.search.analysis import Analyser, fold_accents, split_bigrams
from fusion.search.catalogue_tokens import analyse_catalogue
from fusion.search.lexical_index import LexicalIndex

Write = Callable[[dict[str, list[dict[str, Any]]]], Path]

TITLES = Path(__file__).parents[2] / "fixtures" / "titles"
LANGUAGES = ("ar", "de", "fr", "hi", "ja", "ko", "th", "tr")
DEPTH = 3  # each query finds its title among the first three


@pytest.mark.parametrize(
    ("language", "text", "tokens"),
    [
        ("en", "Women's running shoes", ["women", "run", "shoe"]),
        ("en", "don't C++ 10%", ["dont", "c++", "10"]),
        ("fr", "L'eau d’été", ["eau", "ete"]),
        ("fr", "jusqu'à l'école aujourd'hui", ["ecol", "aujourdhui"]),
        ("it", "dell'acqua", ["acqua"]),
        ("tr", "İSTANBUL'da KIRMIZI", ["istanbul", "kirmiz"]),
        ("de", "Große Koffer", ["gross", "koff"]),
        ("el", "κόκκινο", ["κοκκιν"]),
        ("hi", "महिलाओं के लिए सूती कुर्ता", ["महिल", "सूत", "कुर्त"]),
        ("zh", "红色连衣裙 USB", ["红色", "色连", "连衣", "衣裙", "usb"]),
        ("ja", "赤いワンピース", ["赤い", "いワ", "ワン", "ンピ", "ピー", "ース"]),
        ("ja", "茶", ["茶"]),
        ("ko", "빨간 원피스를", ["빨간", "원피", "피스", "스를"]),
        ("th", "สีดำ", ["สีดำ"]),
        ("th", "ผู้ชาย", ["ผู้ช", "ชา", "าย"]),
        ("km", "អាវក្រហម", ["អាវ", "វក្រ", "ក្រហ", "ហម"]),
        ("xx", "crème A4", ["creme", "a4"]),
    ],
)
def test_tokens(language: str, text: str, tokens: list[str]) -> None:
    assert Analyser(language).query_tokens(text) == tokens


@pytest.mark.parametrize(
    ("language", "text", "other"),
    [
        ("fr", "crème brûlée", "creme brulee"),
        ("fr", "CRE\u0300ME", "crème"),
        ("de", "kühl", "kuehl"),
        ("de", "Straße", "STRASSE"),
        ("ar", "فُسْتَان", "فستان"),
        ("ar", "أحمر", "احمر"),
        ("fa", "کیف", "كيف"),
        ("he", "שִׂמְלָה", "שמלה"),
        ("hi", "सड़क", "सड\u093cक"),
        ("hi", "चाँदी", "चांदी"),
        ("tr", "kırmızı", "kirmizi"),
        ("tr", "ayakkabı", "AYAKKABI"),
        ("en", "ＵＳＢ", "usb"),
        ("ru", "ЁЛКА", "ёлка"),
        ("sv", "Byxor", "BYXOR"),
    ],
)
def test_spellings_of_a_word_share_a_token(language: str, text: str, other: str) -> None:
    analyser = Analyser(language)
    assert set(analyser.index_tokens(text)) & set(analyser.query_tokens(other))


def test_letters_that_everybody_types_stay() -> None:
    assert Analyser("sv").query_tokens("får") != Analyser("sv").query_tokens("far")
    assert fold_accents("йод") == "йод" and fold_accents("łódź øl") == "lodz ol"


@pytest.mark.parametrize("text", ["XK-250", "xk250", "XK 250", "XK_250"])
@pytest.mark.parametrize("other", ["XK-250", "xk250", "XK 250"])
def test_codes_are_found_with_and_without_hyphens(text: str, other: str) -> None:
    analyser = Analyser("en")
    assert {"xk", "250"} <= set(analyser.index_tokens(text)) & set(analyser.query_tokens(other))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("500 ml", "500ml"),
        ("5 l", "5l"),
        ("1,5 l", "1.5L"),
        ("T-Shirt", "tshirt"),
        ("AB_123-45", "ab123-45"),
        ("20 x 30 cm", "20x30cm"),
        ("U.S.A.", "usa"),
        ("٥٠٠ml", "500 ml"),
    ],
)
def test_quantities_and_hyphens(text: str, other: str) -> None:
    analyser = Analyser("en")
    assert set(analyser.index_tokens(text)) & set(analyser.query_tokens(other))


@given(st.text(alphabet="红色连衣裙あア", min_size=1))
def test_a_run_is_all_its_bigrams(text: str) -> None:
    bigrams = [first + second for first, second in pairwise(text)]
    assert list(split_bigrams(text, False)) == (bigrams or [text])
    assert list(split_bigrams(text, True)) == [*text, *bigrams]


@given(st.sampled_from([*LANGUAGES, "en", "zh", "sv", "xx"]), st.text())
def test_a_text_finds_itself(language: str, text: str) -> None:
    analyser = Analyser(language)
    assert set(analyser.query_tokens(text)) <= set(analyser.index_tokens(text))
    assert all(token and token == token.strip() for token in analyser.index_tokens(text))


def test_a_compound_is_split_into_words_of_the_catalogue() -> None:
    analyser = Analyser("de", {"herr": 5, "winterjack": 2, "jack": 9, "arbeit": 1, "hos": 1})
    assert analyser.query_tokens("Herrenwinterjacke") == ["herrenwinterjack", "herr", "winterjack"]
    assert analyser.query_tokens("Arbeitshosen") == ["arbeitshos", "arbeit", "hos"]
    assert analyser.query_tokens("Handtasche") == ["handtasch"]  # "hand" is no word of the catalogue
    assert Analyser("de").query_tokens("Winterjacke") == ["winterjack"]


def test_a_long_word_is_split_in_reasonable_time() -> None:
    assert Analyser("de", {"aaa": 1, "aaaa": 1}).query_tokens("a" * 400)


def test_products_are_read_in_their_language(write_data: Write) -> None:
    texts = ["chaussures rouges pour femme", "red shoes for women", "rote Schuhe", "robe d'été"]
    products = [
        {"product_id": str(number), "title": title, "language": language}
        for number, (title, language) in enumerate(zip(texts, ["fr", "en-GB", "de", "fr"], strict=True))
    ]
    data = write_data({"products": products, "queries": [], "judgements": []})
    tokens = analyse_catalogue(data, "auto", None)
    analyser = tokens.analyser
    assert tokens.languages.to_pylist() == ["fr", "en", "de", "fr"]
    assert list(analyser.shares) == ["fr", "de", "en"]
    assert {"chaussur", "chaussures"} <= {*analyser.query_tokens("chaussures"), "chaussures"}
    assert set(analyser.query_tokens("shoes")) >= {"shoe"}
    assert analyse_catalogue(data, "fr", None).languages.to_pylist() == ["fr"] * 4


def read_titles(language: str) -> list[tuple[str, str]]:
    """Pairs of a title and a query, from a judged set of our own."""
    with (TITLES / f"{language}.tsv").open(encoding="utf-8", newline="") as lines:
        return [(row["title"], row["query"]) for row in csv.DictReader(lines, delimiter="\t")]


def build(write_data: Write, titles: list[str]) -> LexicalIndex:
    products = [{"product_id": str(number), "title": title} for number, title in enumerate(titles)]
    return LexicalIndex.build(write_data({"products": products, "queries": [], "judgements": []}))


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_query_finds_its_title(language: str, write_data: Write) -> None:
    pairs = read_titles(language)
    index = build(write_data, [title for title, _ in pairs])
    assert len(pairs) >= 50 and list(index.analyser.shares) == [language]
    lost = [
        (query, title)
        for row, (title, query) in enumerate(pairs)
        if query and row not in index.search(query, DEPTH)[0]
    ]
    assert not lost


def test_each_query_finds_its_title_in_a_catalogue_of_eight_languages(
    write_data: Write, tmp_path: Path
) -> None:
    pairs = [pair for language in LANGUAGES for pair in read_titles(language)]
    index = build(write_data, [title for title, _ in pairs])
    assert set(index.analyser.shares) == set(LANGUAGES)
    index.save(tmp_path / "index")
    loaded = LexicalIndex.load(tmp_path / "index")
    lost = [
        (query, title)
        for row, (title, query) in enumerate(pairs)
        if query and row not in loaded.search(query, DEPTH)[0]
    ]
    assert not lost


@pytest.mark.real
def test_cases_of_texts_have_sensible_tokens(cases: Path) -> None:
    rows = [line.split("\t") for line in (cases / "lang" / "texts.tsv").read_text().splitlines()[1:]]
    texts = dict(rows)
    assert Analyser("fr").query_tokens(texts["nfc"]) == Analyser("fr").query_tokens(texts["nfd"])
    assert Analyser("th").query_tokens(texts["thai"])[0] == "เสื้"
    assert Analyser("bn").query_tokens(texts["bengali"]) == ["লাল", "শাড়ি"]
    assert len(Analyser("ta").query_tokens(texts["tamil"])) == 2
    assert len(Analyser("hi").query_tokens(texts["hindi"])) == 4  # without stop words
    assert Analyser("en").query_tokens(texts["size"]) == ["xl", "1/2", "c++", "a4"]
    assert all(len(Analyser("en").query_tokens(text)) > 0 for text in texts.values())


@pytest.mark.real
def test_german_cases_are_found(write_data: Write, cases: Path) -> None:
    rows = [line.split("\t") for line in (cases / "lang" / "german.tsv").read_text().splitlines()[1:]]
    titles = list(dict.fromkeys(title for _, cell in rows for title in cell.split("; ")))
    index = build(write_data, titles)
    for query, expected in rows:
        assert {titles[row] for row in index.search(query, 10)[0]} >= set(expected.split("; ")), query
