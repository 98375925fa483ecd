"""BM25 of a catalogue that changed: from known tokens, and equal to bm25s."""

from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog import store
from fusion.search import catalogue_tokens
from fusion.search.analysis import CatalogueAnalyser
from fusion.search.catalogue_tokens import NO_ROW, KnownTokens
from fusion.search.lexical_index import LexicalIndex, load_tokens

WORDS = ("red", "shirt", "blue", "shoe", "winterjacke", "jacke", "winter", "der", "und", "mug", "500ml")
LANGUAGES = (None, "en", "de")
Titles = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
Row = tuple[str, str | None, str | None]  # title, language, text on pictures
Rows = st.lists(st.tuples(Titles, st.sampled_from(LANGUAGES), st.none() | Titles), max_size=8)


def write(folder: Path, rows: list[Row]) -> pa.Array:
    """Write a data set; the text on the pictures."""
    with store.TableWriter(folder, "products") as table:
        for number, (title, language, _) in enumerate(rows):
            table.write({"product_id": str(number), "title": title, "language": language})
    return pa.array([ocr for *_, ocr in rows], pa.string())


def read_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that are split into tokens."""
    texts: list[str] = []
    split = CatalogueAnalyser.index_tokens

    def record(self: CatalogueAnalyser, text: str, language: str) -> list[str]:
        texts.append(text)
        return split(self, text, language)

    monkeypatch.setattr(CatalogueAnalyser, "index_tokens", record)
    return texts


@settings(max_examples=20)
@given(Rows, Rows, st.randoms())
def test_known_tokens_change_nothing(
    tmp_path_factory: Any, old: list[Row], new: list[Row], random: Any
) -> None:
    root: Path = tmp_path_factory.mktemp("data")
    kept = random.sample(range(len(old)), random.randint(0, len(old)))
    today = [*(old[row] for row in kept), *new]
    places = np.array([*kept, *[NO_ROW] * len(new)], np.int64)
    order = random.sample(range(len(today)), len(today))
    today, places = [today[row] for row in order], places[order]
    LexicalIndex.build(root / "old", ocr=write(root / "old", old)).save(root / "before")
    known = KnownTokens(load_tokens(root / "before"), places)
    ocr = write(root / "new", today)
    LexicalIndex.build(root / "new", ocr=ocr, known=known).save(root / "incremental")
    LexicalIndex.build(root / "new", ocr=ocr).save(root / "whole")
    assert read_files(root / "incremental") == read_files(root / "whole")


def test_only_changed_products_are_analysed(tmp_path: Path, analysed: list[str]) -> None:
    rows: list[Row] = [("red shirt", "en", None), ("blue shoe", "en", None), ("mug", "en", None)]
    LexicalIndex.build(tmp_path / "old", ocr=write(tmp_path / "old", rows)).save(tmp_path / "index")
    analysed.clear()
    ocr = write(tmp_path / "new", [("green mug", "en", None), *rows[:2]])
    known = KnownTokens(load_tokens(tmp_path / "index"), np.array([NO_ROW, 0, 1]))
    LexicalIndex.build(tmp_path / "new", ocr=ocr, known=known)
    assert analysed == ["green mug"]


def test_a_new_word_splits_compounds_of_unchanged_products(tmp_path: Path, analysed: list[str]) -> None:
    rows: list[Row] = [("winterjacke", "de", None), ("jacke", "de", None)]
    LexicalIndex.build(tmp_path / "old", ocr=write(tmp_path / "old", rows)).save(tmp_path / "index")
    analysed.clear()
    ocr = write(tmp_path / "new", [*rows, ("winter", "de", None)])
    known = KnownTokens(load_tokens(tmp_path / "index"), np.array([0, 1, NO_ROW]))
    index = LexicalIndex.build(tmp_path / "new", ocr=ocr, known=known)
    assert analysed == ["winterjacke", "jacke", "winter"]
    assert index.search("winter", 5)[0].tolist() == [2, 0]


@settings(max_examples=30)
@given(st.lists(Titles, min_size=1, max_size=8))
def test_scores_equal_those_of_bm25s(tmp_path_factory: Any, titles: list[str]) -> None:
    folder: Path = tmp_path_factory.mktemp("data")
    write(folder, [(title, "en", None) for title in titles])
    index = LexicalIndex.build(folder, "en").index
    tokens = [CatalogueAnalyser("en", {"en": 1.0}, {}).index_tokens(title, "en") for title in titles]
    words = sorted({word for row in tokens for word in row})
    if not words:
        return
    expected = bm25s.BM25()
    expected.index(tokens, show_progress=False)
    for word in words:
        np.testing.assert_array_equal(index.get_scores([word]), expected.get_scores([word]))


def test_a_catalogue_without_words_or_products(tmp_path: Path) -> None:
    for rows in ([], [("—", None, None)]):
        folder = tmp_path / str(len(rows))
        index = LexicalIndex.build(folder, ocr=write(folder, rows))
        index.save(tmp_path / f"index {len(rows)}")
        assert LexicalIndex.load(tmp_path / f"index {len(rows)}").search("red", 5)[0].tolist() == []


def test_many_products_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue_tokens, "ROWS", 2)
    rows: list[Row] = [(f"word{number} red", None, None) for number in range(5)]
    index = LexicalIndex.build(tmp_path, ocr=write(tmp_path, rows))
    assert index.search("word3", 1)[0].tolist() == [3]
