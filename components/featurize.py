"""featurize: encode pictures with a frozen encoder and texts with a vocabulary, once for all experiments."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.progress import show_progress
from catalog.schema import EXACT, HUMAN, SPLITS, TEXT_COLUMNS, DataError, product_text
from components.params import FeaturizeParams
from fusion.encoders.image import ImageEncoder
from fusion.encoders.joint import JointEncoder
from fusion.encoders.ocr import open_reader
from fusion.encoders.text import TextEncoderInit
from fusion.encoders.video import ClipReader
from fusion.encoders.vocabulary import PAD, Vocabulary
from fusion.facets import ATTRIBUTES, FACET_COLUMNS
from fusion.featurizer import COLUMNS, Featurizer

FILE_ROWS = 512  # per file: what a killed run loses at most
EXAMPLES = 5  # of broken pictures, in a message
TABLES = ("products", "queries")


def featurize(data: Path, report: Path, params: FeaturizeParams, features: Path) -> None:
    """Turn products and queries into arrays.

    Resumes a killed run of the same data and parameters.

    Args:
        data: The data set.
        report: What `validate` wrote about it.
        params: Encoders and sizes.
        features: Folder to write: products/ and queries/ (see `fusion.features.Items`), with pictures if
            `params.keep_pictures`; judgements.parquet, with judged_by and without the test split; the featurizer (see
            `fusion.featurizer.Featurizer.save`); the initial text encoder (see
            `fusion.encoders.text.TextEncoderInit.save`); broken.json, id → reason; coverage.json,
            how much of the texts cannot be read.

    Raises:
        DataError: where the data changed since validation, too many pictures are broken, the text encoder cannot read
            the texts, weights are missing, or `params.runtime` does not work here.
    """
    with store.atomic_dir(features) as partial:
        _featurize(data, report, params, partial, 0, 1)
        _report(partial, params)


def featurize_shard(
    data: Path, report: Path, params: FeaturizeParams, part: Path, shard: int, shards: int
) -> None:
    """Featurize one of several equal shards, for `merge_shards`.

    Args:
        data: The data set.
        report: What `validate` wrote about it.
        params: Encoders and sizes.
        part: Folder to write: as `features` of `featurize`, but with the files of products/ and queries/ of this shard
            only.
        shard: Number of the shard, from 0.
        shards: Number of shards.

    Raises:
        DataError: as `featurize`, except for broken pictures and texts that cannot be read.
    """
    with store.atomic_dir(part) as partial:
        _featurize(data, report, params, partial, shard, shards)


def merge_shards(parts: Sequence[Path], params: FeaturizeParams, features: Path) -> None:
    """Merge shards to what `featurize` would have written, byte for byte.

    Args:
        parts: What each `featurize_shard` wrote.
        params: Encoders and sizes.
        features: Folder to write.

    Raises:
        DataError: where shards are of different data, parameters or runtimes, one is missing, or as `featurize`.
    """
    provenance = {(part / "made_from.json").read_text() for part in parts}
    if len(provenance) > 1:
        raise DataError(
            "featurize: the shards are of different data, parameters or runtimes; run all of them again, "
            "and set featurize.runtime where machines differ"
        )
    with store.new_atomic_dir(features) as partial:
        for shard, part in enumerate(parts):
            for path in part.glob("*/*.parquet"):
                if int(path.stem) % len(parts) != shard:
                    raise DataError(
                        f"featurize: {path} is not of shard {shard} of {len(parts)}; run all of them again"
                    )
            shutil.copytree(part, partial, dirs_exist_ok=True)
        _report(partial, params)


def _featurize(
    data: Path, report: Path, params: FeaturizeParams, partial: Path, shard: int, shards: int
) -> None:
    fingerprint = _validated_fingerprint(data, report)
    judgements = store.read_table(data, "judgements")
    queries = store.read_table(data, "queries", ["query_id", "split", "judged_by"])
    splits = assign_product_splits(judgements, queries)
    text_encoder = TextEncoderInit.from_name(params.text_encoder, params.max_tokens)
    image_encoder = ImageEncoder.pretrained(params.image_encoder, params.image_grid, params.image_weights)
    image_encoder.check_size(params.image_size)
    reader = params.ocr and open_reader(params.ocr)  # before long work: its package may be missing
    featurizer = Featurizer(
        text_encoder.vocabulary
        or Vocabulary.learn(
            show_progress(_training_texts(data, splits), "vocabulary", unit="text"),
            params.vocabulary,
            params.min_count,
        ),
        image_encoder,
        ClipReader.pretrained(params.video_encoder, params.clip_frames, params.video_weights),
        params.image_size,
        params.max_tokens,
        params.max_pictures,
        text_encoder.prompts,
        params.runtime,
        params.ocr,
        params.precision,
        _load_joint_encoder(params),
    )
    provenance = {"data": fingerprint, "params": params.model_dump(), "runtime": featurizer.session.name}
    if reader:
        provenance["ocr"] = reader.engine
    if store.resume_if_same(partial, provenance):
        print("featurize: resuming an earlier run", file=sys.stderr)
    featurizer.save(partial)
    text_encoder.save(partial)
    pq.write_table(_training_judgements(judgements, queries), partial / "judgements.parquet")
    for table in TABLES:
        (partial / table).mkdir(exist_ok=True)
        for path, rows in _list_files(data, table, partial / table):
            if int(path.stem) % shards == shard and not path.exists():
                _write_file(path, table, rows, splits, featurizer, params.keep_pictures)


def _load_joint_encoder(params: FeaturizeParams) -> JointEncoder | None:
    if params.joint_encoder is None:
        return None
    return JointEncoder.pretrained(params.joint_encoder, params.joint_instruction, params.joint_dim)


def assign_product_splits(judgements: pa.Table, queries: pa.Table) -> dict[str, str]:
    """Assign each product the split of the query that it answers exactly; products that answer none are left out.

    If it answers queries of several splits (a leak, to `validate`), test comes before valid, and valid before train.
    """
    exact = judgements.filter(pc.equal(judgements["grade"], EXACT))
    exact = exact.join(queries, "query_id", join_type="inner")
    pairs = zip(exact["product_id"].to_pylist(), exact["split"].to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: SPLITS.index(pair[1])))


def _training_judgements(judgements: pa.Table, queries: pa.Table) -> pa.Table:
    """Judgements of train and valid queries, with the column judged_by."""
    query_ids = queries.filter(pc.not_equal(queries["split"], "test"))["query_id"]
    judgements = judgements.filter(pc.is_in(judgements["query_id"], query_ids))
    rows = pc.index_in(judgements["query_id"], queries["query_id"].combine_chunks())
    return judgements.append_column("judged_by", pc.fill_null(queries["judged_by"], HUMAN).take(rows))


def _validated_fingerprint(data: Path, report: Path) -> str:
    """The fingerprint of the data, after a check that `validate` passed them."""
    path = report / "report.json"
    try:
        content = json.loads(path.read_text())
        validated, passed = content["data"], content["passed"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a report of the validate stage ({error}); run validate first"
        ) from error
    if not passed:
        raise DataError(f"{path}: the data did not pass; correct what it lists and run validate again")
    fingerprint = store.fingerprint(data)
    if fingerprint != validated:
        raise DataError(f"{data}: changed since {path} was written; run validate again")
    return fingerprint


def _training_texts(data: Path, splits: dict[str, str]) -> Iterator[str]:
    """Texts from which the vocabulary is learned: without valid and test queries, and without their exact matches."""
    for batch in store.read_batches(data, "products", ["product_id", *TEXT_COLUMNS]):
        yield from (
            product_text(row)
            for row in batch.to_pylist()
            if splits.get(row["product_id"], "train") == "train"
        )
    for batch in store.read_batches(data, "queries", ["text", "split"]):
        yield from (row["text"] for row in batch.to_pylist() if row["split"] == "train" and row["text"])


def _list_files(data: Path, table: str, folder: Path) -> Iterator[tuple[Path, pa.Table]]:
    """The file to write for every `FILE_ROWS` rows of a table, and the rows; with a progress bar."""
    columns = (*COLUMNS[table], ATTRIBUTES) if table == "products" else COLUMNS[table]
    total = sum(store.open_file(path).metadata.num_rows for path in store.list_files(data, table))
    batches = store.read_batches(data, table, columns, FILE_ROWS)
    with show_progress(total=total, desc=f"featurize {table}", unit="row") as bar:
        for number, rows in enumerate(_regroup(batches)):
            yield folder / f"{number:06d}.parquet", rows
            bar.update(rows.num_rows)


def _write_file(
    path: Path,
    table: str,
    rows: pa.Table,
    splits: dict[str, str],
    featurizer: Featurizer,
    keep_pictures: bool,
) -> None:
    """Featurize rows and write them to one file; kept pictures go to a second file with the same stem."""
    items, broken = featurizer.featurize_rows(table, rows.to_pylist(), splits, keep_pictures)
    reasons = pa.array([broken.get(row) for row in range(len(items))], pa.string())
    content = items.to_table().append_column("broken", reasons)
    for column in (name for name in FACET_COLUMNS if name in rows.column_names):
        content = content.append_column(column, rows[column])
    unfinished = path.with_suffix(".partial")
    if keep_pictures:  # first, so that a table never lacks its pictures
        items.save_pictures(unfinished)
        unfinished.replace(path.with_suffix(".npy"))
    pq.write_table(content, unfinished)
    unfinished.replace(path)


def _regroup(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Tables of `FILE_ROWS` rows, independent of the row groups of the files."""
    pending: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        pending.append(batch)
        count += batch.num_rows
        while count >= FILE_ROWS:
            table = pa.Table.from_batches(pending)
            yield table.slice(0, FILE_ROWS)
            pending = table.slice(FILE_ROWS).to_batches()
            count -= FILE_ROWS
    if count:
        yield pa.Table.from_batches(pending)


def _report(features: Path, params: FeaturizeParams) -> None:
    _report_broken(features, params.max_broken_images)
    _report_coverage(features, params.max_unreadable)


def _report_coverage(features: Path, allowed: float) -> None:
    """Write coverage.json: the share of tokens that cannot be read, and of the queries that have no other tokens.

    Raises:
        DataError: where one of them is above the allowed share; names the first such queries.
    """
    unreadable = Vocabulary.load(features / "vocabulary.json").unreadable
    token_count = unreadable_count = 0
    queries: dict[str, bool] = {}
    for path in sorted(features.glob("*/*.parquet")):
        table = pq.read_table(path, columns=["ids", "tokens"])
        tokens = table["tokens"].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
        is_token, is_unreadable = tokens != PAD, np.isin(tokens, unreadable)
        token_count += int(is_token.sum())
        unreadable_count += int(is_unreadable.sum())
        if path.parent.name == "queries":
            with_text = is_token.any(1)
            has_none = (is_unreadable == is_token).all(1)[with_text]
            queries |= zip(np.array(table["ids"])[with_text].tolist(), has_none.tolist(), strict=True)
    shares = {
        "tokens": unreadable_count / max(1, token_count),
        "queries": sum(queries.values()) / max(1, len(queries)),
    }
    (features / "coverage.json").write_text(json.dumps(shares, indent=2) + "\n")
    name, share = max(shares.items(), key=lambda item: item[1])
    examples = [query for query, has_none in queries.items() if has_none][:EXAMPLES]
    if share > allowed:
        raise DataError(
            f"featurize: the text encoder cannot read {share:.1%} of the {name} (unknown, or single bytes), "
            f"featurize.max_unreadable allows {allowed:.1%}"
            + (f"; first queries: {', '.join(examples)}" if examples else "")
            + "; check the language and encoding of the texts, or choose a featurize.text_encoder that knows them"
        )


def _report_broken(features: Path, allowed: float) -> None:
    """Write broken.json, id → reason.

    Raises:
        DataError: where more than the allowed share of pictures is broken; names the first ids.
    """
    paths = sorted(features.glob("*/*.parquet"))
    items = pa.concat_tables(pq.read_table(path, columns=["ids", "has_image", "broken"]) for path in paths)
    broken_items = items.filter(pc.is_valid(items["broken"]))
    broken = dict(zip(broken_items["ids"].to_pylist(), broken_items["broken"].to_pylist(), strict=True))
    pictures = (pc.sum(items["has_image"]).as_py() or 0) + len(broken)
    share = len(broken) / max(1, pictures)
    examples = "; ".join(f"{key}: {reason}" for key, reason in list(broken.items())[:EXAMPLES])
    if share > allowed:
        raise DataError(
            f"featurize: {len(broken)} of {pictures} pictures are broken ({share:.1%}), "
            f"featurize.max_broken_images allows {allowed:.1%}; {examples}"
        )
    if broken:
        print(
            f"featurize: warning: {len(broken)} broken pictures count as missing; {examples}", file=sys.stderr
        )
    (features / "broken.json").write_text(json.dumps(broken, indent=2) + "\n")
