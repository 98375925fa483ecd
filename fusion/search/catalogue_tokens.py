"""The tokens of a catalogue's products, kept so that only changed products are analysed again."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.languages import ENGLISH, SAMPLE_TEXTS, choose_language, find_languages, read_code
from catalog.schema import TEXT_COLUMNS, product_text
from fusion.search.analysis import AUTO, CatalogueAnalyser
from fusion.search.language_rules import COMPOUNDING

TOKENS = pa.list_(pa.string())
IDS = pa.list_(pa.int32())
NO_ROW = -1
ROWS = 16_384  # per row group, and read at a time


class CatalogueTokens(NamedTuple):
    """The tokens of P products.

    Attributes:
        analyser: Of the catalogue.
        vocabulary: All tokens, sorted, string (V,); the first is empty.
        ids: For each product the numbers of its tokens in the vocabulary, list of int32 (P,).
        languages: ISO 639-1 codes, string (P,).
        ocr: The text on the pictures, string (P,); null where it was not read.
    """

    analyser: CatalogueAnalyser
    vocabulary: pa.Array
    ids: pa.ListArray
    languages: pa.Array
    ocr: pa.Array

    def save(self, path: Path) -> None:
        """Write the products to a parquet file, without analyser and vocabulary."""
        table = pa.table({"tokens": self.ids, "language": self.languages, "ocr": self.ocr})
        pq.write_table(table, path, row_group_size=ROWS, compression="zstd", use_dictionary=["language"])

    @classmethod
    def load(cls, path: Path, analyser: CatalogueAnalyser, vocabulary: Sequence[str]) -> Self:
        """The inverse of `save`."""
        table = pq.read_table(path).combine_chunks()
        columns = (_join(table[name]) for name in ("tokens", "language", "ocr"))
        return cls(analyser, pa.array(vocabulary, pa.string()), *columns)


class KnownTokens(NamedTuple):
    """Tokens of an earlier catalogue, for the products that did not change.

    Attributes:
        tokens: Of the earlier catalogue.
        rows: int64 (P,), the row of each of today's products in it; `NO_ROW` for a product that changed or is new.
    """

    tokens: CatalogueTokens
    rows: np.ndarray


def analyse_catalogue(
    data: Path, language: str, ocr: pa.Array | None, known: KnownTokens | None = None
) -> CatalogueTokens:
    """Split the texts of a data set's products into tokens.

    The result does not depend on `known`, which saves time: a product is analysed again only if it changed, or if its
    language or what its compounds are made of changed.

    Args:
        data: The data set.
        language: See `fusion.search.lexical_index.LexicalIndex.build`.
        ocr: The text on the pictures of its P products; None if it was not read.
        known: Tokens of an earlier catalogue.
    """
    codes, analyser = _fit_analyser(data, language)
    texts = pa.nulls(len(codes), pa.string()) if ocr is None else ocr
    reused = np.full(len(codes), NO_ROW)
    if known:
        reused = np.where(_is_reusable(codes, analyser, known), known.rows, NO_ROW)
    fresh = _analyse_rows(data, codes, texts, analyser, reused == NO_ROW)
    vocabulary, ids = _merge(known.tokens if known else None, reused, fresh)
    return CatalogueTokens(analyser, vocabulary, ids, codes, texts)


def _fit_analyser(data: Path, language: str) -> tuple[pa.Array, CatalogueAnalyser]:
    """The language of each product, string (P,), and the catalogue's analyser."""
    given = _join(store.read_table(data, "products", ["language"])["language"])
    if language != AUTO:
        codes = pa.array(itertools.repeat(language, len(given)), pa.string())
    else:
        codes = _choose_codes(data, given)
    counts = pc.value_counts(codes).to_pylist()
    shares = {entry["values"]: entry["counts"] / len(codes) for entry in sorted(counts, key=_by_count)}
    stems = {
        code: CatalogueAnalyser.count_stems(code, _read_texts(data, _equal(codes, code)))
        for code in shares
        if code in COMPOUNDING
    }
    return codes, CatalogueAnalyser(language, shares or {ENGLISH: 1.0}, stems)


def _by_count(entry: dict[str, object]) -> tuple[object, ...]:
    return -int(str(entry["counts"])), entry["values"]


def _choose_codes(data: Path, given: pa.Array) -> pa.Array:
    """`catalog.languages.choose_languages`, which reads only as many texts as it needs.

    Args:
        data: The data set.
        given: The column `language`, string (P,).
    """
    unknown = pc.equal(pc.fill_null(given, ""), "").to_numpy(zero_copy_only=False)
    rows = np.flatnonzero(unknown)
    sample = np.zeros(len(given), bool)
    sample[rows[:: max(1, len(rows) // SAMPLE_TEXTS)]] = True
    shares = find_languages([*_read_texts(data, sample)]) or {ENGLISH: 1.0}
    if len(shares) == 1:
        detected: Iterator[str] = itertools.repeat(next(iter(shares)), len(rows))
    else:
        detected = (choose_language(text, shares) for text in _read_texts(data, unknown))
    read = {code: read_code(code) for code in pc.unique(given).to_pylist() if code}
    codes = [read[code] if code else next(detected) for code in given.to_pylist()]
    return pa.array(codes, pa.string())


def _read_texts(data: Path, mask: np.ndarray) -> Iterator[str]:
    """The texts of the products where the mask, bool (P,), is True, without the text on pictures."""
    return (product_text(row) for row in _read_rows(data, mask))


def _read_rows(data: Path, mask: np.ndarray) -> Iterator[dict[str, object]]:
    start = 0
    for batch in store.read_batches(data, "products", TEXT_COLUMNS, ROWS):
        end = start + batch.num_rows
        yield from batch.filter(pa.array(mask[start:end])).to_pylist()
        start = end


def _is_reusable(codes: pa.Array, analyser: CatalogueAnalyser, known: KnownTokens) -> np.ndarray:
    """Which products have tokens of the earlier catalogue that are still right, bool (P,)."""
    earlier = known.tokens
    same = [
        code
        for code in pc.unique(codes).to_pylist()
        if analyser.stems.get(code) == earlier.analyser.stems.get(code)
    ]
    rows = pa.array(known.rows, mask=known.rows == NO_ROW)
    same_code = pc.fill_null(pc.equal(earlier.languages.take(rows), codes), False)
    usable = pc.and_(same_code, pc.is_in(codes, pa.array(same, pa.string())))
    return usable.to_numpy(zero_copy_only=False)


def _analyse_rows(
    data: Path, codes: pa.Array, ocr: pa.Array, analyser: CatalogueAnalyser, mask: np.ndarray
) -> pa.ListArray:
    """The tokens of the products where the mask is True, list of strings."""
    selection = pa.array(mask)
    selected = zip(_read_rows(data, mask), codes.filter(selection), ocr.filter(selection), strict=True)
    tokens = (
        analyser.index_tokens(product_text(row, text.as_py()), code.as_py()) for row, code, text in selected
    )
    chunks = []
    while chunk := list(itertools.islice(tokens, ROWS)):
        chunks.append(pa.array(chunk, TOKENS))
    return _join(pa.chunked_array(chunks, TOKENS))


def _merge(
    earlier: CatalogueTokens | None, rows: np.ndarray, fresh: pa.ListArray
) -> tuple[pa.Array, pa.ListArray]:
    """Number all tokens by the sorted vocabulary.

    Args:
        earlier: Of which the tokens at `rows` are used.
        rows: int64 (P,); `NO_ROW` for the next product of `fresh`.
        fresh: list of strings.

    Returns:
        Vocabulary and ids of `CatalogueTokens`.
    """
    is_fresh = rows == NO_ROW
    fresh_codes = pc.dictionary_encode(fresh.flatten())
    fresh_words = fresh_codes.dictionary.to_pylist()
    kept = pa.array([], IDS) if earlier is None else earlier.ids.take(pa.array(rows[~is_fresh]))
    kept_ids = kept.flatten().to_numpy()
    used = np.unique(kept_ids)
    kept_words = earlier.vocabulary.take(pa.array(used)).to_pylist() if earlier else []
    vocabulary = sorted({"", *fresh_words, *kept_words})
    numbers = {word: number for number, word in enumerate(vocabulary)}
    kept_numbers = np.zeros(used.max(initial=0) + 1, np.int32)
    kept_numbers[used] = [numbers[word] for word in kept_words]
    fresh_numbers = np.array([numbers[word] for word in fresh_words], np.int32)
    joined = pa.concat_arrays(
        [
            _replace_values(kept, kept_numbers[kept_ids]),
            _replace_values(fresh, fresh_numbers[fresh_codes.indices.to_numpy()]),
        ]
    )
    order = np.empty(len(rows), np.int64)
    order[~is_fresh] = np.arange(len(kept))
    order[is_fresh] = len(kept) + np.arange(len(fresh))
    return pa.array(vocabulary, pa.string()), joined.take(pa.array(order))


def _replace_values(lists: pa.ListArray, values: np.ndarray) -> pa.ListArray:
    """Lists of the same lengths with other values, int32."""
    ends = np.cumsum([0, *pc.list_value_length(lists).to_numpy()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values, pa.int32()))


def _equal(codes: pa.Array, code: str) -> np.ndarray:
    return pc.equal(codes, code).to_numpy(zero_copy_only=False)


def _join(column: pa.ChunkedArray) -> pa.Array:
    """One array of all chunks."""
    joined = column.combine_chunks()
    return joined if isinstance(joined, pa.Array) else pa.concat_arrays(joined.chunks)
