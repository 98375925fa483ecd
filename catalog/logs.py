"""Reads logs of searches and clicks: tables in three layouts, see `LAYOUTS`, and the folder that our service writes."""

import re
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from catalog.columns import format_header
from catalog.files import Files
from catalog.reading import Record
from catalog.request_log import COLUMNS, EVENTS, SEARCHES, LogFolder, read_batches
from catalog.schema import DataError
from catalog.shown_results import ShownResults
from catalog.tables import TableFormat, match_table, parse_mappings, read_matched
from catalog.text import normalise

CLICKED_VALUES = {"0": False, "1": True, "false": False, "true": True, "no": False, "yes": True}
MAX_UNMERGED = 2_000_000  # rows of equal impressions that are not added up yet
CLICK_EVENT = re.compile(r"click|select|open", re.IGNORECASE)
SEARCH_EVENT = re.compile(r"search|query|impression|results", re.IGNORECASE)


class Impression(NamedTuple):
    """A product that was shown for a query."""

    query: str  # normalised
    product: str
    position: int  # from 0
    clicked: bool


# One by one; or equal ones with their number, as a large log has many
Impressions = Sequence[Impression] | Counter[Impression]


def read_log(log: Path | str, personal: Sequence[str] = (), mappings: Sequence[str] = ()) -> Impressions:
    """Read the usable rows of a log.

    Args:
        log: .csv, .jsonl or .parquet; or the folder of a request log, or its address such as s3://BUCKET/PREFIX.
        personal: Columns that are allowed although they look personal; they are not read.
        mappings: COLUMN=NAME: the names of columns in the log.

    Raises:
        DataError: if the log cannot be read, has no layout of `LAYOUTS`, or has a column that looks personal; if a
            request log has no texts.
    """
    if "://" not in str(log) and not Path(log).is_dir():
        return _read_table(Path(log), personal, mappings)
    if personal or mappings:
        raise DataError(f"{log}: a request log has known columns; remove --map and --personal")
    return read_request_log(LogFolder.open(str(log)))


def _read_table(log: Path, personal: Sequence[str], mappings: Sequence[str]) -> list[Impression]:
    table_format = TableFormat(parse_mappings(mappings, "log"), personal)
    with Files(log) as files:
        matched = match_table(files, "log", table_format)
        columns = matched.matches.keys()
        layout = next((required for required in LAYOUTS if columns >= set(required)), None)
        if layout is None:
            raise DataError(_describe_missing(log.name, matched.header, columns))
        impressions = LAYOUTS[layout](files, read_matched(matched, "log", personal))
        if files.faults:
            where, reason = files.faults[0]
            print(
                f"{log.name}: skipped {len(files.faults):,} rows; the first is {where}: {reason}",
                file=sys.stderr,
            )
    return impressions


def count_equal(impressions: Impressions) -> Counter[Impression]:
    """Count equal impressions; those that are counted already are returned as they are."""
    return impressions if isinstance(impressions, Counter) else Counter(impressions)


def _describe_missing(name: str, header: Sequence[str], columns: Collection[str]) -> str:
    """The message for a log without a layout: what the nearest one lacks."""
    marks = ("event", "products")  # without these, it is a row per product shown
    required = next(
        (layout for mark in marks if mark in columns for layout in LAYOUTS if mark in layout),
        next(iter(LAYOUTS)),
    )
    missing = [column for column in required if column not in columns]
    options = " ".join(f"--map {column}=NAME" for column in missing)
    return f"{name}: no column for {', '.join(missing)}; the header is {format_header(header)}; name it: {options}"


def _read_impressions(files: Files, records: Iterator[Record]) -> list[Impression]:
    """A row per product shown: query, product_id, position (from 1), clicked (0 or 1)."""
    impressions = []
    for where, values in records:
        text = normalise(str(values.get("query") or ""))
        position = _read_position(values.get("position"))
        clicked = CLICKED_VALUES.get(str(values.get("clicked")).lower())
        if text is None or position is None or clicked is None:
            files.add_fault(where, "no query, no position of 1 or more, or clicked is not 0 or 1")
        else:
            impressions.append(Impression(text, str(values.get("product_id")), position, clicked))
    return impressions


def _read_position(value: Any) -> int | None:
    """Convert a position from 1 to one from 0; None if it is no position."""
    text = re.sub(r"\.0$", "", str(value).strip())
    return int(text) - 1 if text.isdecimal() and int(text) >= 1 else None


def _read_searches(files: Files, records: Iterator[Record]) -> list[Impression]:
    """A row per search: query, products (shown, in order), clicked_products."""
    impressions = []
    for where, values in records:
        text = normalise(str(values.get("query") or ""))
        products = _split_list(values.get("products"))
        if text is None or not products:
            files.add_fault(where, "no query, or no products")
            continue
        clicked = set(_split_list(values.get("clicked_products")))
        impressions += [
            Impression(text, product, position, product in clicked)
            for position, product in enumerate(products)
        ]
    return impressions


def _split_list(value: Any) -> list[str]:
    """The ids of a list: of JSON, or text such as "a,b", "a|b", "['a', 'b']" or "[a b]"."""
    if isinstance(value, list | tuple):
        return [str(item) for item in value]
    text = "" if value is None else str(value).strip().strip("[]()")
    return [item for part in re.split(r"[,;|\s]+", text) if (item := part.strip("'\""))]


class _Events:
    """Counts of an event log, by query."""

    def __init__(self) -> None:
        self.searches: Counter[str] = Counter()
        self.clicks: dict[tuple[str, str], list[int]] = defaultdict(list)  # query, product → positions
        self.queries: dict[str, str] = {}  # id of a search → its query

    def add(self, values: Mapping[str, Any]) -> str | None:
        """Count an event; explains why it cannot be used, None if it can or is of another kind."""
        kind, search = str(values.get("event") or ""), str(values.get("search_id") or "")
        text = normalise(str(values.get("query") or "")) or self.queries.get(search)
        if CLICK_EVENT.search(kind):
            product = values.get("product_id")
            if text is None or not product:
                return "a click without a query and a product"
            position = values.get("position")
            place = 0 if position in (None, "") else _read_position(position)
            if place is None:
                return f"'{position}' is not a position of 1 or more"
            self.clicks[text, str(product)].append(place)
        elif SEARCH_EVENT.search(kind):
            if text is None:
                return "a search without a query"
            self.searches[text] += 1
            if search:
                self.queries[search] = text
        return None


def _read_events(files: Files, records: Iterator[Record]) -> list[Impression]:
    """A row per event, a search or a click: event, query, product_id, position of clicks; or search_id for query.

    Such a log does not say what was shown. A product that was ever clicked counts as shown in each search of the query,
    at the position of its most clicks.
    """
    events = _Events()
    for where, values in records:
        if reason := events.add(values):
            files.add_fault(where, reason)
    impressions = []
    for (query, product), positions in events.clicks.items():
        ((usual, _),) = Counter(positions).most_common(1)
        impressions += [Impression(query, product, position, True) for position in positions]
        unclicked = max(0, events.searches[query] - len(positions))
        impressions += [Impression(query, product, usual, False)] * unclicked
    return impressions


# Required columns → function that reads the impressions.
LAYOUTS = {
    ("query", "product_id", "position", "clicked"): _read_impressions,
    ("query", "products", "clicked_products"): _read_searches,
    ("event", "query", "product_id"): _read_events,
    ("event", "search_id", "product_id"): _read_events,
}


def read_request_log(log: LogFolder) -> Counter[Impression]:
    """Read what customers saw and clicked from the log of our service; see `catalog.request_log`.

    The results count as they were shown, also interleaved ones; those of a challenger in shadow mode do not. A product
    is clicked if an event names it and the search: a click, or a cart, which a customer may fill without a click.
    Searches with a picture are left out, because their text alone would ask for something else.

    Raises:
        DataError: if the log cannot be read, has no searches, or only withheld texts.
    """
    events = [*read_batches(log, EVENTS, columns=["request_id", "product_id", "time"])]
    clicks = pa.Table.from_batches(events, schema=None if events else COLUMNS[EVENTS])
    columns = ["time", "request_id", "text", "withheld", "has_picture", "results.list.element.product_id"]
    searches, reasons, parts = 0, Counter[str](), []
    for batch in read_batches(log, SEARCHES, columns=columns):
        searches += batch.num_rows
        reasons.update(filter(None, batch["withheld"].to_pylist()))
        parts.append(_count_impressions(batch, clicks))
        if sum(map(len, parts)) > MAX_UNMERGED:
            parts = [_sum_counts(parts)]
    if not searches:
        raise DataError(f"{log.address}: no searches in it; give a log file, or the folder of a request log")
    _report_withheld(log.address, searches, reasons)
    counted = _sum_counts(parts)
    rows = zip(*(_list_shared(counted[name]) for name in (*Impression._fields, "count")), strict=True)
    impressions: Counter[Impression] = Counter()
    for *key, count in rows:
        impressions[Impression(*key)] = count
    return impressions


def _list_shared(column: pa.ChunkedArray) -> list[Any]:
    """The values of a column; equal ones are one object."""
    encoded = column.combine_chunks().dictionary_encode()
    values = encoded.dictionary.to_pylist()
    return [values[index] for index in encoded.indices.to_pylist()]


def _count_impressions(batch: pa.RecordBatch, clicks: pa.Table) -> pa.Table:
    """Count equal impressions: the columns of `Impression`, and count."""
    is_text = pc.and_(pc.is_valid(batch["text"]), pc.invert(batch["has_picture"].fill_null(False)))
    batch = batch.filter(is_text)
    results = ShownResults(batch)
    texts = batch["text"].dictionary_encode()
    normal = pa.array(list(map(normalise, texts.dictionary.to_pylist())), pa.string())
    rows = pa.table(
        {
            "query": normal.take(texts.indices).take(pa.array(results.rows)),
            "product": results.products.cast(pa.string()),
            "position": results.positions,
            "clicked": results.find_clicks(clicks),
            "count": np.ones(len(results.rows), np.int64),
        }
    )
    return _sum_counts([rows.filter(pc.is_valid(rows["query"]))])


def _sum_counts(parts: Sequence[pa.Table]) -> pa.Table:
    groups = pa.concat_tables(parts).group_by(list(Impression._fields)).aggregate([("count", "sum")])
    return groups.rename_columns([*Impression._fields, "count"])


def _report_withheld(address: str, searches: int, reasons: Counter[str]) -> None:
    if not reasons:
        return
    listed = ", ".join(sorted(reasons))
    if reasons.total() == searches:
        raise DataError(
            f"{address}: the texts of all {searches:,} searches are withheld ({listed}), so no query can be judged; "
            "set log.queries: text in serving.yaml, and collect a new log"
        )
    skipped = f"skipped {reasons.total():,} of {searches:,} searches"
    print(f"{address}: {skipped}, whose texts are withheld ({listed})", file=sys.stderr)
