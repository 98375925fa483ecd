"""A refresh of which few products changed, beside one from nothing: time, memory, and what grows with what.

    python bench/refresh.py encoded [--products 100000]     # pictures are encoded
    python bench/refresh.py drawn [--products 1000000]      # features of pictures are drawn, not encoded

The model is untrained, with the sizes of params.yaml: its vectors cost the same. The index of the day before learns the
approximate search, with an effort that is not tuned. Each build is a process of its own.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from vitrine_judge.tables import format_table

from catalog import store
from catalog.schema import PRODUCTS, QUERIES
from catalog.threads import limit_threads

CHANGED = (0.001, 0.01, 0.05)  # shares of the products
ROWS_PER_FILE = 50_000
WORDS, TITLE, DESCRIPTION = 20_000, 6, 12  # of the vocabulary, of a title, of a description
PICTURES = 200  # different pictures; each product has one
EFFORT = 64  # lists that a search reads
DIM, HIDDEN = 256, 512


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("encoded", "drawn", "build"))
    parser.add_argument("--products", type=int)
    parser.add_argument("--folder", type=Path, help="for the data and the indexes; default: a temporary one")
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind == "build":
        limit_threads()
        run_build(*arguments.words)
        return
    products = arguments.products or (1_000_000 if arguments.kind == "drawn" else 100_000)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        compare(arguments.kind, products, Path(folder))


def compare(kind: str, products: int, root: Path) -> None:
    """Build from nothing and from the index of the day before, for several shares of changed products."""
    write_model(root / "model")
    write_data(root / "yesterday", products, 0.0, pictures=kind == "encoded")
    # the first one learns what approximate search needs, as the index of the version does
    build(kind, root, "yesterday", {})
    lists = root / "index-yesterday" / "lists.npz"
    learnt = {"learnt": str(lists)} if lists.exists() else {}
    rows = []
    for share in CHANGED:
        write_data(root / "today", products, share, pictures=kind == "encoded")
        options = {**learnt, "previous": str(root / "index-yesterday")}
        rows.append([f"{share:.1%} changed", *build(kind, root, "today", options)])
        if share == CHANGED[1]:
            rows.append(["from nothing", *build(kind, root, "today", learnt)])
        shutil.rmtree(root / "today")
    whole = next(float(row[1]) for row in rows if row[0] == "from nothing")
    lines = [[*row, f"{float(row[1]) / whole:.1%}"] for row in rows]
    header = [
        "",
        "seconds",
        "encode",
        "write",
        "lists",
        "check",
        "words",
        "other",
        "peak GiB",
        "encoded",
        "share",
    ]
    print(f"{products:,} products, features {kind}, {os.cpu_count()} CPUs")
    print(format_table([header, *lines]))


def build(kind: str, root: Path, day: str, options: dict[str, str]) -> list[str]:
    """Build an index in a process: seconds, those of each part, peak memory in GiB, products that were encoded."""
    index, report = root / f"index-{day}", root / "report.json"
    shutil.rmtree(index, ignore_errors=True)
    words = [kind, str(root / "model"), str(root / day), str(index), str(report), json.dumps(options)]
    start = time.monotonic()
    subprocess.run([sys.executable, __file__, "build", *words], check=True)
    seconds = time.monotonic() - start
    content = json.loads(report.read_text())
    parts = content["seconds"]
    return [
        f"{seconds:.1f}",
        *(f"{parts[name]:.1f}" for name in ("encode", "write", "lists", "check", "words")),
        f"{seconds - sum(parts.values()):.1f}",
        f"{content['peak']:.2f}",
        f"{content['counts']['encoded']:,}",
    ]


def run_build(kind: str, model: str, data: str, index: str, report: str, options: str) -> None:
    """The process of `build`; adds its peak memory to the report."""
    from fusion.search.building import build_index
    from fusion.search.vector_index import IVFIndex

    if kind == "drawn":
        draw_features()
    IVFIndex._tune = set_effort  # type: ignore[method-assign]
    paths = {name: Path(path) for name, path in json.loads(options).items()}
    build_index(Path(model), Path(data), Path(index), report=Path(report), **paths)
    content = json.loads(Path(report).read_text())
    content["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    Path(report).write_text(json.dumps(content))


def set_effort(ivf: Any, *_: np.ndarray) -> None:
    """Set an effort at once: tuning takes long on random vectors, and is no part of a refresh."""
    ivf.probes = EFFORT


def draw_features() -> None:
    """Let the featurizer draw the features of pictures from the product's id; texts become tokens as always."""
    from dataclasses import replace

    from fusion.featurizer import Featurizer

    featurize = Featurizer.featurize_rows

    def draw(self: Featurizer, table: str, rows: Sequence[dict[str, Any]], *more: Any) -> Any:
        items, broken = featurize(self, table, rows, *more)
        if table == "products" and rows:
            numbers = np.array([int(row["product_id"]) for row in rows])
            images = np.random.default_rng(0).normal(size=(PICTURES, self.encoder.width))[numbers % PICTURES]
            items = replace(items, images=images.astype(np.float16), has_image=np.ones(len(rows), bool))
        return items, broken

    Featurizer.featurize_rows = draw  # type: ignore[method-assign, assignment]


def write_model(folder: Path) -> None:
    """An untrained model with the default encoders."""
    import torch

    from fusion.encoders.image import ImageEncoder
    from fusion.encoders.video import ClipReader
    from fusion.encoders.vocabulary import Vocabulary
    from fusion.featurizer import Featurizer
    from fusion.model import ModelConfig, ProductSearchModel

    torch.manual_seed(0)
    folder.mkdir()
    encoder = ImageEncoder.pretrained("efficientnet_lite0", grid=3)
    vocabulary = Vocabulary.learn(draw_words().tolist(), size=8000, min_count=1)
    Featurizer(vocabulary, encoder, ClipReader("conv3d", 8, {}), 96, 64, 8, runtime="auto").save(folder)
    config = ModelConfig(len(vocabulary), encoder.width, encoder.region_width, dim=DIM, hidden=HIDDEN)
    ProductSearchModel(config).save(folder)


def draw_words() -> np.ndarray:
    """Words of letters, str (WORDS,)."""
    letters = np.array([*"abcdefghijklmnopqrstuvwxyz"])
    drawn = letters[np.random.default_rng(0).integers(0, 26, (WORDS, 7))]
    return np.array(["".join(word) for word in drawn])


def write_data(folder: Path, products: int, changed: float, pictures: bool) -> None:
    """A data set of drawn products; a share of them has another title than with a share of 0. Few queries."""
    words, rng = draw_words(), np.random.default_rng(1)
    images = draw_pictures() if pictures else []
    weights = 1 / np.arange(1, WORDS + 1)
    (folder / "products").mkdir(parents=True)
    is_changed = np.random.default_rng(2).random(products) < changed
    for start in range(0, products, ROWS_PER_FILE):
        numbers = np.arange(start, min(products, start + ROWS_PER_FILE))
        drawn = words[rng.choice(WORDS, (len(numbers), TITLE + DESCRIPTION), p=weights / weights.sum())]
        rows = [
            {
                "product_id": str(number),
                "title": " ".join(row[:TITLE]) + (" again" if is_changed[number] else ""),
                "description": " ".join(row[TITLE:]),
                "category": f"{row[0]}/{row[1]}",
                "brand": row[2],
                "price": 9.0 + changed,
                "language": "en",
                "images": [images[number % PICTURES]] if images else None,
            }
            for number, row in zip(numbers.tolist(), drawn.tolist(), strict=True)
        ]
        table = pa.Table.from_pylist(rows, schema=PRODUCTS)
        pq.write_table(table, folder / "products" / f"{start:08d}.parquet", row_group_size=1000)
    queries = [
        {"query_id": str(number), "text": " ".join(row), "split": "valid"}
        for number, row in enumerate(rng.choice(words, (300, 3)).tolist())
    ]
    (folder / "queries").mkdir()
    pq.write_table(pa.Table.from_pylist(queries, schema=QUERIES), folder / "queries" / "0.parquet")


def draw_pictures() -> list[dict[str, Any]]:
    """Pictures of the sample data set."""
    from catalog.sample import write_sample

    with tempfile.TemporaryDirectory() as folder:
        write_sample(Path(folder) / "data", products=PICTURES, seed=0, queries=10, workers=1)
        images = store.read_table(Path(folder) / "data", "products", ["images"])["images"].to_pylist()
    return [gallery[0] for gallery in images if gallery][:PICTURES] * 2


if __name__ == "__main__":
    main()
