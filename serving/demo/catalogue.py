"""The data set as the demo page shows it: products by id, values to filter by, example queries, pictures."""

import io
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from threading import BoundedSemaphore, Lock
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.clips import animate
from catalog.images import decode, pixel_hash
from catalog.schema import DataError
from catalog.text import normalise

FILTERS = (
    "category",
    "brand",
    "color",
    "material",
)  # as in fusion.search.catalogue_search, which imports torch
MANY = 60  # values of a field; of more, the most frequent are offered
TEXTS, PICTURES = 6, 4  # example queries
SIDE = 400  # pixels of a picture that is shown on 200
QUERY_SIDE = 1024  # pixels of a picture that is searched with
KEPT = 32  # pictures that were searched with, of at most 3 MB of pixels each
DECODERS = BoundedSemaphore(2)  # pictures decoded at once, each of up to 50 million pixels


@dataclass(frozen=True)
class Facet:
    """A field to filter by.

    Attributes:
        field: One of `FILTERS`.
        values: Each value that is offered and its number of products; a category counts those below it.
        complete: Whether no value is left out.
    """

    field: str
    values: Sequence[tuple[str, int]]
    complete: bool


@dataclass(frozen=True)
class Prices:
    """The prices of a catalogue.

    Attributes:
        low, high: The lowest and highest; None where no product has a price.
        currency: The one that all products have, or "".
    """

    low: float | None
    high: float | None
    currency: str


@dataclass(frozen=True)
class Example:
    """A test query.

    Attributes:
        query_id: Of the data set.
        text: May be "".
        image: As it is stored; None for a query by words alone.
    """

    query_id: str
    text: str
    image: bytes | None


class Products:
    """The products of a data set. Their ids stay in memory; all else is read when it is shown.

    Args:
        data: The data set.

    Raises:
        DataError: where products/ cannot be read.
    """

    def __init__(self, data: Path) -> None:
        self.ids = store.read(data, "products", ["product_id"])["product_id"]
        self._groups: list[tuple[Path, int]] = []
        rows: list[int] = []
        pictures, clips = [], []
        for path in store.files(data, "products"):
            with store.open_file(path) as parquet:
                groups = range(parquet.num_row_groups)
                self._groups += [(path, group) for group in groups]
                rows += [parquet.metadata.row_group(group).num_rows for group in groups]
                pictures.append(_filled(parquet, "image"))
                clips.append(_filled(parquet, "video"))
        self._ends = np.array(list(accumulate(rows)))
        self.has_picture, self.has_clip = np.concatenate(pictures), np.concatenate(clips)
        self.picture = lru_cache(maxsize=512)(self._picture)  # some kilobytes each
        self.clip = lru_cache(maxsize=128)(self._clip)

    def media(self, product_id: str) -> tuple[bool, bool]:
        """Whether a product has something to show, a picture or a frame of a clip; and whether it has a clip."""
        row = self.row(product_id)
        if row is None:
            return False, False
        return bool(self.has_picture[row] or self.has_clip[row]), bool(self.has_clip[row])

    def row(self, product_id: str) -> int | None:
        """The place of a product; None for an unknown id."""
        row = pc.index(self.ids, pa.scalar(product_id, pa.string())).as_py()
        return None if row < 0 else row

    def title(self, row: int) -> str:
        """The title of the product at a place."""
        return str(self._read(row, ["title"])["title"])

    def image(self, row: int) -> bytes | None:
        """The stored picture of the product at a place, or else the middle frame of its clip."""
        product = self._read(row, ["image", "video"])
        frames = _frames(product)
        return (product.get("image") or {}).get("bytes") or (frames[len(frames) // 2] if frames else None)

    def _picture(self, row: int) -> bytes | None:
        """What `image` gives, as WebP; None where it cannot be shown."""
        image = self.image(row)
        with DECODERS:
            return animate([image], SIDE) if image else None

    def _clip(self, row: int) -> bytes | None:
        """A moving picture, as WebP; None where there is none that can be shown."""
        with DECODERS:
            return animate(_frames(self._read(row, ["video"])), SIDE // 2)

    def _read(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Columns of one product, in small batches of its row group up to it: memory stays small."""
        place = int(np.searchsorted(self._ends, row, side="right"))
        offset = row - (int(self._ends[place - 1]) if place else 0)
        path, group = self._groups[place]
        try:
            with pq.ParquetFile(path, buffer_size=1 << 20) as parquet:
                present = [name for name in columns if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(64, row_groups=[group], columns=present):
                    if offset < len(batch):
                        return dict(batch.slice(offset, 1).to_pylist()[0])
                    offset -= len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read any more ({error}); start the demo again") from error
        raise DataError(f"{path}: has other rows than before; start the demo again")


@dataclass(frozen=True)
class Shop:
    """What the page knows of a data set.

    Attributes:
        data: Its folder.
        products: Their ids and pictures.
        facets, prices: What the catalogue can be filtered by.
        query_ids: Normalised text → id, of the queries by words alone.
        examples: Test queries to begin with.
    """

    data: Path
    products: Products
    facets: Sequence[Facet]
    prices: Prices
    query_ids: Mapping[str, str]
    examples: Sequence[Example]

    @classmethod
    def load(cls, data: Path) -> Self:
        """Read a data set.

        Raises:
            DataError: where it cannot be read.
        """
        return cls(data, Products(data), facets(data), prices(data), *queries(data))


class QueryPictures:
    """Pictures to search with, by the hash of their pixels; beyond `KEPT`, the least recently used go.

    They are kept as PNG, upright, at most `QUERY_SIDE` wide and high.
    """

    def __init__(self) -> None:
        self._pinned: dict[str, bytes] = {}
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def add(self, data: bytes, pinned: bool = False) -> str:
        """Keep a picture.

        Args:
            data: A file's content.
            pinned: Whether it stays.

        Returns:
            Its key.

        Raises:
            PictureError: where it cannot be decoded within the limits of `catalog.images`.
        """
        with DECODERS:
            image = decode(data)
            image.thumbnail((QUERY_SIDE, QUERY_SIDE))
            key, png = pixel_hash(image), io.BytesIO()
            image.save(png, "PNG")
        with self._lock:
            (self._pinned if pinned else self._recent)[key] = png.getvalue()
            while len(self._recent) > KEPT:
                self._recent.popitem(last=False)
        return key

    def get(self, key: str) -> bytes | None:
        """A picture; None where it is not kept, or no longer."""
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
            return self._pinned.get(key)


def facets(data: Path) -> list[Facet]:
    """The fields that a catalogue can be filtered by, in the order of `FILTERS`; those without values are left out."""
    counts: dict[str, Counter[str]] = {field: Counter() for field in FILTERS}
    for batch in store.batches(data, "products", FILTERS, rows=65536):
        for field in FILTERS:
            for group in pc.value_counts(batch[field]).to_pylist():
                if group["values"]:
                    counts[field].update(
                        dict.fromkeys(_with_parents(field, group["values"]), group["counts"])
                    )
    return [_facet(field, values) for field, values in counts.items() if values]


def prices(data: Path) -> Prices:
    """The range of prices, and their currency."""
    table = store.read(data, "products", ["price", "currency"])
    ends = pc.min_max(table["price"]).as_py()
    currencies = pc.unique(table.filter(pc.is_valid(table["price"]))["currency"]).to_pylist()
    return Prices(ends["min"], ends["max"], (currencies[0] or "") if len(currencies) == 1 else "")


def queries(data: Path) -> tuple[dict[str, str], list[Example]]:
    """What the data set asks: normalised text → id of the query by words alone; and some test queries to show."""
    by_text: dict[str, str] = {}
    texts: list[Example] = []
    pictures: list[Example] = []
    for batch in store.batches(data, "queries", ["query_id", "text", "image", "split"], rows=256):
        for query in batch.to_pylist():
            image = (query["image"] or {}).get("bytes")
            text = normalise(query["text"])
            if text and not image:
                by_text.setdefault(text, query["query_id"])
            chosen, limit = (pictures, PICTURES) if image else (texts, TEXTS)
            if query["split"] == "test" and (text or image) and len(chosen) < limit:
                chosen.append(Example(query["query_id"], query["text"] or "", image))
    return by_text, texts + pictures


def _with_parents(field: str, value: str) -> list[str]:
    """A value, and of a category path all paths above it: what its products are found by."""
    return list(accumulate(value.split("/"), "{}/{}".format)) if field == "category" else [value]


def _facet(field: str, counts: Mapping[str, int]) -> Facet:
    frequent = Counter(counts).most_common(None if len(counts) <= MANY else 4 * MANY)
    return Facet(field, sorted(frequent), complete=len(frequent) == len(counts))


def _filled(parquet: pq.ParquetFile, column: str) -> np.ndarray:
    """Which rows of a file have a picture or clip, bool (rows,); its pixels are not read."""
    paths = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    small = [path for path in paths if path.split(".")[0] == column and path.endswith(".path")]
    if not small:
        return np.zeros(parquet.metadata.num_rows, bool)
    values = parquet.read(columns=small)[column]
    if pa.types.is_struct(values.type):
        return values.is_valid().to_numpy()
    return pc.fill_null(pc.greater(pc.list_value_length(values), 0), False).to_numpy()


def _frames(product: Mapping[str, Any]) -> list[bytes]:
    return [frame["bytes"] for frame in product.get("video") or [] if frame and frame["bytes"]]
