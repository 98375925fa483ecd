"""An index that is refreshed equals one from nothing, byte for byte, and encodes only what changed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from catalog import store
from catalog.schema import DataError
from fusion.featurizer import Featurizer
from fusion.search import encoded_parts
from fusion.search.building import build_index
from fusion.search.earlier_index import measure_self_recall
from fusion.search.hybrid import Hybrid
from fusion.search.search_index import SearchIndex
from fusion.search.vector_index import IVFIndex

Row = dict[str, Any]


def read_files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def read_products(data: Path) -> list[Row]:
    return store.read_table(data, "products").to_pylist()


def write_products(data: Path, folder: Path, rows: list[Row]) -> Path:
    """A copy of a data set with other products."""
    shutil.copytree(data, folder, ignore=shutil.ignore_patterns("products"))
    with store.TableWriter(folder, "products") as table:
        for row in rows:
            table.write(row)
    return folder


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the products that are encoded."""
    ids: list[str] = []
    featurize = Featurizer.featurize_rows

    def record(self: Featurizer, table: str, rows: list[Row], *options: Any) -> Any:
        if table == "products":
            ids.extend(row["product_id"] for row in rows)
        return featurize(self, table, rows, *options)

    monkeypatch.setattr(Featurizer, "featurize_rows", record)
    return ids


@pytest.fixture
def cheap_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures get features at once."""

    def encode(self: Featurizer, pictures: Any, padded: int = 0) -> tuple[np.ndarray, np.ndarray]:
        means = np.array([picture.mean((0, 1)) for picture in pictures], np.float16)
        pooled = np.tile(means, -(-self.encoder.width // 3))[:, : self.encoder.width]
        return pooled, np.zeros((len(pictures), self.encoder.grid**2, self.encoder.region_width), np.float16)

    monkeypatch.setattr(Featurizer, "encode_pictures", encode)


def change(rows: list[Row]) -> list[Row]:
    """Another day: products that came, changed, went, and moved."""
    first, second, third, *others = rows
    new = first | {"product_id": "new", "title": "something new"}
    changed = second | {"title": f"{second['title']} again"}
    repriced = third | {"price": 1234.5, "available": False}
    return [*others[10:-3], new, changed, repriced, *others[:10]]


@pytest.fixture(scope="module")
def today(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_products(data, tmp_path_factory.mktemp("today") / "data", change(read_products(data)))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Several files of encoded products, and several row groups."""
    monkeypatch.setattr(encoded_parts, "ROWS", 24)
    yield


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_an_index_from_nothing_equals_that_of_the_stage(
    data: Path, model: Path, index: Path, tmp_path: Path
) -> None:
    build_index(model, data, tmp_path / "index")
    built, stage = read_files(tmp_path / "index"), read_files(index)
    assert json.loads(built.pop("checks.json")) == {"self_recall": 1.0}
    del stage["made_from.json"]
    assert built == stage


@pytest.mark.usefixtures("small_parts")
def test_only_what_changed_is_encoded(
    today: Path, model: Path, index: Path, encoded: list[str], tmp_path: Path
) -> None:
    build_index(model, today, tmp_path / "index", previous=index, report=tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())
    second = pq.read_table(index / "products.parquet")["product_id"][1].as_py()
    assert encoded == ["new", second]
    expected = {
        "products": 57,
        "previous": 60,
        "added": 1,
        "changed": 1,
        "removed": 4,
        "reused": 55,
        "encoded": 2,
    }
    assert report["counts"] == expected
    assert report["self_recall"] == report["previous_self_recall"] == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts")
def test_a_refreshed_index_equals_that_from_nothing(
    today: Path, model: Path, index: Path, encoded: list[str], tmp_path: Path
) -> None:
    build_index(model, today, tmp_path / "index", previous=index)
    build_index(model, today, tmp_path / "whole")
    assert len(encoded) == 2 + 57
    assert read_files(tmp_path / "index") == read_files(tmp_path / "whole")


def test_prices_and_stock_change_without_any_encoding(
    data: Path, model: Path, index: Path, encoded: list[str], tmp_path: Path
) -> None:
    rows = [row | {"price": 7.0, "max_price": 9.0, "available": False} for row in read_products(data)]
    day = write_products(data, tmp_path / "data", rows)
    build_index(model, day, tmp_path / "index", previous=index)
    assert encoded == []
    loaded, before = SearchIndex.load(tmp_path / "index"), SearchIndex.load(index)
    assert set(loaded.fields["price"].to_pylist()) == {7.0}
    assert loaded.vectors.tobytes() == before.vectors.tobytes()
    assert loaded.marker == before.marker._replace(data=store.fingerprint(day))


@pytest.mark.slow
@pytest.mark.usefixtures("cheap_pictures")
def test_large_catalogues_keep_what_the_version_learnt(
    data: Path, today: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("building", "search_index"):
        monkeypatch.setattr(f"fusion.search.{module}.ANN_MIN_PRODUCTS", 20)
    build_index(model, data, tmp_path / "version")
    learnt = tmp_path / "version" / "lists.npz"
    assigned: list[int] = []
    monkeypatch.setattr("fusion.search.vector_index.ASSIGN_CHUNK", 8)
    build_index(model, today, tmp_path / "whole", learnt=learnt)
    index = IVFIndex.load(learnt)
    assign = type(index.quantiser).assign

    def record(self: Any, vectors: np.ndarray) -> Any:
        assigned.append(len(vectors))
        return assign(self, vectors)

    monkeypatch.setattr(type(index.quantiser), "assign", record)
    build_index(model, today, tmp_path / "index", previous=tmp_path / "version", learnt=learnt)
    assert assigned == [2]
    assert read_files(tmp_path / "index") == read_files(tmp_path / "whole")
    built = IVFIndex.load(tmp_path / "index" / "lists.npz")
    assert all(map(np.array_equal, built.quantiser, index.quantiser))
    assert (built.probes, built.depth) == (index.probes, index.depth)
    build_index(model, today, tmp_path / "other", previous=tmp_path / "index")
    build_index(model, today, tmp_path / "another")
    assert read_files(tmp_path / "other") == read_files(tmp_path / "another"), "what is learnt again, too"


@pytest.mark.slow
@pytest.mark.usefixtures("small_parts", "cheap_pictures")
def test_a_killed_build_goes_on(
    today: Path, model: Path, encoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(model, today, tmp_path / "whole")
    encoded.clear()
    write = encoded_parts.pq.write_table
    count = 0

    def kill(*arguments: Any, **options: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        write(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoded_parts.pq, "write_table", kill)
        build_index(model, today, tmp_path / "index")
    assert not (tmp_path / "index").exists() and len(encoded) == 57
    encoded.clear()
    build_index(model, today, tmp_path / "index")
    assert len(encoded) == 57 - 2 * 24, "two files were kept"
    assert read_files(tmp_path / "index") == read_files(tmp_path / "whole")


def test_an_index_of_another_model_is_refused(data: Path, model: Path, index: Path, tmp_path: Path) -> None:
    other = tmp_path / "index"
    shutil.copytree(index, other)
    marker = json.loads((other / "marker.json").read_text())
    (other / "marker.json").write_text(json.dumps(marker | {"weights": "0" * 32}))
    with pytest.raises(DataError, match="another model made this index"):
        build_index(model, data, tmp_path / "new", previous=other)


@pytest.mark.usefixtures("cheap_pictures")
def test_rows_of_an_earlier_index_are_read_in_any_order(
    data: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("search_index", "building", "earlier_index"):
        monkeypatch.setattr(f"fusion.search.{module}.GROUP_ROWS", 8)
    build_index(model, data, tmp_path / "before")
    rows = read_products(data)
    order = np.random.default_rng(0).permutation(len(rows))
    shuffled = write_products(data, tmp_path / "data", [rows[row] for row in order])
    build_index(model, shuffled, tmp_path / "index", previous=tmp_path / "before")
    before, after = SearchIndex.load(tmp_path / "before"), SearchIndex.load(tmp_path / "index")
    assert np.array_equal(after.vectors, before.vectors[order])
    assert np.array_equal(after.vectors_without["text"], before.vectors_without["text"][order])


def test_self_search_recall() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert measure_self_recall(vectors, None) == 1.0
    assert measure_self_recall(np.repeat(vectors, 3, axis=0), None) == 1.0, "equals share the first place"
    assert measure_self_recall(np.zeros((3, 4), np.float32), None) == 1.0, "nothing to search by"
    vectors[1] = np.nan
    assert measure_self_recall(vectors, None) == 0
    vectors[1], vectors[2] = 0, [0, 0, 0.5, 2]
    assert measure_self_recall(vectors, None) == pytest.approx(2 / 3)


def test_the_language_of_the_hybrid_is_used(data: Path, model: Path, index: Path, tmp_path: Path) -> None:
    Hybrid(0.5, 10, "de").save(tmp_path / "hybrid.json")
    build_index(model, data, tmp_path / "index", hybrid=tmp_path / "hybrid.json", previous=index)
    lexical = SearchIndex.load(tmp_path / "index").lexical
    assert lexical and list(lexical.analyser.shares) == ["de"]
