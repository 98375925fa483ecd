import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.languages import choose_language, detect_language, find_languages, rank_languages, read_code

SAID = {
    "en": "A red cotton shirt with long sleeves and two pockets",
    "de": "Wasserdichter Rucksack für Wanderungen, mit zwei Taschen",
    "fr": "Chaussures de course pour homme avec semelle amortie",
    "ja": "赤い綿の長袖シャツ",
}


@pytest.mark.parametrize("code", SAID)
def test_sentences_tell(code: str) -> None:
    assert detect_language(SAID[code]) == code


@pytest.mark.parametrize("text", ["", " ", "12345", "Nike Air Max 90", "S1F1M3 XL", "\x00\ud83d"])
def test_names_and_numbers_do_not(text: str) -> None:
    assert detect_language(text) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("红色连衣裙", "zh"),
        ("蓝色纯棉衬衫男士长袖", "zh"),  # Wu, by statistics alone
        ("Nike 男士跑步鞋 Air Max", "zh"),
        ("赤いワンピース 夏用", "ja"),
        ("Sony ソニー WH-1000XM5", "ja"),
        ("빨간 원피스", "ko"),
        ("เสื้อยืดผู้ชายสีดำ", "th"),
        ("שמלה אדומה", "he"),
        ("κόκκινο φόρεμα", "el"),
        ("சிவப்பு புடவை", "ta"),
        ("लाल सूती कुर्ता महिलाओं के लिए", "hi"),
        ("فستان أحمر", "ar"),
        ("شال حریر زنانه", "fa"),
        ("Красное платье женское", "ru"),
        ("Сукня жіноча червона", "uk"),
        ("Rød kjole for kvinner i bomull", "no"),
    ],
)
def test_a_script_decides_and_varieties_are_of_their_language(text: str, code: str) -> None:
    assert detect_language(text) == code


@given(st.text())
def test_probabilities_are_of_languages_with_two_letters(text: str) -> None:
    ranking = rank_languages(text)
    assert all(len(code) == 2 and 0 < value <= 1 for code, value in ranking.items())
    assert sum(ranking.values()) <= 1 + 1e-5


GERMAN = [
    "Herrenwinterjacke wasserdicht",
    "Rote Schuhe für Damen",
    "Kaffeemaschine mit Mahlwerk",
    "Winterjacken für Herren",
]
CHINESE = ["红色连衣裙", "蓝色纯棉衬衫男士长袖", "Nike 跑步鞋"]
NAMES = ["Sablefjord Vala", "Tessolo Isla", "Mira", "100", ""]


def test_the_languages_of_a_catalogue_are_those_that_its_texts_share() -> None:
    assert detect_language(GERMAN[0]) is None  # Frisian is as probable
    assert list(find_languages(GERMAN * 10 + NAMES)) == ["de"]
    shares = find_languages(GERMAN * 10 + CHINESE * 4)
    assert list(shares) == ["de", "zh"] and shares["de"] == pytest.approx(40 / 52, abs=0.01)
    assert find_languages(["", "123", "<3"]) == {}


def test_a_title_has_one_of_the_languages_of_its_catalogue() -> None:
    shares = {"de": 0.7, "zh": 0.3}
    assert [choose_language(text, shares) for text in (GERMAN[0], CHINESE[2], "Nike 90", "")] == [
        "de",
        "zh",
        "de",
        "de",
    ]
    assert choose_language("红色连衣裙", {"en": 1.0}) == "en"


@pytest.mark.parametrize(
    ("locale", "code"), [("de-AT", "de"), ("EN_us", "en"), ("nb", "no"), ("zh-Hans", "zh")]
)
def test_the_code_of_a_locale(locale: str, code: str) -> None:
    assert read_code(locale) == code
