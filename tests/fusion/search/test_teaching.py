import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fusion.__main__ import main
from fusion.encoders.image import ImageEncoder
from fusion.encoders.text import TextEncoderInit
from fusion.features import Items
from fusion.model import embed
from fusion.search.catalogue_search import load_model
from fusion.search.zero_shot import embed_zero_shot, load_text_tower
from fusion.training.distillation import Teacher


def teach(*words: object) -> int:
    return main(["teach", *map(str, words)])


def test_vectors_of_a_model(saved: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert teach("--model", saved, "--data", tiny_data, "--teacher", tmp_path / "teacher") == 0
    model, featurizer = load_model(saved)
    products, queries = (featurizer.featurize_table(tiny_data, table) for table in ("products", "queries"))
    queries = queries.take(queries.splits == "train")
    teacher = Teacher.load(tmp_path / "teacher", products.ids, queries.ids)
    assert teacher.scale == pytest.approx(model.scale.item())
    np.testing.assert_allclose(teacher.products, embed(model, products, "product"), atol=2e-3)
    np.testing.assert_allclose(teacher.queries, embed(model, queries, "query"), atol=2e-3)
    assert len(pq.read_table(tmp_path / "teacher" / "queries.parquet")) == len(queries)


@pytest.fixture
def clip_features(clip: Path, make_items: Callable[..., Items], tmp_path: Path) -> Path:
    """What featurize writes with both towers of a CLIP: two products without a picture, two without text."""
    folder, rng = tmp_path / "features", np.random.default_rng(0)
    has_text, has_image = np.array([1, 1, 1, 0, 0, 0]), np.array([1, 1, 0, 1, 1, 0])
    init, image = TextEncoderInit.from_name(f"clip:{clip}", 12), ImageEncoder.pretrained(f"clip:{clip}", 2)
    tokens = rng.integers(5, 9, (6, 4)) * has_text[:, None]
    pictures = rng.normal(size=(6, 12)) * has_image[:, None]
    splits = np.array(["train", "test", "valid"] * 2, object)
    for table in ("products", "queries"):
        items = make_items(tokens, pictures, has_image.astype(bool), prefix=table, splits=splits)
        (folder / table).mkdir(parents=True)
        pq.write_table(items.to_table(), folder / table / "000000.parquet")
    init.save(folder)
    settings = {"encoder": [image.name, 2, dict(image.settings)], "joint": None}
    (folder / "featurizer.json").write_text(json.dumps(settings))
    return folder


def test_vectors_of_a_dual_encoder(clip_features: Path, tmp_path: Path) -> None:
    assert teach("--features", clip_features, "--teacher", tmp_path / "teacher") == 0
    tower = load_text_tower(clip_features)
    products, queries = (Items.load(clip_features, table) for table in ("products", "queries"))
    queries = queries.take(np.array([0, 3]))
    teacher = Teacher.load(tmp_path / "teacher", products.ids, queries.ids)
    assert tower and teacher.scale == 100
    np.testing.assert_allclose(teacher.products, embed_zero_shot(tower, products, "product"), atol=1e-3)
    np.testing.assert_allclose(teacher.queries, embed_zero_shot(tower, queries, "query"), atol=1e-3)
    assert teacher.products.any(1).tolist() == [True] * 5 + [False]
    assert pq.read_table(tmp_path / "teacher" / "queries.parquet")["id"].to_pylist() == list(queries.ids)


def test_vectors_of_a_joint_encoder(clip_features: Path, tmp_path: Path) -> None:
    """It is read with text and picture together, so it teaches where there are both kinds."""
    settings = json.loads((clip_features / "featurizer.json").read_text())
    (clip_features / "featurizer.json").write_text(json.dumps(settings | {"joint": {}}))
    joint = np.random.default_rng(1).normal(size=(6, 7)).astype(np.float16)
    for table in ("products", "queries"):
        items = replace(Items.load(clip_features, table, regions=True), joint=joint)
        pq.write_table(items.to_table(), clip_features / table / "000000.parquet")
    assert teach("--features", clip_features, "--teacher", tmp_path / "teacher") == 0
    ids = [Items.load(clip_features, table).ids for table in ("products", "queries")]
    teacher = Teacher.load(tmp_path / "teacher", ids[0], ids[1][[0, 3]])
    expected = joint / np.linalg.norm(joint.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(teacher.products, expected, atol=1e-3)
    np.testing.assert_allclose(teacher.queries, expected[[0, 3]], atol=1e-3)
    assert teacher.scale == 20


def test_a_wrong_call_is_one_line(
    clip_features: Path, saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is written."""
    (clip_features / "featurizer.json").write_text(
        '{"encoder": ["efficientnet_lite0", 3, {}], "joint": null}'
    )
    for words, message in (
        (["--features", clip_features], "not the two towers of one model"),
        (["--features", tmp_path / "absent"], "no features here"),
        (["--model", saved], "give a trained model with --model and --data, or published encoders with"),
        (["--features", clip_features, "--model", saved], "give a trained model with --model and --data, or"),
        (["--model", tmp_path, "--data", tmp_path], "not a model of the train stage"),
    ):
        assert teach(*words, "--teacher", tmp_path / "teacher") == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert not list(tmp_path.glob("*teacher*"))
