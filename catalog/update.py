"""Adds, replaces and removes products of a data set; no query moves to another split."""

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.new_queries import link_file, link_tables, read_rows, write_judgements, write_retired
from catalog.progress import show_progress
from catalog.queries import Key, hash_pictures, read_derived_targets, target_keys
from catalog.schema import DERIVED, EXACT, PRODUCTS, SPLITS, DataError
from catalog.splits import SALT, read_salt
from catalog.text import normalise

EXAMPLES = 5  # ids in a message


class Changes(NamedTuple):
    """What an update does with products; sets of ids.

    Attributes:
        added: Products that the data set does not have.
        replaced: Products that it has, and that come again.
        removed: Products that leave.
        sources: Product id → the last new data set that has it.
    """

    added: set[str]
    replaced: set[str]
    removed: set[str]
    sources: dict[str, Path]


class Retirement(NamedTuple):
    """The judgements and queries that an update leaves out.

    Attributes:
        stale: Replaced products that are no exact matches of derived queries any more.
        queries: Rows of the table `retired`: queries that lose their last exact match.
    """

    stale: set[str]
    queries: list[dict[str, Any]]


def update_products(
    data: Path, out: Path, products: Sequence[Path] = (), removed: Collection[str] = ()
) -> dict[str, int]:
    """Write a data set with products added, replaced and removed, and print what happened.

    A new product with the id of an old one replaces it, with all its columns; of several new data sets, the last one
    counts. Judgements of removed products are dropped. A query that loses its last exact match is retired: it comes
    back to the same split if its text comes again. Where a replaced product gets the title or the picture of an exact
    match in another split, it is no exact match of derived queries any more.

    Args:
        data: The data set.
        out: Gets the new one; it appears only when it is complete.
        products: Data sets of new products, such as an import; their queries are not read.
        removed: Ids of products that leave.

    Returns:
        Number of products added, replaced and removed; judgements dropped; queries retired.

    Raises:
        DataError: if nothing changes, an id to remove is unknown or also in `products`, a data set cannot be read or
            has an id twice, or a split or the catalogue would be empty.
    """
    changes = _find_changes(data, products, set(removed))
    with store.new_atomic_dir(out) as folder:
        lost_pictures = _write_products(data, folder, changes)
        retirement = _find_retirement(data, folder, changes)
        retired_ids = {row["query_id"] for row in retirement.queries}
        _write_queries(data, folder, retired_ids)
        dropped = _write_judgements(data, folder, changes, retirement.stale, retired_ids)
        write_retired(data, folder, retirement.queries)
        link_tables(data, folder, ("satisfaction",))
    if lost_pictures:
        print(
            f"warning: {lost_pictures:,} products had a picture, and their replacements have none; if that is wrong, "
            "import them with pictures",
            file=sys.stderr,
        )
    _print_summary(products, changes, dropped, retirement.queries)
    sizes = {name: len(getattr(changes, name)) for name in ("added", "replaced", "removed")}
    return sizes | {"judgements": dropped.total(), "queries": len(retired_ids)}


def read_id_words(words: Sequence[str]) -> set[str]:
    """Read ids: each word is one, or a text file with one per line.

    Raises:
        DataError: if a file is not UTF-8, or has no id.
    """
    ids: set[str] = set()
    for word in words:
        path = Path(word)
        if not path.is_file():
            ids.add(word)
            continue
        try:
            lines = path.read_text("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text; give a file with one product id per line") from error
        file_ids = {line.strip() for line in lines} - {""}
        if not file_ids:
            raise DataError(f"{path}: has no id; give one product id per line")
        ids |= file_ids
    return ids


def _find_changes(data: Path, products: Sequence[Path], removed: set[str]) -> Changes:
    if not products and not removed:
        raise DataError("nothing to change: give --products, --remove or both")
    existing = set(_read_ids(data))
    sources: dict[str, Path] = {}
    for source in products:
        if not source.is_dir():
            raise DataError(
                f"{source}: not a data set; import it first: python -m catalog import table {source} --out DIR"
            )
        counts = Counter(_read_ids(source))
        if repeated := [key for key, number in counts.items() if number > 1]:
            raise DataError(
                f"{source}: has product {_list_examples(repeated)} more than once; keep one of each"
            )
        sources |= dict.fromkeys(counts, source)
    if unknown := removed - existing:
        raise DataError(f"--remove: {data} has no product {_list_examples(unknown)}; nothing was written")
    if both := removed & sources.keys():
        raise DataError(
            f"--remove: product {_list_examples(both)} is also in --products; decide for one of the two"
        )
    if not (existing - removed) | sources.keys():
        raise DataError(f"--remove: {data} would have no product")
    return Changes(sources.keys() - existing, sources.keys() & existing, removed, sources)


def _read_ids(data: Path) -> list[str]:
    return store.read_table(data, "products", ["product_id"]).column(0).to_pylist()


def _list_examples(ids: Iterable[str]) -> str:
    first = sorted(ids)
    rest = f" and {len(first) - EXAMPLES:,} more" if len(first) > EXAMPLES else ""
    return ", ".join(first[:EXAMPLES]) + rest


def _write_products(data: Path, folder: Path, changes: Changes) -> int:
    """Write the products: old files in which nothing changes are linked, new products come last.

    Returns:
        Number of replaced products that had a picture and have none now.
    """
    gone = pa.array(sorted(changes.removed | changes.replaced), pa.string())
    paths = store.list_files(data, "products")
    new_sources = dict.fromkeys(changes.sources.values())
    (folder / "products").mkdir()
    targets = [
        folder / "products" / f"{number:05d}.parquet" for number in range(len(paths) + len(new_sources))
    ]
    rows = sum(store.open_file(path).metadata.num_rows for path in paths)
    old, new = set[str](), set[str]()
    with show_progress(desc="products", unit="row", total=rows) as bar:
        for path, target in zip(paths, targets, strict=False):
            ids = [
                key
                for batch in store.read_file(path, "products", ["product_id"])
                for key in batch[0].to_pylist()
            ]
            if pc.any(pc.is_in(pa.array(ids, pa.string()), gone)).as_py():
                _write_file(
                    target, _filter(store.read_file(path, "products"), gone, keep=False, pictured=old)
                )
            else:
                link_file(path, target)
            bar.update(len(ids))
    for source, target in zip(new_sources, targets[len(paths) :], strict=True):
        kept = pa.array([key for key, last in changes.sources.items() if last == source], pa.string())
        batches = show_progress(store.read_batches(source, "products"), "new products", unit="batch")
        _write_file(target, _filter(batches, kept, keep=True, pictured=new))
    return len((old & changes.replaced) - new)


def _filter(
    batches: Iterable[pa.RecordBatch], ids: pa.Array, keep: bool, pictured: set[str]
) -> Iterator[pa.RecordBatch]:
    """Yield the products with these ids, or all others; adds those of the ids that have a picture to `pictured`."""
    for batch in batches:
        matches = pc.is_in(batch["product_id"], ids)
        has_picture = pc.greater(pc.list_value_length(batch["images"]), 0)
        pictured.update(batch["product_id"].filter(pc.and_(matches, has_picture)).to_pylist())
        yield batch.filter(matches if keep else pc.invert(matches))


def _write_file(path: Path, batches: Iterable[pa.RecordBatch]) -> None:
    with pq.ParquetWriter(path, PRODUCTS, compression="zstd") as writer:
        for batch in batches:
            if batch.num_rows:
                writer.write_batch(pa.record_batch(batch.columns, schema=PRODUCTS))


def _find_retirement(data: Path, folder: Path, changes: Changes) -> Retirement:
    """Find what the update leaves out.

    Args:
        data: The data set.
        folder: Has the new products.
        changes: Of the products.
    """
    stale = _find_stale_targets(data, folder, changes.replaced)
    columns = ["query_id", "split", "judged_by", "cluster", "text", "image"]
    queries: dict[str, dict[str, Any]] = {}
    for batch in store.read_batches(data, "queries", columns):
        pictured = pc.is_valid(batch["image"]).to_pylist()
        for row, picture in zip(batch.select(columns[:-1]).to_pylist(), pictured, strict=True):
            queries[row["query_id"]] = row | ({"text": None} if picture else {})
    derived = {key for key, row in queries.items() if row["judged_by"] == DERIVED}
    targets: dict[str, list[str]] = defaultdict(list)
    answerable = set()
    for row in read_rows(data, "judgements"):
        if row["grade"] == EXACT and row["query_id"] in queries:
            targets[row["query_id"]].append(row["product_id"])
            if not _is_dropped(row, changes.removed, stale, derived):
                answerable.add(row["query_id"])
    retired = [
        queries[key] | {"targets": products if key in derived else None}
        for key, products in targets.items()
        if key not in answerable
    ]
    remaining = Counter(row["split"] for row in queries.values())
    remaining.subtract(row["split"] for row in retired)
    if empty := [
        split for split in SPLITS if remaining[split] == 0 and any(r["split"] == split for r in retired)
    ]:
        raise DataError(
            f"{data}: the update leaves no {' or '.join(empty)} query with an exact match; add queries first: python "
            "-m catalog queries"
        )
    names = ("query_id", "text", "targets", "split", "cluster")
    return Retirement(stale, [{name: row[name] for name in names} for row in retired])


def _is_dropped(
    row: Mapping[str, Any], removed: Collection[str], stale: Collection[str], derived: Collection[str]
) -> bool:
    product = row["product_id"]
    return product in removed or (product in stale and row["grade"] == EXACT and row["query_id"] in derived)


def _find_stale_targets(data: Path, folder: Path, replaced: Collection[str]) -> set[str]:
    """Find replaced exact matches of derived queries that get the title or the picture of those of another split.

    Args:
        data: The data set.
        folder: Has the new products.
        replaced: Ids.
    """
    targets = read_derived_targets(data)
    if not targets.keys() & replaced:
        return set()
    new_keys = _read_target_keys(folder, targets)
    products: dict[Key, list[str]] = defaultdict(list)
    for product, keys in new_keys.items():
        for key in keys:
            products[key].append(product)
    conflicts = {
        key: sharing
        for key, sharing in products.items()
        if len({split for product in sharing for split, _ in targets[product]}) > 1
    }
    old_keys = _read_target_keys(data, {product for sharing in conflicts.values() for product in sharing})
    return {
        product
        for key, sharing in conflicts.items()
        for product in sharing
        if product in replaced and key not in old_keys.get(product, ())
    }


def _read_target_keys(data: Path, product_ids: Collection[str]) -> dict[str, list[Key]]:
    """Read what some products must not share with exact matches in other splits; products that are not there are left
    out.
    """
    rows = store.read_table(data, "products", ["product_id", "title"]).to_pylist()
    titles = {
        row["product_id"]: normalise(row["title"]) or "" for row in rows if row["product_id"] in product_ids
    }
    hashes = hash_pictures(data, titles)
    return {product: target_keys(product, titles, hashes) for product in titles}


def _write_queries(data: Path, folder: Path, retired: Collection[str]) -> None:
    if not retired:
        link_tables(data, folder, ("queries",))
        return
    salt = read_salt(data)
    metadata = None if salt is None else {SALT: str(salt).encode()}
    with store.TableWriter(folder, "queries", metadata=metadata) as table:
        for row in read_rows(data, "queries"):
            if row["query_id"] not in retired:
                table.write(row)


def _write_judgements(
    data: Path, folder: Path, changes: Changes, stale: Collection[str], retired: Collection[str]
) -> Counter[str]:
    """Write the judgements that stay; the number of the others by reason."""
    queries = store.read_table(data, "queries", ["query_id", "judged_by"]).to_pylist()
    derived = {row["query_id"] for row in queries if row["judged_by"] == DERIVED}
    dropped: Counter[str] = Counter()

    def keeps(row: Mapping[str, Any]) -> bool:
        if row["product_id"] in changes.removed:
            dropped["of removed products"] += 1
        elif _is_dropped(row, (), stale, derived):
            dropped["of replaced products with the title or picture of another split"] += 1
        elif row["query_id"] in retired:
            dropped["of retired queries"] += 1
        else:
            return True
        return False

    write_judgements(data, folder, keeps)
    return dropped


def _print_summary(
    products: Sequence[Path], changes: Changes, dropped: Counter[str], retired: Sequence[Mapping[str, Any]]
) -> None:
    for source in products:
        files = (source / "queries").glob("*.parquet")
        if count := sum(store.open_file(path).metadata.num_rows for path in files):
            print(f"{source}: its {count:,} queries are not read; only products are", file=sys.stderr)
    numbers = (f"{len(getattr(changes, name)):,} {name}" for name in ("added", "replaced", "removed"))
    print(f"products: {', '.join(numbers)}", file=sys.stderr)
    reasons = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items())
    print(f"judgements: dropped {dropped.total():,}{f': {reasons}' * bool(reasons)}", file=sys.stderr)
    if retired:
        splits = Counter(row["split"] for row in retired)
        counts = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS if splits[split])
        print(
            f"queries: retired {len(retired):,} that lost their last exact match ({counts}): "
            f"{_list_examples(row['query_id'] for row in retired)}",
            file=sys.stderr,
        )
