"""Vectors for `train.teacher`, of a trained model or of published encoders."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from catalog import store
from catalog.schema import DataError
from fusion.features import Items
from fusion.model import embed
from fusion.search.catalogue_search import load_model
from fusion.search.zero_shot import embed_zero_shot, has_joint_encoder, load_text_tower, read_joint_vectors
from fusion.training.distillation import Teacher

# CLIP's learned scale stops at 100 (Radford et al., 2021); SigLIP's is 118 (Zhai et al., 2023).
DUAL_ENCODER_SCALE = 100.0
JOINT_ENCODER_SCALE = 20.0  # of the contrastive losses of Sentence Transformers


def write_model_teacher(model: Path, data: Path, folder: Path) -> None:
    """Write the vectors of a trained model for the products and the training queries of a data set.

    Args:
        model: Output folder of the train stage.
        data: The data set.
        folder: Folder to write, see `Teacher.save`.

    Raises:
        DataError: `model` does not hold a model, or `folder` cannot be written.
    """
    network, featurizer = load_model(model)
    products, queries = (featurizer.featurize_table(data, table) for table in ("products", "queries"))
    queries = _select_training(queries)
    vectors = embed(network, products, "product"), embed(network, queries, "query")
    _write(Teacher(network.scale.item(), *vectors), products, queries, folder)


def write_zero_shot_teacher(features: Path, folder: Path) -> None:
    """Write the vectors of published encoders for the products and the training queries of a data set.

    Args:
        features: Output folder of the featurize stage, with a joint encoder, or with both towers of a dual encoder; if
            there are both, the joint encoder teaches.
        folder: Folder to write, see `Teacher.save`.

    Raises:
        DataError: there is neither, there are no features, or `folder` cannot be written.
    """
    products, queries = (Items.load(features, table) for table in ("products", "queries"))
    queries = _select_training(queries)
    embed_items: Callable[[Items, str], np.ndarray]
    if has_joint_encoder(features):
        scale, embed_items = JOINT_ENCODER_SCALE, read_joint_vectors
    elif tower := load_text_tower(features):
        scale, embed_items = DUAL_ENCODER_SCALE, partial(embed_zero_shot, tower)
    else:
        raise DataError(
            f"{features}: it has no joint encoder, and its other encoders are not the two towers of one model; set "
            "featurize.text_encoder and featurize.image_encoder to the same dual encoder, or give a trained model "
            "with --model and --data"
        )
    vectors = embed_items(products, "product"), embed_items(queries, "query")
    _write(Teacher(scale, *vectors), products, queries, folder)


def _select_training(queries: Items) -> Items:
    """Training uses no others; so a teacher cannot tell a model about test queries."""
    return queries.take(queries.splits == "train")


def _write(teacher: Teacher, products: Items, queries: Items, folder: Path) -> None:
    halves = Teacher(teacher.scale, teacher.products.astype(np.float16), teacher.queries.astype(np.float16))
    with store.new_atomic_dir(folder) as partial:
        halves.save(partial, products.ids, queries.ids)
