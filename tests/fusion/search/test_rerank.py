"""Rerankers against transformers itself, on tiny checkpoints in the published format; and properties of reranking."""

import json
import pickle
import shutil
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from catalog.schema import DataError
from fusion.__main__ import main
from fusion.encoders.image import ImageEncoder
from fusion.search.catalogue_search import rank_data
from fusion.search.rerank import RERANKERS, Reranker, rerank

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "shirt", "shoe", "##s", "a"]
TEXTS = ["red shirt", "Blue shoes with a red shirt", "shoe", "nothing known"]
WIDTH = 20  # of a region
SMALL: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 12,
    "initializer_range": 0.5,  # far from the usual 0.02, so that scores differ
}
# As published with the original weights, years before the present format.
PREPROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "feature_extractor_type": "ViltFeatureExtractor",
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 3,
    "size": 64,
    "size_divisor": 32,
}


def publish(model: Any, folder: Path) -> Path:
    """A model as it is published: weights, configuration, vocabulary."""
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    tokenizer = {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each reranker; read-only for tests."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    vilt = transformers.ViltConfig(**SMALL, image_size=64, patch_size=32)
    visualbert = transformers.VisualBertConfig(**SMALL, visual_embedding_dim=WIDTH)
    checkpoints = {
        "vilt": publish(transformers.ViltForImageAndTextRetrieval(vilt), root / "vilt"),
        "visualbert": publish(transformers.VisualBertForPreTraining(visualbert), root / "visualbert"),
    }
    (checkpoints["vilt"] / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return checkpoints


@pytest.fixture(scope="module")
def rerankers(folders: dict[str, Path]) -> dict[str, Reranker]:
    return {name: RERANKERS[name](str(folder)) for name, folder in folders.items()}


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, list[np.ndarray]]:
    """Each reranker's inputs for four products, all of different sizes; one picture has as many rows as channels."""
    sizes = [(64, 64), (40, 80), (90, 70), (3, 9)]
    return {
        "vilt": [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes],
        "visualbert": [rng.normal(size=(n, WIDTH)).astype(np.float32) for n in (3, 7, 1, 4)],
    }


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@torch.inference_mode()
def by_hand(name: str, folder: Path, text: str, picture: np.ndarray) -> float:
    """One pair, as transformers' documentation does it."""
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    if name == "vilt":
        processor = transformers.ViltProcessor(
            transformers.ViltImageProcessor.from_pretrained(folder), tokenizer
        )
        vilt = transformers.ViltForImageAndTextRetrieval.from_pretrained(folder)
        tensors = processor(picture, text, input_data_format="channels_last", return_tensors="pt")
        return vilt(**tensors).logits[0, 0].item()
    visualbert = transformers.VisualBertForPreTraining.from_pretrained(folder)
    regions = torch.from_numpy(picture)[None]
    tensors = tokenizer(text, return_tensors="pt") | {
        "visual_embeds": regions,
        "visual_token_type_ids": torch.ones(regions.shape[:-1], dtype=torch.long),
        "visual_attention_mask": torch.ones(regions.shape[:-1]),
    }
    mismatch, match = visualbert(**tensors).seq_relationship_logits[0]
    return (match - mismatch).item()


both = pytest.mark.parametrize("name", list(RERANKERS.entries))


@both
def test_scores_are_those_of_transformers(
    name: str, folders: dict[str, Path], rerankers: dict[str, Reranker], inputs: dict[str, list[np.ndarray]]
) -> None:
    scores = rerankers[name].score(TEXTS, inputs[name])
    assert scores.dtype == np.float32
    expected = [by_hand(name, folders[name], *pair) for pair in zip(TEXTS, inputs[name], strict=True)]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert np.ptp(scores) > 0.1


@both
def test_text_and_picture_both_count(
    name: str, rerankers: dict[str, Reranker], inputs: dict[str, list[np.ndarray]]
) -> None:
    score = rerankers[name].score
    assert np.ptp(score(TEXTS, [inputs[name][0]] * 4)) > 0.1
    assert np.ptp(score(TEXTS[:1] * 4, inputs[name])) > 0.1


@both
def test_batches_and_padding_do_not_change_scores(
    name: str, rerankers: dict[str, Reranker], inputs: dict[str, list[np.ndarray]]
) -> None:
    score = rerankers[name].score
    together = score(TEXTS, inputs[name])
    separate = [score([text], [picture])[0] for text, picture in zip(TEXTS, inputs[name], strict=True)]
    np.testing.assert_allclose(together, separate, atol=1e-5)
    np.testing.assert_allclose(score(TEXTS[::-1], inputs[name][::-1])[::-1], together, atol=1e-5)


@both
def test_long_texts_are_cut(
    name: str, rerankers: dict[str, Reranker], inputs: dict[str, list[np.ndarray]]
) -> None:
    long = " ".join(["red"] * 100)
    fitting = " ".join(["red"] * (SMALL["max_position_embeddings"] - 2))  # without [CLS] and [SEP]
    long_score, fitting_score = rerankers[name].score([long, fitting], [inputs[name][0]] * 2)
    assert long_score == pytest.approx(fitting_score, abs=1e-5)


@both
def test_is_deterministic_and_leaves_the_random_state(
    name: str, rerankers: dict[str, Reranker], inputs: dict[str, list[np.ndarray]]
) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = rerankers[name].score(TEXTS, inputs[name])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert np.array_equal(rerankers[name].score(TEXTS, inputs[name]), first)


@pytest.mark.parametrize(
    "picture",
    [
        np.zeros((64, 64, 3), np.float32),
        np.zeros((3, 64, 64), np.uint8),
        np.zeros((64, 64), np.uint8),
        np.zeros((64, 64, 4), np.uint8),
        np.zeros((0, 0, 3), np.uint8),
        np.zeros((10, 1000, 3), np.uint8),
    ],
    ids=lambda picture: f"{picture.dtype}{picture.shape}",
)
def test_a_picture_vilt_cannot_read(rerankers: dict[str, Reranker], picture: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"vilt: a picture is .* uint8 \(H, W, 3\).*catalog\.images\.fit"):
        rerankers["vilt"].score(["red"], [picture])


@pytest.mark.parametrize("shape", [(3, WIDTH + 1), (0, WIDTH), (WIDTH,), (1, 3, WIDTH)])
def test_regions_visualbert_cannot_read(rerankers: dict[str, Reranker], shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError) as caught:
        rerankers["visualbert"].score(["red"], [np.zeros(shape, np.float32)])
    assert str(shape) in str(caught.value)
    assert f"(N, {WIDTH})" in str(caught.value)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails a test that looks up a host."""
    lookups: list[object] = []

    def record_lookup(*host: object, **_: object) -> None:
        lookups.append(host)
        raise OSError

    monkeypatch.setattr(socket, "getaddrinfo", record_lookup)
    yield
    assert not lookups


@both
@pytest.mark.usefixtures("no_network")
def test_loads_in_float32(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders[name], tmp_path / "half")
    weights = {key: value.half() for key, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", dtype="float16")
    model = RERANKERS[name](str(folder)).model
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


@both
def test_reads_what_transformers_writes_today(
    name: str,
    folders: dict[str, Path],
    rerankers: dict[str, Reranker],
    inputs: dict[str, list[np.ndarray]],
    tmp_path: Path,
) -> None:
    transformers.BertTokenizer.from_pretrained(folders[name]).save_pretrained(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    if name == "vilt":
        transformers.ViltImageProcessor.from_pretrained(folders[name]).save_pretrained(tmp_path)
    rerankers[name].model.save_pretrained(tmp_path)
    reloaded = RERANKERS[name](str(tmp_path))
    assert np.array_equal(reloaded.score(TEXTS, inputs[name]), rerankers[name].score(TEXTS, inputs[name]))


def delete_file(folder: Path, name: str) -> None:
    (folder / name).unlink()


def keep_only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    delete_file(folder, "model.safetensors")


def remove_head(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    heads = ("rank_output", "cls.seq_relationship")
    remaining = {key: value for key, value in weights.items() if not key.startswith(heads)}
    save_file(remaining, folder / "model.safetensors", {"format": "pt"})


def change_json(path: Path, **entries: Any) -> None:
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | entries))


def rename_architecture(folder: Path) -> None:
    change_json(folder / "config.json", architectures=["ViltForMaskedLM"])


def change_width(folder: Path) -> None:
    change_json(folder / "config.json", intermediate_size=96)


def add_words(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "one", "more"]) + "\n")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "is no folder here, and from the hub"),
    "no configuration": (
        lambda folder: delete_file(folder, "config.json"),
        r"config\.json .* nothing, or is missing",
    ),
    "no weights": (
        lambda folder: delete_file(folder, "model.safetensors"),
        r"no file named model\.safetensors",
    ),
    "pickled weights": (
        keep_only_pickle,
        r"no file named model\.safetensors.*pytorch_model\.bin is never read",
    ),
    "broken weights": (lambda folder: (folder / "model.safetensors").write_text("{"), "Safetensor"),
    "no head": (remove_head, r"model\.safetensors lacks (rank_output|cls\.seq_relationship)\.bias"),
    "another model": (rename_architecture, r"config\.json should name \w+; it names ViltForMaskedLM"),
    "another size": (change_width, "(?i)mismatch"),
    "no vocabulary": (
        lambda folder: delete_file(folder, "vocab.txt"),
        r"the tokenizer knows 5 words, the model 11",
    ),
    "another vocabulary": (add_words, r"the tokenizer knows 13 words, the model 11"),
}


@both
@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_read(
    name: str, fault: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(folders[name], tmp_path / "checkpoint")
    damage, pattern = FAULTS[fault]
    damage(folder)
    with pytest.raises(DataError, match=pattern) as caught:
        RERANKERS[name](str(folder))
    message = str(caught.value)
    assert f"'{folder}'" in message
    assert "cannot be loaded" in message
    model_id, revision = RERANKERS[name].model_id, RERANKERS[name].revision
    for part in ("config.json", "model.safetensors", "vocab.txt", model_id, revision, "--rerank-weights"):
        assert part in message


def test_no_image_processor(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(folders["vilt"], tmp_path / "checkpoint")
    delete_file(folder, "preprocessor_config.json")
    with pytest.raises(DataError, match=r"preprocessor_config\.json"):
        RERANKERS["vilt"](str(folder))


@both
def test_no_hub(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reranker = RERANKERS[name]
    with pytest.raises(
        DataError, match=f"'{reranker.model_id}' is no folder.*cannot be loaded.*download .*--rerank-weights"
    ):
        reranker()


@both
def test_from_the_hub(
    name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Uses cached files, each from the repository that it is published in."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reranker = RERANKERS[name]
    for path in folders[name].iterdir():
        repository, revision = reranker.model_id, reranker.revision
        if reranker.tokenizer_id and path.name in ("vocab.txt", "tokenizer_config.json"):
            repository, revision = reranker.tokenizer_id, "main"
        cache = tmp_path / f"models--{repository.replace('/', '--')}"
        for folder in ((cache / "refs" / revision).parent, cache / "snapshots" / "commit"):
            folder.mkdir(parents=True, exist_ok=True)
        (cache / "refs" / revision).write_text("commit")
        shutil.copy(path, cache / "snapshots" / "commit")
    assert len(reranker().tokenizer) == len(WORDS)


@both
def test_no_transformers(name: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DataError, match=r"pip install 'vitrine\[encoders\]'"):
        RERANKERS[name](str(folders[name]))


class Payload:
    """Content of a hostile folder: unpickling it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@both
def test_a_hostile_folder_runs_nothing(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder, trace = shutil.copytree(folders[name], tmp_path / "checkpoint"), tmp_path / "trace"
    (folder / "code.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    for path, entries in {
        "config.json": {"AutoConfig": "code.Config", "AutoModel": "code.Model"},
        "tokenizer_config.json": {"AutoTokenizer": ["code.Tokenizer", None]},
        "preprocessor_config.json": {"AutoImageProcessor": "code.Processor"},
    }.items():
        change_json(folder / path, auto_map=entries)
    payload = pickle.dumps(Payload(trace))
    (folder / "pytorch_model.bin").write_bytes(payload)
    RERANKERS[name](str(folder))
    delete_file(folder, "model.safetensors")
    with pytest.raises(DataError):
        RERANKERS[name](str(folder))
    assert not trace.exists()
    pickle.loads(payload)  # noqa: S301 - our own
    assert trace.exists(), "the payload works, so the test is meaningful"


def test_unknown_reranker() -> None:
    with pytest.raises(ValueError, match=r"unknown reranker 'clip'; known are vilt, visualbert"):
        RERANKERS["clip"]


def make_run(rankings: dict[str, list[tuple[str, float]]]) -> pa.Table:
    rows = [(query, *result) for query, results in rankings.items() for result in results]
    columns = zip(*rows, strict=True) if rows else ([], [], [])
    types = (pa.string(), pa.string(), pa.float64())
    names = ("query_id", "product_id", "score")
    return pa.table({name: pa.array(list(c), t) for name, c, t in zip(names, columns, types, strict=True)})


def group_by_query(run: pa.Table) -> dict[str, list[str]]:
    rankings: dict[str, list[str]] = {}
    for row in run.to_pylist():
        rankings.setdefault(row["query_id"], []).append(row["product_id"])
    return rankings


def load_numbers(ids: Sequence[str]) -> list[np.ndarray | None]:
    """Products p0, p1 …: even ones have a picture, which is their number."""
    return [np.array(int(i[1:])) if int(i[1:]) % 2 == 0 else None for i in ids]


def score_numbers(texts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
    assert len(texts) == len(pictures) > 0
    assert all(texts)
    return np.array(pictures, np.float32)


def test_rerank_by_hand() -> None:
    run = make_run(
        {
            "b": [("p2", 0.9), ("p3", 0.8), ("p6", 0.7), ("p4", 0.6), ("p8", 0.5), ("p5", 0.4)],
            "mute": [("p2", 3.0), ("p4", 2.0)],
            "a": [("p0", 0.2), ("p8", 0.1)],
        }
    )
    texts = {"a": "red", "b": "blue", "mute": ""}
    reranked = rerank(run, texts, load_numbers, score_numbers, k=4)
    assert group_by_query(reranked) == {
        "b": ["p6", "p3", "p4", "p2", "p8", "p5"],  # p3 has no picture, p8 is below the first four
        "mute": ["p2", "p4"],
        "a": ["p8", "p0"],
    }
    assert reranked.schema == run.schema
    assert reranked["score"].to_pylist() == [1, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6, 1, 1 / 2, 1, 1 / 2]


def test_rerank_sorts_an_unsorted_run() -> None:
    run = make_run({"a": [("p0", 0.1), ("p2", 0.9), ("p4", 0.5)]})
    mixed = pa.concat_tables([run.slice(0, 1), make_run({"b": [("p1", 1.0)]}), run.slice(1)])
    assert group_by_query(rerank(mixed, {"a": "red"}, load_numbers, score_numbers, k=2)) == {
        "a": ["p4", "p2", "p0"],
        "b": ["p1"],
    }


def test_rerank_an_empty_run() -> None:
    assert rerank(make_run({}), {}, load_numbers, score_numbers, k=3).num_rows == 0


@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_a_score_that_is_not_finite(fault: float) -> None:
    run = make_run({"a": [("p2", 0.9), ("p4", 0.5)]})
    with pytest.raises(DataError, match=r"query 'a', product 'p4': the score is not a finite number"):
        rerank(run, {"a": "red"}, load_numbers, lambda _, pictures: np.array([1.0, fault]), k=2)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, list[tuple[str, float]]]:
    """Queries q0, q1 … with any products, best first, with many equal scores."""
    rankings = {}
    for number in range(draw(st.integers(1, 4))):
        products = draw(st.lists(st.integers(0, 20), max_size=9, unique=True))
        scores = sorted((draw(st.integers(0, 4)) / 4 for _ in products), reverse=True)
        rankings[f"q{number}"] = [(f"p{n}", score) for n, score in zip(products, scores, strict=True)]
    return rankings


@given(
    rankings=runs(),
    k=st.integers(0, 10),
    batch_size=st.integers(1, 7),
    second_scores=st.lists(st.integers(-2, 2), min_size=21, max_size=21),
    with_picture=st.sets(st.integers(0, 20)),
    with_text=st.sets(st.integers(0, 3)),
)
@settings(max_examples=150, deadline=None)
def test_properties_of_reranking(
    rankings: dict[str, list[tuple[str, float]]],
    k: int,
    batch_size: int,
    second_scores: list[int],
    with_picture: set[int],
    with_text: set[int],
) -> None:
    texts = {f"q{n}": f"text of q{n}" for n in with_text}
    batch_sizes = []

    def load_pictures(ids: Sequence[str]) -> list[np.ndarray | None]:
        return [np.array(int(i[1:])) if int(i[1:]) in with_picture else None for i in ids]

    def score(batch_texts: Sequence[str], pictures: Sequence[np.ndarray]) -> np.ndarray:
        batch_sizes.append(len(pictures))
        assert set(batch_texts) <= set(texts.values())
        return np.array([second_scores[int(number)] for number in pictures], np.float32)

    reranked = rerank(make_run(rankings), texts, load_pictures, score, k, batch_size)
    after = group_by_query(reranked)
    assert list(after) == [query for query, results in rankings.items() if results]
    pairs = 0
    for query, products in after.items():
        before = [product for product, _ in rankings[query]]
        assert sorted(products[:k]) == sorted(before[:k]), "the first k are permuted"
        assert products[k:] == before[k:], "those below stay"
        moving = [p for p in before[:k] if int(p[1:]) in with_picture and query in texts]
        for old, new in zip(before[:k], products[:k], strict=True):
            assert (old in moving) == (new in moving), "only products with a picture change places"
            assert old in moving or old == new
        best_first = sorted(moving, key=lambda p: (-second_scores[int(p[1:])], before.index(p)))
        assert [p for p in products[:k] if p in moving] == best_first, "best first, ties in their old order"
        pairs += len(moving)
        scores = [row["score"] for row in reranked.to_pylist() if row["query_id"] == query]
        assert all(a > b for a, b in pairwise(scores)), "new scores have no ties"
    assert sum(batch_sizes) == pairs
    assert all(0 < size <= batch_size for size in batch_sizes)

    run = make_run(rankings)
    constant = rerank(run, texts, load_pictures, lambda texts, _: np.zeros(len(texts)), k, batch_size)
    assert group_by_query(constant) == group_by_query(run)


@both
def test_reranks_with_a_model(
    name: str, rerankers: dict[str, Reranker], inputs: dict[str, list[np.ndarray]]
) -> None:
    pictures = dict(zip(["p0", "p1", "p2", "p3"], [*inputs[name][:3], None], strict=True))
    run = make_run({query: [(p, 1.0 - int(p[1]) / 8) for p in pictures] for query in ("qa", "qb")})
    texts = {"qa": TEXTS[0], "qb": TEXTS[1]}
    reranked = rerank(
        run, texts, lambda ids: [pictures[i] for i in ids], rerankers[name].score, k=4, batch_size=3
    )
    for query, products in group_by_query(reranked).items():
        scores = rerankers[name].score([texts[query]] * 3, inputs[name][:3])
        assert products == [*(f"p{i}" for i in np.argsort(-scores, kind="stable")), "p3"]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory, encoder: ImageEncoder) -> Path:
    """A checkpoint that reads the regions of the image encoder."""
    torch.manual_seed(0)
    config = transformers.VisualBertConfig(**SMALL, visual_embedding_dim=encoder.region_width)
    folder = tmp_path_factory.mktemp("wide")
    return publish(transformers.VisualBertForPreTraining(config), folder / "visualbert")


@pytest.mark.parametrize("name", list(RERANKERS.entries))
def test_command(
    name: str, saved: Path, tiny_data: Path, folders: dict[str, Path], wide: Path, tmp_path: Path
) -> None:
    """The first products of text queries change places; those of queries by picture stay."""
    weights = wide if name == "visualbert" else folders[name]
    plain = rank_data(saved, tiny_data, "test", 8)
    command = ["rank", "--model", saved, "--data", tiny_data, "--depth", 8, "--run", tmp_path / "run.parquet"]
    second = ["--rerank", name, "--rerank-weights", weights, "--top", 5]
    assert main([str(word) for word in (*command, *second)]) == 0
    run = pq.read_table(tmp_path / "run.parquet")
    ids, before = (table["product_id"].to_numpy().reshape(2, 8) for table in (run, plain))
    assert run["query_id"].to_pylist() == ["q4"] * 8 + ["q5"] * 8
    assert sorted(ids[0, :5]) == sorted(before[0, :5]) and ids[0, :5].tolist() != before[0, :5].tolist()
    assert ids[0, 5:].tolist() == before[0, 5:].tolist()
    assert ids[1].tolist() == before[1].tolist(), "this query has no text"


def test_command_without_the_weights(
    saved: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["rank", "--model", saved, "--data", tiny_data, "--run", tmp_path / "run.parquet"]
    assert main([str(w) for w in (*command, "--rerank", "vilt", "--rerank-weights", tmp_path)]) == 1
    assert "vitrine: rerank: the folder" in capsys.readouterr().err
    assert not (tmp_path / "run.parquet").exists()
