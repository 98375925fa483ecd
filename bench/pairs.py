"""Titles and pictures of held-out products: the model against ridge regressions between their features.

    python bench/pairs.py DATA FEATURES MODEL > TABLE.md

All systems get the same candidates and the same picture features. The regressions read a title as the TF-IDF of its
words, reduced to 1,024 dimensions, or as the sentence vector of the frozen all-MiniLM-L6-v2. Each direction has its own
regression, fitted on the training split, with the penalty that is best on the validation split.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from catalog import store
from catalog.progress import show_progress
from fusion.encoders.text import TextEncoderInit, Transformer
from fusion.encoders.vocabulary import Vocabulary
from fusion.features import Items
from fusion.featurizer import load_items
from fusion.model import ProductSearchModel, embed
from scoring.auxiliary_evaluation import MAX_RETRIEVAL_PRODUCTS, SEED

PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
FIRST = (1, 5, 10)


def main(data: Path, features: Path, model: Path) -> None:
    items = load_items(features, "products", model)
    written = dict(
        zip(*store.read_table(data, "products", ["product_id", "title"]).to_pydict().values(), strict=True)
    )
    titles = np.array([written[key] for key in items.ids], object)
    vocabulary = Vocabulary.load(features / "vocabulary.json")
    titled = Items(**(vars(items) | {"tokens": vocabulary.encode(titles, items.tokens.shape[1])}))
    both = titled.present[:, :2].all(1)
    train, valid, test = (
        np.flatnonzero(both & (items.splits == side)) for side in ("train", "valid", "test")
    )
    test, valid = (
        np.sort(np.random.default_rng(SEED).permutation(rows)[:MAX_RETRIEVAL_PRODUCTS])
        for rows in (test, valid)
    )

    network = ProductSearchModel.load(model)
    chosen = titled.take(test).without("video").without("joint")
    words, pictures = (embed(network, chosen, "product", [modality]) for modality in ("text", "image"))
    rows = {"model": (recalls(words @ pictures.T), recalls(pictures @ words.T))}
    scaler = StandardScaler().fit(items.images[train].astype(np.float32))
    picture_vectors = scaler.transform(items.images.astype(np.float32)).clip(-5, 5)
    for name, read in {"TF-IDF": tf_idf, "MiniLM": minilm}.items():
        title_vectors = read(titles, train)
        rows[f"ridge, {name}"] = (
            ridge(title_vectors, picture_vectors, train, valid, test),
            ridge(picture_vectors, title_vectors, train, valid, test),
        )
    heads = [f"{way} R@{k}" for way in ("title → picture", "picture → title") for k in FIRST]
    print(f"{len(test):,} held-out candidates, {len(train):,} training pairs\n")
    print(f"| system | {' | '.join(heads)} |\n|{'---|' * (1 + len(heads))}")
    for name, ways in rows.items():
        print(f"| {name} | {' | '.join(f'{value:.3f}' for way in ways for value in way)} |")


def recalls(scores: np.ndarray) -> list[float]:
    """Recall@k of the diagonal of (N, N) for each k of `FIRST`."""
    rank = (scores > np.diag(scores)[:, None]).sum(1)
    return [float((rank < k).mean()) for k in FIRST]


def ridge(
    source: np.ndarray, target: np.ndarray, train: np.ndarray, valid: np.ndarray, test: np.ndarray
) -> list[float]:
    """Recalls of the test rows by cosine, with the penalty that has the best recall@1 on the validation rows."""
    mean = target[train].mean(0)

    def scores(regression: Any, rows: np.ndarray) -> np.ndarray:
        return unit(regression.predict(source[rows]) - mean) @ unit(target[rows] - mean).T

    fitted = [Ridge(alpha=penalty).fit(source[train], target[train]) for penalty in show_progress(PENALTIES)]
    best = max(fitted, key=lambda regression: recalls(scores(regression, valid))[0])
    return recalls(scores(best, test))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def tf_idf(titles: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Reduced to 1,024 dimensions, float32 (N, 1024)."""
    vectors = TfidfVectorizer(min_df=2, sublinear_tf=True).fit(titles[train]).transform(titles)
    return TruncatedSVD(1024, random_state=0).fit(vectors[train]).transform(vectors).astype(np.float32)


@torch.inference_mode()
def minilm(titles: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Unit vectors, float32 (N, 384)."""
    start = TextEncoderInit.from_name("minilm", 64)
    vocabulary: Any = start.vocabulary
    encoder = Transformer(0, 1, 0, **start.settings).eval()
    encoder.load_published(start.state)
    tokens = torch.from_numpy(vocabulary.encode(titles, 64).astype(np.int64))
    order = (tokens != 0).sum(1).argsort()  # texts of similar length together, so that padding costs little
    out = torch.zeros(len(titles), start.settings["widths"][0])
    for rows in show_progress(order.split(256)):
        longest = int((tokens[rows] != 0).sum(1).max())
        out[rows] = encoder.encode(tokens[rows, :longest])[0]
    return unit(out.numpy())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
