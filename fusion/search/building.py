"""Builds the index of a data set with a trained model, and encodes only what changed since an earlier index.

The result does not depend on the earlier index, byte for byte: the vector of a product depends on the product alone.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog import store
from catalog.content import CONTENT_COLUMNS, HASHES, hash_row
from catalog.progress import show_progress
from fusion.model import embed
from fusion.search.analysis import AUTO
from fusion.search.catalogue_search import load_model
from fusion.search.catalogue_tokens import NO_ROW, KnownTokens
from fusion.search.earlier_index import CHECKS_FILE, EarlierIndex, Vectors, measure_self_recall
from fusion.search.encoded_parts import EncodedParts
from fusion.search.hybrid import Hybrid
from fusion.search.lexical_index import LexicalIndex
from fusion.search.marker import IndexMarker, require_marker
from fusion.search.search_index import (
    FIELDS,
    GROUP_ROWS,
    IVF_FILE,
    LEXICAL_FOLDER,
    PRODUCTS_FILE,
    ProductsWriter,
    select_tuning_queries,
)
from fusion.search.vector_index import ANN_MIN_PRODUCTS, IVFIndex

PARTS, PROVENANCE_FILE = "parts", "made_from.json"  # of an unfinished index
SAMPLE = 1000  # products that tune an approximate index where there are no queries


@dataclass
class Report:
    """What a build did.

    Attributes:
        counts: products, added, changed, removed, reused, encoded, and previous, the products of the earlier index.
        seconds: Part of the work → seconds.
        self_recall: Of the index, see `measure_self_recall`.
        previous_self_recall: Of the earlier index; None without one.
    """

    counts: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    self_recall: float = 1.0
    previous_self_recall: float | None = None

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Measure the time of a part of the work."""
        start = time.monotonic()
        yield
        self.seconds[part] = time.monotonic() - start


def build_index(
    model: Path,
    data: Path,
    index: Path,
    hybrid: Path | None = None,
    previous: Path | None = None,
    learnt: Path | None = None,
    report: Path | None = None,
) -> None:
    """Build the index of a data set; goes on where a killed build of the same stopped.

    Args:
        model: What `train` wrote.
        data: The data set.
        index: Folder to write: as the stage `index` writes it, and checks.json, its self-search recall.
        hybrid: Of `Hybrid.save`, for the language that BM25 reads; None to detect it.
        previous: An earlier index of the same model, whose unchanged products are not encoded again.
        learnt: lists.npz of the version's own index: the approximate index uses what that one learnt. None to learn
            it, for a large catalogue.
        report: File to write what was done, see `Report`.

    Raises:
        DataError: where a file cannot be read, or another model made the earlier index.
    """
    language = Hybrid.load(hybrid).language if hybrid else AUTO
    builder = Builder(model, data, language, IVFIndex.load(learnt) if learnt else None, previous)
    with store.atomic_dir(index) as folder:
        builder.build(folder)
        if report:
            report.write_text(json.dumps(vars(builder.report), indent=2) + "\n")


class Builder:
    """Builds one index; see `build_index`.

    Args:
        model: What `train` wrote.
        data: The data set.
        language: See `LexicalIndex.build`.
        learnt: Approximate index of the version, without regard to its products.
        previous: An earlier index.
    """

    def __init__(
        self, model: Path, data: Path, language: str, learnt: IVFIndex | None, previous: Path | None
    ) -> None:
        self.network, self.featurizer = load_model(model)
        self.data, self.language, self.learnt = data, language, learnt
        self.marker = IndexMarker(
            require_marker(self.network), store.fingerprint(data), self.network.config.dim
        )
        self.earlier = EarlierIndex(previous) if previous else None
        if self.earlier:
            self.earlier.marker.require_model(self.marker.model)
        self.report = Report()

    def build(self, folder: Path) -> None:
        """Write the index into the unfinished folder of `store.atomic_dir`."""
        earlier = self.earlier and self.earlier.marker.describe()
        marker = self.marker.describe()
        store.resume_if_same(folder, {"marker": marker, "previous": earlier, "language": self.language})
        (folder / PARTS).mkdir(exist_ok=True)
        parts = EncodedParts(folder / PARTS, self.network, self.featurizer)
        if self.earlier:  # first: two catalogues of vectors in memory would be too many
            with self.report.measure("check earlier"):
                self.report.previous_self_recall = self.earlier.self_recall
        with self.report.measure("encode"):
            content, rows = self._encode_changes(parts)
        with self.report.measure("write"):
            vectors = self._write_products(folder / PRODUCTS_FILE, content, rows, parts)
        with self.report.measure("lists"):
            ivf = self._build_lists(vectors, rows)
            if ivf:
                ivf.save(folder / IVF_FILE)
        with self.report.measure("check"):
            self._check(folder, vectors, ivf)
        del vectors, ivf
        with self.report.measure("words"):
            lexical = LexicalIndex.build(self.data, self.language, *self._read_words(rows, parts))
            lexical.save(folder / LEXICAL_FOLDER)
        self.marker.save(folder)
        shutil.rmtree(folder / PARTS)
        (folder / PROVENANCE_FILE).unlink()

    def _encode_changes(self, parts: EncodedParts) -> tuple[pa.ChunkedArray, np.ndarray]:
        """Encode the products whose content the earlier index lacks.

        Returns:
            The hash of each product's content, and its row in the earlier index, int64 (P,), or `NO_ROW`.
        """
        hashes: list[pa.Array] = []
        rows = [np.empty(0, np.int64)]
        files = store.list_files(self.data, "products")
        total = sum(store.open_file(path).metadata.num_rows for path in files)
        batches = store.read_batches(self.data, "products", ("product_id", *CONTENT_COLUMNS))
        with show_progress(total=total, desc="encode changed products", unit="product") as bar:
            for batch in batches:
                products = batch.to_pylist()
                content = [hash_row(row) for row in products]
                hashes.append(pa.array(content, HASHES))
                rows.append(self.earlier.find(content) if self.earlier else np.full(len(products), NO_ROW))
                parts.add([products[row] for row in np.flatnonzero(rows[-1] == NO_ROW)])
                bar.update(len(products))
        parts.add([], last=True)
        return pa.chunked_array(hashes, HASHES), np.concatenate(rows)

    def _write_products(
        self, path: Path, content: pa.ChunkedArray, rows: np.ndarray, parts: EncodedParts
    ) -> np.ndarray:
        """Write products.parquet, one row group at a time; the vectors, float32 (P, dim)."""
        fields = store.read_table(self.data, "products", ["product_id", "title", *FIELDS])
        self._count(fields["product_id"], rows)
        vectors = np.empty((len(rows), self.marker.dim), np.float32)
        with ProductsWriter(path) as writer:
            for start in range(0, max(1, len(rows)), GROUP_ROWS):
                group = slice(start, start + GROUP_ROWS)
                gathered = self._gather(rows[group], parts)
                vectors[group] = gathered[""]
                writer.write(fields[group], gathered, content[group].combine_chunks())
                if self.earlier:
                    self.earlier.forget(rows[start + GROUP_ROWS :])
        return vectors

    def _gather(self, rows: np.ndarray, parts: EncodedParts) -> Vectors:
        """The vectors of products, from the earlier index and from the parts."""
        fresh = rows == NO_ROW
        encoded = parts.read(int(fresh.sum()))
        if self.earlier is None or fresh.all():
            return encoded
        known = self.earlier.read_vectors(rows[~fresh])
        vectors = {}
        for name, array in encoded.items():
            vectors[name] = np.empty((len(rows), array.shape[1]), array.dtype)
            vectors[name][fresh], vectors[name][~fresh] = array, known[name]
        return vectors

    def _count(self, product_ids: pa.ChunkedArray, rows: np.ndarray) -> None:
        """Fill `Report.counts`."""
        before = self.earlier.product_ids if self.earlier else pa.chunked_array([], pa.string())
        is_new = pc.invert(pc.is_in(product_ids, value_set=before)).to_numpy()
        encoded = rows == NO_ROW
        kept = int((~is_new).sum())
        self.report.counts = {
            "products": len(rows),
            "previous": len(before),
            "added": len(rows) - kept,
            "changed": int((encoded & ~is_new).sum()),
            "removed": len(before) - kept,
            "reused": int((~encoded).sum()),
            "encoded": int(encoded.sum()),
        }

    def _build_lists(self, vectors: np.ndarray, rows: np.ndarray) -> IVFIndex | None:
        """The approximate index of a large catalogue; only products that changed are assigned to its lists."""
        if len(vectors) <= ANN_MIN_PRODUCTS:
            return None
        if self.learnt is None:
            return IVFIndex.build(vectors, self._embed_tuning_queries(vectors))
        quantiser, earlier = self.learnt.quantiser, self.earlier and self.earlier.ivf
        known = np.zeros(len(rows), bool)
        lists = np.empty(len(rows), np.int32)
        codes = np.empty((len(rows), self.learnt.codes.shape[1]), np.uint8)
        if earlier and all(map(np.array_equal, earlier.quantiser, quantiser)):
            known = rows != NO_ROW
            lists[known], codes[known] = earlier.lists[rows[known]], earlier.codes[rows[known]]
        lists[~known], codes[~known] = quantiser.assign(vectors[~known])
        return IVFIndex(quantiser, lists, codes, self.learnt.probes, self.learnt.depth)

    def _embed_tuning_queries(self, vectors: np.ndarray) -> np.ndarray:
        """Representative queries, as the stage `index` uses them; products where the data set has none."""
        queries = self.featurizer.featurize_table(self.data, "queries")
        tuning = select_tuning_queries(queries)
        return embed(self.network, tuning, "query") if len(tuning) else vectors[:: -(-len(vectors) // SAMPLE)]

    def _check(self, folder: Path, vectors: np.ndarray, ivf: IVFIndex | None) -> None:
        """Measure the self-search recall, and write checks.json."""
        self.report.self_recall = measure_self_recall(vectors, ivf)
        content = {"self_recall": self.report.self_recall}
        (folder / CHECKS_FILE).write_text(json.dumps(content) + "\n")

    def _read_words(
        self, rows: np.ndarray, parts: EncodedParts
    ) -> tuple[pa.Array | None, KnownTokens | None]:
        """The text on pictures and the known tokens, for `LexicalIndex.build`."""
        tokens = self.earlier and self.earlier.load_tokens()
        known = KnownTokens(tokens, rows) if tokens else None
        if self.featurizer.ocr is None:
            return None, known
        read = parts.read_ocr()
        texts = pa.chunked_array([*read.chunks, *([tokens.ocr] if tokens else [])], pa.string())
        fresh = rows == NO_ROW
        places = np.where(fresh, np.cumsum(fresh) - 1, rows + len(read))
        return texts.take(pa.array(places)).combine_chunks(), known
