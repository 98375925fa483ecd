"""The demo page's view of the data set: products by id, filter values, example queries, pictures."""

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
from catalog.schema import DataError, main_picture
from catalog.text import normalise
from fusion.search.filters import FILTERS

MAX_COMPLETE_VALUES = 60  # a field with more values offers only the most frequent ones
TEXT_EXAMPLES, PICTURE_EXAMPLES = 6, 4  # numbers of example queries
PICTURE_SIZE = 400  # pixels of a product picture; the page shows it at 200
QUERY_PICTURE_SIZE = 1024  # pixels of a query picture
MAX_QUERY_PICTURES = 32  # query pictures in memory, at most 3 MB of pixels each
DECODE_SLOTS = BoundedSemaphore(2)  # concurrent decodes, each of up to 50 million pixels


@dataclass(frozen=True)
class Facet:
    """A field to filter by.

    Attributes:
        field: One of `FILTERS`.
        values: Offered values, each with its number of products; a category includes the categories below it.
        complete: Whether all values are offered.
    """

    field: str
    values: Sequence[tuple[str, int]]
    complete: bool


@dataclass(frozen=True)
class Prices:
    """The prices of a catalogue.

    Attributes:
        low, high: Lowest and highest price; None if no product has a price.
        currency: The currency of all products; "" if they differ.
    """

    low: float | None
    high: float | None
    currency: str


@dataclass(frozen=True)
class Example:
    """A test query.

    Attributes:
        query_id: Its id in the data set.
        text: May be "".
        image: As stored; None for a text query.
    """

    query_id: str
    text: str
    image: bytes | None


class Products:
    """The products of a data set. Only their ids stay in memory; other columns are read on demand.

    Args:
        data: The data set.

    Raises:
        DataError: products/ cannot be read.
    """

    def __init__(self, data: Path) -> None:
        self.ids = store.read_table(data, "products", ["product_id"])["product_id"]
        self._row_groups: list[tuple[Path, int]] = []
        rows: list[int] = []
        pictures, clips = [], []
        for path in store.list_files(data, "products"):
            with store.open_file(path) as parquet:
                groups = range(parquet.num_row_groups)
                self._row_groups += [(path, group) for group in groups]
                rows += [parquet.metadata.row_group(group).num_rows for group in groups]
                pictures.append(_rows_with_media(parquet, "images"))
                clips.append(_rows_with_media(parquet, "video"))
        self._group_ends = np.array(list(accumulate(rows)))
        self.has_picture, self.has_clip = np.concatenate(pictures), np.concatenate(clips)
        self.encode_picture = lru_cache(maxsize=512)(self._encode_picture)  # some kilobytes each
        self.encode_clip = lru_cache(maxsize=128)(self._encode_clip)

    def has_media(self, product_id: str) -> tuple[bool, bool]:
        """Return whether a product has a picture or a clip, and whether it has a clip."""
        row = self.find_row(product_id)
        if row is None:
            return False, False
        return bool(self.has_picture[row] or self.has_clip[row]), bool(self.has_clip[row])

    def find_row(self, product_id: str) -> int | None:
        """Return the row number of a product; None for an unknown id."""
        row = pc.index(self.ids, pa.scalar(product_id, pa.string())).as_py()
        return None if row < 0 else row

    def read_title(self, row: int) -> str:
        """Read the title of the product in a row."""
        return str(self._read(row, ["title"])["title"])

    def read_image(self, row: int) -> bytes | None:
        """Read the stored picture of the product in a row, or the middle frame of its clip; None if it has neither."""
        product = self._read(row, ["images", "video"])
        frames = _frames(product)
        return main_picture(product) or (frames[len(frames) // 2] if frames else None)

    def _encode_picture(self, row: int) -> bytes | None:
        """Encode the picture of `read_image` as WebP; None if it is missing or broken."""
        image = self.read_image(row)
        with DECODE_SLOTS:
            return animate([image], PICTURE_SIZE) if image else None

    def _encode_clip(self, row: int) -> bytes | None:
        """Encode the clip as animated WebP; None if it is missing or broken."""
        with DECODE_SLOTS:
            return animate(_frames(self._read(row, ["video"])), PICTURE_SIZE // 2)

    def _read(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Read columns of one product; reads its row group in small batches to save memory."""
        number = int(np.searchsorted(self._group_ends, row, side="right"))
        offset = row - (int(self._group_ends[number - 1]) if number else 0)
        path, group = self._row_groups[number]
        try:
            with pq.ParquetFile(path, buffer_size=1 << 20) as parquet:
                present = [name for name in columns if name in parquet.schema_arrow.names]
                for batch in parquet.iter_batches(64, row_groups=[group], columns=present):
                    if offset < len(batch):
                        return dict(batch.slice(offset, 1).to_pylist()[0])
                    offset -= len(batch)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read any more ({error}); restart the demo") from error
        raise DataError(f"{path}: its rows have changed; restart the demo")


@dataclass(frozen=True)
class DemoCatalogue:
    """The data set's content for the page.

    Attributes:
        data: Folder of the data set.
        products: Ids and pictures.
        facets, prices: Values to filter by.
        query_ids: Normalised text → query id, of the text queries.
        examples: Test queries to show on the start page.
    """

    data: Path
    products: Products
    facets: Sequence[Facet]
    prices: Prices
    query_ids: Mapping[str, str]
    examples: Sequence[Example]

    @classmethod
    def load(cls, data: Path) -> Self:
        """Load a data set.

        Raises:
            DataError: it cannot be read.
        """
        return cls(data, Products(data), load_facets(data), load_prices(data), *load_queries(data))


class QueryPictures:
    """Cache of query pictures by the hash of their pixels; holds the `MAX_QUERY_PICTURES` most recently used ones.

    Pictures are PNG, upright, at most `QUERY_PICTURE_SIZE` wide and high.
    """

    def __init__(self) -> None:
        self._pinned: dict[str, bytes] = {}
        self._recent: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def add(self, data: bytes, pinned: bool = False) -> str:
        """Add a picture.

        Args:
            data: Content of a picture file.
            pinned: Whether the cache keeps it forever.

        Returns:
            Its key.

        Raises:
            PictureError: it cannot be decoded within the limits of `catalog.images`.
        """
        with DECODE_SLOTS:
            image = decode(data)
            image.thumbnail((QUERY_PICTURE_SIZE, QUERY_PICTURE_SIZE))
            key, png = pixel_hash(image), io.BytesIO()
            image.save(png, "PNG")
        with self._lock:
            (self._pinned if pinned else self._recent)[key] = png.getvalue()
            while len(self._recent) > MAX_QUERY_PICTURES:
                self._recent.popitem(last=False)
        return key

    def get(self, key: str) -> bytes | None:
        """Return a picture; None if it is not in the cache."""
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
            return self._pinned.get(key)


def load_facets(data: Path) -> list[Facet]:
    """Load the filter fields that have values, in the order of `FILTERS`."""
    counts: dict[str, Counter[str]] = {field: Counter() for field in FILTERS}
    for batch in store.read_batches(data, "products", FILTERS, rows=65536):
        for field in FILTERS:
            for group in pc.value_counts(batch[field]).to_pylist():
                if group["values"]:
                    counts[field].update(
                        dict.fromkeys(_matching_values(field, group["values"]), group["counts"])
                    )
    return [_make_facet(field, values) for field, values in counts.items() if values]


def load_prices(data: Path) -> Prices:
    """Load the price range and the currency."""
    table = store.read_table(data, "products", ["price", "currency"])
    price_range = pc.min_max(table["price"]).as_py()
    currencies = pc.unique(table.filter(pc.is_valid(table["price"]))["currency"]).to_pylist()
    return Prices(
        price_range["min"], price_range["max"], (currencies[0] or "") if len(currencies) == 1 else ""
    )


def load_queries(data: Path) -> tuple[dict[str, str], list[Example]]:
    """Load the ids of text queries by normalised text, and some test queries as examples."""
    query_ids: dict[str, str] = {}
    texts: list[Example] = []
    pictures: list[Example] = []
    for batch in store.read_batches(data, "queries", ["query_id", "text", "image", "split"], rows=256):
        for query in batch.to_pylist():
            image = main_picture(query)
            text = normalise(query["text"])
            if text and not image:
                query_ids.setdefault(text, query["query_id"])
            examples, limit = (pictures, PICTURE_EXAMPLES) if image else (texts, TEXT_EXAMPLES)
            if query["split"] == "test" and (text or image) and len(examples) < limit:
                examples.append(Example(query["query_id"], query["text"] or "", image))
    return query_ids, texts + pictures


def _matching_values(field: str, value: str) -> list[str]:
    """Return the filter values that match a value: a category path also matches all paths above it."""
    return list(accumulate(value.split("/"), "{}/{}".format)) if field == "category" else [value]


def _make_facet(field: str, counts: Mapping[str, int]) -> Facet:
    frequent = Counter(counts).most_common(
        None if len(counts) <= MAX_COMPLETE_VALUES else 4 * MAX_COMPLETE_VALUES
    )
    return Facet(field, sorted(frequent), complete=len(frequent) == len(counts))


def _rows_with_media(parquet: pq.ParquetFile, column: str) -> np.ndarray:
    """Return which rows of a file have a picture or clip, bool (rows,), without reading the pixels."""
    paths = [parquet.schema.column(number).path for number in range(len(parquet.schema))]
    columns = [path for path in paths if path.split(".")[0] == column and path.endswith(".path")]
    if not columns:
        return np.zeros(parquet.metadata.num_rows, bool)
    values = parquet.read(columns=columns)[column]
    return pc.fill_null(pc.greater(pc.list_value_length(values), 0), False).to_numpy()


def _frames(product: Mapping[str, Any]) -> list[bytes]:
    return [frame["bytes"] for frame in product.get("video") or [] if frame and frame["bytes"]]
