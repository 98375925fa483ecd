import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.encoders.vocabulary import PAD, UNKNOWN, Vocabulary, words

TEXTS = st.lists(st.text(string.ascii_letters[:8] + "éßЖ1_-/ ", max_size=20), max_size=12)
quick = settings(deadline=None, max_examples=50)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red T-shirt", ["red", "t", "shirt"]),
        ("size_42, 100% Cotton!", ["size", "42", "100", "cotton"]),
        ("STRASSE straße", ["strasse", "strasse"]),
        ("Кофта ÉCRU", ["кофта", "écru"]),
        (" -_/ ", []),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@quick
@given(TEXTS, st.integers(1, 9))
def test_encoding_is_words_then_padding(texts: list[str], length: int) -> None:
    vocabulary = Vocabulary.build(texts[::2], size=4, min_count=1)
    encoded = vocabulary.encode(texts, length)
    assert encoded.shape == (len(texts), length)
    assert encoded.dtype == np.int32
    for text, row in zip(texts, encoded.tolist(), strict=True):
        first_words = words(text)[:length]
        assert row[len(first_words) :] == [PAD] * (length - len(first_words))
        assert [token == UNKNOWN for token in row[: len(first_words)]] == [
            w not in vocabulary.known_words for w in first_words
        ]
        assert all(
            vocabulary.known_words[token - 2] == word
            for token, word in zip(row, first_words, strict=False)
            if token != UNKNOWN
        )
        assert max(row) < len(vocabulary)


@quick
@given(TEXTS, st.integers(1, 6), st.integers(1, 3))
def test_vocabulary_keeps_the_most_frequent(texts: list[str], size: int, min_count: int) -> None:
    every = [word for text in texts for word in words(text)]
    known = Vocabulary.build(texts, size, min_count).known_words
    ranks = [(-every.count(word), word) for word in known]
    assert ranks == sorted(ranks), "by falling frequency, then by the alphabet"
    enough = {word for word in every if every.count(word) >= min_count}
    assert len(known) == min(size, len(enough))
    left_out = [(-every.count(word), word) for word in enough - set(known)]
    assert not left_out or not known or max(ranks) < min(left_out)


@quick
@given(texts=TEXTS)
def test_order_of_texts_plays_no_part(texts: list[str]) -> None:
    assert Vocabulary.build(texts, 5, 1).known_words == Vocabulary.build(texts[::-1], 5, 1).known_words


def test_vocabulary_survives_saving(tmp_path: Path) -> None:
    vocabulary = Vocabulary.build(["Straße Кофта écru 100", "écru"], 10, 1)
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert (loaded.known_words, loaded.ids, len(loaded)) == (
        vocabulary.known_words,
        vocabulary.ids,
        len(vocabulary),
    )
