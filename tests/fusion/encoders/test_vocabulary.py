import csv
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from catalog.schema import DataError
from fusion.encoders.vocabulary import (
    FIRST,
    MAX_UNSEGMENTED,
    PAD,
    UNKNOWN,
    Vocabulary,
    Word,
    word_ends,
    word_starts,
)

CASES = Path(__file__).parents[4] / "shared" / "cases" / "lang" / "texts.tsv"
SCRIPTS = "abcdéßЖσ" + "红色连衣裙" + "ワンピース" + "สีดำ" + "빨간" + "فستان" + "लाल" + "1_-/ "
TEXTS = st.lists(st.text(SCRIPTS, max_size=20), max_size=12)
quick = settings(deadline=None, max_examples=50)


def learn(*texts: str, min_count: int = 1) -> Vocabulary:
    return Vocabulary.learn(texts, size=20_000, min_count=min_count)


def split(text: str, vocabulary: Vocabulary | None = None) -> list[str]:
    """The words of a text; without a vocabulary, by one that was learned from the text itself."""
    return [word.text for word in (vocabulary or learn(text)).split_words(text, 1000)]


def pieces(vocabulary: Vocabulary, text: str) -> list[int]:
    (row,) = vocabulary.encode([text], 100).tolist()
    return [token for token in row if token != PAD]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Red T-shirt", ["red", "t", "shirt"]),
        ("size_42, 100% Cotton!", ["size", "42", "100", "cotton"]),
        ("Кофта ÉCRU", ["кофта", "écru"]),
        ("लाल सूती कुर्ता", ["लाल", "सूती", "कुर्ता"]),
        ("लाल शाड़ी", ["लाल", "शाड़ी"]),
        ("فُسْتَان أحمر", ["فُسْتَان", "أحمر"]),
        ("빨간 원피스", ["빨간", "원피스"]),
        (" -_/ 👕", []),
        ("", []),
    ],
)
def test_words_of_scripts_with_blanks(text: str, expected: list[str]) -> None:
    assert split(text) == [unicodedata.normalize("NFC", word) for word in expected] or split(text) == expected


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("STRASSE", "straße"),
        ("İPEK", "ipek"),
        ("ΣΑΣ", "σας"),
        ("ＵＳＢ ケーブル", "usb ｹｰﾌﾞﾙ"),
        ("cafe\u0301", "CAFÉ"),
        ("soft\u00adshell", "softshell"),
        ("می\u200cخواهم", "میخواهم"),
    ],
)
def test_spellings_of_the_same_word(left: str, right: str) -> None:
    vocabulary = learn(left)
    assert pieces(vocabulary, left) == pieces(vocabulary, right)


@quick
@given(TEXTS, st.integers(1, 9))
def test_encoding_is_pieces_then_padding(texts: list[str], length: int) -> None:
    vocabulary = learn(*texts[::2])
    encoded = vocabulary.encode(texts, length)
    assert encoded.shape == (len(texts), length)
    assert encoded.dtype == np.int32
    for text, row in zip(texts, encoded.tolist(), strict=True):
        count = min(length, sum(word.tokens for word in vocabulary.split_words(text, 1000)))
        assert row[count:] == [PAD] * (length - count)
        assert all(FIRST <= token < len(vocabulary) for token in row[:count]), "no text is unknown"


@quick
@given(TEXTS, st.text(max_size=20))
@example([], "\uf900")  # a compatibility form
def test_every_letter_and_digit_is_in_a_word(texts: list[str], text: str) -> None:
    text = text.replace("\u0345", "")  # a mark that case folding makes a letter
    joined = "".join(split(text, learn(*texts)))
    composed = unicodedata.normalize("NFC", text).casefold()  # as words are
    letters = [sign for sign in composed if unicodedata.category(sign)[0] in "LN"]
    remaining = iter(joined)
    assert all(letter in remaining for letter in letters)


@quick
@given(TEXTS)
def test_order_of_texts_plays_no_part(texts: list[str]) -> None:
    first, second = learn(*texts, min_count=2), learn(*texts[::-1], min_count=2)
    assert np.array_equal(first.encode(texts, 30), second.encode(texts, 30)) and len(first) == len(second)


def test_learning_gives_the_same_bytes(tmp_path: Path) -> None:
    """Also if several threads count words."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(SCRIPTS), 30)) for _ in range(2000)]
    for name in ("first", "second"):
        Vocabulary.learn(rng.permutation(texts).tolist(), 2000, 2).save(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_a_frequent_word_is_one_piece() -> None:
    vocabulary = learn("a red sweatshirt", "blue sweatshirt", "a rare sweater", min_count=2)
    assert [word.tokens for word in vocabulary.split_words("a sweatshirt", 9)] == [1, 1]
    assert vocabulary.split_words("rare", 9)[0].tokens > 1


def test_the_size_limits_the_pieces() -> None:
    texts = [f"{first}{second}word" for first in "abcdefgh" for second in "abcdefgh"]
    assert len(Vocabulary.learn(texts, 40, 1)) == FIRST + 256 + 40


@pytest.mark.parametrize(
    ("word", "other"),
    [("waterprof", "water"), ("watterproof", "leakproof"), ("waterbottle", "water"), ("jackts", "jack")],
)
def test_a_misspelt_or_compound_word_shares_pieces(word: str, other: str) -> None:
    texts = ["waterproof jacket", "water bottle", "jack", "rainproof", "foolproof"] * 2
    vocabulary = learn(*texts, min_count=2)
    assert set(pieces(vocabulary, word)) & set(pieces(vocabulary, other))


def test_a_product_code_shares_pieces() -> None:
    vocabulary = learn(*["bolt AB-12345", "nut AB-12399", "AB12345"] * 2, min_count=2)
    known, similar = (set(pieces(vocabulary, code)) for code in ("AB12366", "AB12377"))
    assert known & similar
    assert pieces(vocabulary, "ab 12345") == pieces(vocabulary, "AB-12345")


def test_a_rare_word_adds_no_pieces() -> None:
    """Else pieces of product codes would identify single products."""
    texts = [f"red shirt x{code}q" for code in (1212, 1213, 2121, 3121)]
    vocabulary = learn(*texts, min_count=2)
    assert len(pieces(vocabulary, "x1212q")) == 1 + len("x1212q"), "the start of a word, and single letters"
    assert len(pieces(vocabulary, "red shirt")) == 2


def test_a_name_is_the_same_pieces_anywhere() -> None:
    """In scripts with and without blanks: what queries, entities and facets rely on."""
    titles = ["女士红色连衣裙", "红色衬衫男士", "新款大码裙红色", "Red dress, shoes", "hat red", "T恤红色"]
    vocabulary = learn(*titles, min_count=2)
    for name, count in (("红色", 4), ("red", 2)):
        (token,) = pieces(vocabulary, name)
        assert sum(token in pieces(vocabulary, title) for title in titles) == count


def test_pieces_are_no_phrases() -> None:
    vocabulary = learn(*["秋冬新款女士纯棉连衣裙"] * 9, *["ผ้าฝ้ายสีดำ"] * 9, *["waterproofjacket"] * 9)
    assert all(
        len(word.text) <= MAX_UNSEGMENTED for word in vocabulary.split_words("秋冬新款女士纯棉连衣裙", 50)
    )
    assert split("waterproofjacket", vocabulary) == ["waterproofjacket"]


def test_an_unseen_letter_is_its_bytes() -> None:
    vocabulary = learn("red shirt", "红色")
    assert (
        np.isin(pieces(vocabulary, "衬"), vocabulary.unreadable).all() and len(pieces(vocabulary, "衬")) == 3
    )
    assert split("红衬衫色", vocabulary) == ["红衬衫", "色"], "words are whole letters"
    assert not np.isin(pieces(vocabulary, "red 红色 xyz 789"), vocabulary.unreadable).any()


def test_words_with_unreadable_pieces_are_dropped() -> None:
    vocabulary = Vocabulary.learn(["red shirt"], size=100, min_count=1)
    assert vocabulary.drop_unreadable("rest 红 shirt's red年 RED!") == "rest shirt's RED!"
    assert vocabulary.drop_unreadable(" ") == ""


def test_starts_and_ends_of_words() -> None:
    tokens, continuations = np.array([[5, 2, 6, 3, PAD], [6, 2, 2, 6, 6]], np.int32), np.array([6], np.int32)
    assert word_starts(tokens, continuations).tolist() == [[True, True, False, True, True], [1, 1, 1, 0, 0]]
    assert word_ends(tokens, continuations).tolist() == [[True, False, True, True, True], [1, 1, 0, 0, 1]]


def test_marks_continue_a_word() -> None:
    """A Thai vowel sign is no word, even if its letter is another piece."""
    vocabulary = Vocabulary.learn(["สี", "ผี"], size=3, min_count=2)
    assert vocabulary.split_words("สี", 9) == [Word("สี", 2)]


def test_a_published_vocabulary_with_marks_of_starts() -> None:
    vocab = [("<unk>", 0.0), ("▁red", -1.0), ("▁sho", -1.0), ("es", -1.0), ("▁", -2.0), ("红", -1.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    vocabulary = Vocabulary(tokenizer.to_str())
    assert vocabulary.encode(["red shoes ж"], 6).tolist() == [[3, 4, 5, 6, UNKNOWN, PAD]]
    assert vocabulary.split_words("red shoes 红", 9)[:2] == [Word("red", 1), Word("shoes", 2)]
    assert UNKNOWN in vocabulary.unreadable


def test_a_prompt_is_split_with_the_text_and_left_out() -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["query: red shirt"] * 3, trainer)
    vocabulary = Vocabulary(tokenizer.to_str())
    prompt, texts = "query: ", ["red shirt", "", "  "]
    whole = tokenizer.encode(prompt + texts[0]).ids
    encoded = vocabulary.encode(texts, 8, prompt)
    after = [token - FIRST for token in encoded[0].tolist() if token != PAD]
    assert [*vocabulary.prompt_pieces(prompt), *after] == whole
    assert tokenizer.id_to_token(after[0]) == "Ġred", "the blank of the prompt belongs to the first word"
    assert (encoded[1:] == PAD).all()


def test_vocabulary_survives_saving(tmp_path: Path) -> None:
    texts = ["Straße Кофта écru 100", "écru 红色"]
    vocabulary = learn(*texts)
    vocabulary.save(tmp_path / "vocabulary.json")
    loaded = Vocabulary.load(tmp_path / "vocabulary.json")
    assert len(loaded) == len(vocabulary)
    assert np.array_equal(loaded.encode(texts, 9), vocabulary.encode(texts, 9))


@pytest.mark.parametrize("content", ['["red", "shirt"]', "{}", "red"])
def test_what_an_older_version_wrote_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocabulary.json").write_text(content)
    with pytest.raises(DataError, match=r"vocabulary\.json: not the pieces .* run featurize and train again"):
        Vocabulary.load(tmp_path / "vocabulary.json")


@pytest.mark.real
@pytest.mark.skipif(not CASES.exists(), reason="the cases are not in the repository")
def test_words_of_the_cases() -> None:
    rows = list(csv.reader(CASES.open(), delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    vocabulary = learn(*(text for _, text in rows))
    for language, text in rows:
        if language not in ("thai", "japanese", "chinese", "fullwidth"):
            joined = "".join(sign if unicodedata.category(sign)[0] in "LMN" else " " for sign in text)
            assert split(text, vocabulary) == unicodedata.normalize("NFC", joined).casefold().split(), (
                language
            )
