import pytest

from catalog.languages import detect_language

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
