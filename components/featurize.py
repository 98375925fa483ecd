"""featurize: pictures through a frozen encoder, texts through a vocabulary, once for all experiments."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from catalog import store
from catalog.schema import EXACT, HUMAN, SPLITS, TEXT_COLUMNS, DataError, product_text
from components.params import FeaturizeParams
from fusion.encoders.image import ImageEncoder
from fusion.encoders.text import Start
from fusion.encoders.video import Clips
from fusion.encoders.vocabulary import Vocabulary
from fusion.facets import ATTRIBUTES, PASSED_ON
from fusion.featurizer import COLUMNS, Featurizer

ROWS = 512  # per shard: what a killed run loses at most
SHOWN = 5
TABLES = ("products", "queries")


def featurize(data: Path, report: Path, params: FeaturizeParams, features: Path) -> None:
    """Turn products and queries into arrays.

    Goes on where a killed run of the same data and parameters stopped.

    Args:
        data: The data set.
        report: What `validate` wrote about it.
        params: How.
        features: Folder to write: products/ and queries/ (see `fusion.features.Items`), with pictures where they are
            kept, judgements.parquet without those of the test split and with who judged, the featurizer (see
            `fusion.featurizer.Featurizer.save`), what training begins the text encoder from (see
            `fusion.encoders.text.Start.save`) and broken.json.

    Raises:
        DataError: where the data is not what was validated, too many pictures are broken, or weights are missing.
    """
    with store.whole(features) as partial:
        _featurize(data, report, params, partial, 0, 1)
        _report_broken(partial, params.max_broken_images)


def featurize_shard(
    data: Path, report: Path, params: FeaturizeParams, part: Path, shard: int, shards: int
) -> None:
    """One of several equal shares of `featurize`, for `gather`.

    Args:
        data: The data set.
        report: What `validate` wrote about it.
        params: How.
        part: Folder to write: as of `featurize`, but of every file of products/ and queries/ only this share.
        shard: Which share, from 0.
        shards: How many there are.

    Raises:
        DataError: as `featurize`, but for too many broken pictures.
    """
    with store.whole(part) as partial:
        _featurize(data, report, params, partial, shard, shards)


def gather(parts: Sequence[Path], params: FeaturizeParams, features: Path) -> None:
    """Put shares together to what `featurize` would have written, byte for byte.

    Args:
        parts: What each `featurize_shard` wrote.
        params: How.
        features: Folder to write.

    Raises:
        DataError: where the shares are not of one data set and its parameters, one is missing, or too many pictures are
            broken.
    """
    made_from = {(part / "made_from.json").read_text() for part in parts}
    if len(made_from) > 1:
        raise DataError("featurize: shares were made of different data or parameters; run all of them again")
    with store.fresh(features) as partial:
        for shard, part in enumerate(parts):
            for path in part.glob("*/*.parquet"):
                if int(path.stem) % len(parts) != shard:
                    raise DataError(
                        f"featurize: {path} is not share {shard} of {len(parts)}; run all of them again"
                    )
            shutil.copytree(part, partial, dirs_exist_ok=True)
        _report_broken(partial, params.max_broken_images)


def _featurize(
    data: Path, report: Path, params: FeaturizeParams, partial: Path, shard: int, shards: int
) -> None:
    made_from = {"data": _validated(data, report), "params": params.model_dump()}
    judgements = store.read(data, "judgements")
    queries = store.read(data, "queries", ["query_id", "split", "judged_by"])
    sides = product_sides(judgements, queries)
    start = Start.find(params.text_encoder, params.max_tokens)
    featurizer = Featurizer(
        start.vocabulary
        or Vocabulary.build(_training_texts(data, sides), params.vocabulary, params.min_count),
        ImageEncoder.pretrained(params.image_encoder, params.image_grid, params.image_weights),
        Clips.pretrained(params.video_encoder, params.clip_frames, params.video_weights),
        params.image_size,
        params.max_tokens,
    )
    if store.go_on(partial, made_from):
        print("featurize: going on where an earlier run stopped", file=sys.stderr)
    featurizer.save(partial)
    start.save(partial)
    seen = queries.filter(pc.not_equal(queries["split"], "test"))["query_id"]
    judgements = judgements.filter(pc.is_in(judgements["query_id"], seen))
    asked = pc.index_in(judgements["query_id"], queries["query_id"].combine_chunks())
    by = pc.fill_null(queries["judged_by"], HUMAN).take(asked)
    pq.write_table(judgements.append_column("judged_by", by), partial / "judgements.parquet")
    for table in TABLES:
        _write_shards(data, table, sides, featurizer, params.keep_pictures, partial / table, shard, shards)


def product_sides(judgements: pa.Table, queries: pa.Table) -> dict[str, str]:
    """The split of the query that a product answers exactly; products that answer none are left out.

    Where a product answers queries of several splits (validate calls that a leak), test comes before valid.
    """
    targets = judgements.filter(pc.equal(judgements["grade"], EXACT)).join(
        queries, "query_id", join_type="inner"
    )
    pairs = zip(targets["product_id"].to_pylist(), targets["split"].to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: SPLITS.index(pair[1])))


def _validated(data: Path, report: Path) -> str:
    """The fingerprint of the data, if it is the data that `validate` passed."""
    path = report / "report.json"
    try:
        content = json.loads(path.read_text())
        validated, passed = content["data"], content["passed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a report of the validate stage ({error}); run validate first"
        ) from error
    if not passed:
        raise DataError(f"{path}: the data did not pass; mend what it says and run validate again")
    found = store.fingerprint(data)
    if found != validated:
        raise DataError(f"{data}: changed since {path} was written; run validate again")
    return found


def _training_texts(data: Path, sides: dict[str, str]) -> Iterator[str]:
    """Texts that the vocabulary may be built on: nothing of what valid and test queries look for, or say."""
    for batch in store.batches(data, "products", ["product_id", *TEXT_COLUMNS]):
        yield from (
            product_text(row) for row in batch.to_pylist() if sides.get(row["product_id"], "train") == "train"
        )
    for batch in store.batches(data, "queries", ["text", "split"]):
        yield from (row["text"] for row in batch.to_pylist() if row["split"] == "train" and row["text"])


def _write_shards(
    data: Path,
    table: str,
    sides: dict[str, str],
    featurizer: Featurizer,
    keep: bool,
    folder: Path,
    shard: int,
    shards: int,
) -> None:
    """A file per `ROWS` rows, and one beside it if pictures are kept; every `shards`-th, and those that are there
    already are left alone."""
    folder.mkdir(exist_ok=True)
    columns = (*COLUMNS[table], ATTRIBUTES) if table == "products" else COLUMNS[table]
    total = sum(store.open_file(path).metadata.num_rows for path in store.files(data, table))
    with tqdm(total=total, desc=f"featurize {table}", unit="row") as bar:
        for number, rows in enumerate(_in_shards(store.batches(data, table, columns, ROWS))):
            path = folder / f"{number:06d}.parquet"
            if number % shards == shard and not path.exists():
                items, broken = featurizer.rows(table, rows.to_pylist(), sides, keep)
                reasons = pa.array([broken.get(i) for i in range(len(items))], pa.string())
                file = items.to_table().append_column("broken", reasons)
                for column in (name for name in PASSED_ON if name in rows.column_names):
                    file = file.append_column(column, rows[column])
                unfinished = path.with_suffix(".partial")
                if keep:  # first: where the table is, its pictures are
                    items.save_pictures(unfinished)
                    unfinished.replace(path.with_suffix(".npy"))
                pq.write_table(file, unfinished)
                unfinished.replace(path)
            bar.update(rows.num_rows)


def _in_shards(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of `ROWS` rows, whatever the files' own row groups."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        while count >= ROWS:
            table = pa.Table.from_batches(pending)
            yield table.slice(0, ROWS)
            pending = table.slice(ROWS).to_batches()
            count -= ROWS
    if count:
        yield pa.Table.from_batches(pending)


def _report_broken(features: Path, allowed: float) -> None:
    """Write broken.json, id → reason.

    Raises:
        DataError: where more than the allowed share is broken; with the first ids.
    """
    shards = sorted(features.glob("*/*.parquet"))
    found = pa.concat_tables(pq.read_table(path, columns=["ids", "has_image", "broken"]) for path in shards)
    failed = found.filter(pc.is_valid(found["broken"]))
    broken = dict(zip(failed["ids"].to_pylist(), failed["broken"].to_pylist(), strict=True))
    pictures = (pc.sum(found["has_image"]).as_py() or 0) + len(broken)
    share = len(broken) / max(1, pictures)
    shown = "; ".join(f"{i}: {reason}" for i, reason in list(broken.items())[:SHOWN])
    if share > allowed:
        raise DataError(
            f"featurize: {len(broken)} of {pictures} pictures are broken ({share:.1%}), "
            f"featurize.max_broken_images allows {allowed:.1%}; {shown}"
        )
    if broken:
        print(f"featurize: warning: {len(broken)} broken pictures count as missing; {shown}", file=sys.stderr)
    (features / "broken.json").write_text(json.dumps(broken, indent=2) + "\n")
