import io
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from catalog.schema import DataError
from fusion.features import MODALITIES, Items

names = st.text(max_size=4)


def halves(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    return hnp.arrays(np.float16, shape, elements=st.floats(-8, 8, width=16))


@st.composite
def clips(draw: st.DrawFn, count: int) -> np.ndarray:
    """Pixels or features of clips; some are missing."""
    elements = draw(st.sampled_from([hnp.arrays(np.uint8, (2, 1, 3)), halves((4,))]))
    videos = np.full(count, None, object)
    for row in range(count):
        videos[row] = draw(st.none() | elements)
    return videos


OBJECTS = ("galleries", "videos", "pictures")  # fields of arrays, or None


@st.composite
def galleries(draw: st.DrawFn, count: int, features: int) -> np.ndarray:
    """Features of one or more further pictures; some items have none."""
    arrays = np.full(count, None, object)
    for row in range(count):
        arrays[row] = draw(st.none() | st.integers(1, 3).flatmap(lambda size: halves((size, features))))
    return arrays


def noise(has_image: np.ndarray, size: int = 2) -> np.ndarray:
    """Different pictures, as `Items.pictures`."""
    pictures = np.full(len(has_image), None, object)
    for row in np.flatnonzero(has_image):
        pictures[row] = np.random.default_rng(row).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    return pictures


@st.composite
def items(draw: st.DrawFn) -> Items:
    count, width, features = draw(st.integers(0, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 3))

    def strings() -> np.ndarray:
        return np.array([*draw(st.lists(names, min_size=count, max_size=count)), None], object)[:-1]

    return Items(
        ids=strings(),
        splits=strings(),
        segments=strings(),
        tokens=draw(hnp.arrays(np.int32, (count, width), elements=st.integers(0, 2**31 - 1))),
        images=draw(halves((count, features))),
        galleries=draw(galleries(count, features)),
        regions=draw(halves((count, draw(st.integers(1, 3)), features))),
        has_image=draw(hnp.arrays(bool, count)),
        videos=draw(clips(count)),
        pictures=np.full(count, None, object),
        ocr=np.full(count, None, object) if draw(st.booleans()) else strings(),
        joint=draw(halves((count, draw(st.integers(0, 3))))),
    )


def equal(first: Items, second: Items) -> bool:
    pairs = [(getattr(first, field.name), getattr(second, field.name)) for field in fields(Items)]
    objects = [pairs[number] for number, field in enumerate(fields(Items)) if field.name in OBJECTS]
    arrays = [pairs[number] for number, field in enumerate(fields(Items)) if field.name not in OBJECTS]
    same = [
        (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b))
        for first_objects, second_objects in objects
        for a, b in zip(first_objects, second_objects, strict=True)
    ]
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in arrays) and all(same)


@settings(deadline=None, max_examples=50)
@given(items())
def test_table_and_back(original: Items) -> None:
    stream = io.BytesIO()
    pq.write_table(original.to_table(), stream)
    assert equal(Items.from_table(pq.read_table(stream)), original)


def test_text_on_pictures_is_a_column_only_where_it_was_read(make_items: Callable[..., Items]) -> None:
    unread = make_items(np.ones((2, 2)))
    assert "ocr" not in unread.to_table().column_names
    read = replace(unread, ocr=np.array(["", "SALE 20"], object))
    assert read.to_table()["ocr"].to_pylist() == ["", "SALE 20"]
    assert read.to_table().drop_columns("ocr") == unread.to_table()


def test_files_in_order_of_name(make_items: Callable[..., Items], tmp_path: Path) -> None:
    every = make_items(np.arange(1, 13).reshape(6, 2), np.random.default_rng(0).normal(size=(6, 8)))
    (tmp_path / "products").mkdir()
    for number in (2, 0, 1):
        part = every.take(np.arange(2 * number, 2 * number + 2))
        pq.write_table(part.to_table(), tmp_path / "products" / f"{number:06d}.parquet")
    assert equal(Items.load(tmp_path, "products", regions=True), every)
    assert equal(Items.load(tmp_path, "products"), replace(every, regions=np.zeros((6, 0, 0), np.float16)))


@pytest.fixture
def saved_items(make_items: Callable[..., Items], tmp_path: Path) -> Items:
    """Saved in two files, the second without a picture."""
    has_image = np.array([True, False, True, False, False])
    every = make_items(np.ones((5, 1)), np.ones((5, 4)), has_image, pictures=noise(has_image))
    (tmp_path / "products").mkdir()
    for number, rows in enumerate((slice(3), slice(3, 5))):
        part, path = every.take(rows), tmp_path / "products" / f"{number:06d}.parquet"
        pq.write_table(part.to_table(), path)
        part.save_pictures(path.with_suffix(".npy"))
    return every


def test_pictures_are_mapped_into_memory_on_demand(saved_items: Items, tmp_path: Path) -> None:
    loaded = Items.load(tmp_path, "products", regions=True, pictures=True)
    assert equal(loaded, saved_items)
    base = loaded.pictures[2]
    while isinstance(base.base, np.ndarray):
        base = base.base
    assert isinstance(base, np.memmap) and not base.flags.writeable
    no_pictures = np.full(5, None, object)
    without = replace(saved_items, pictures=no_pictures)
    assert equal(Items.load(tmp_path, "products", regions=True), without)


@pytest.mark.parametrize("fault", ["absent", "other"])
def test_missing_pictures(saved_items: Items, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "products" / "000000.npy"
    path.unlink()
    if fault == "other":
        saved_items.take(slice(1)).save_pictures(path)
    messages = {
        "absent": "kept no pictures; set featurize.keep_pictures: true",
        "other": "has 1 pictures, expected 2; run featurize again",
    }
    with pytest.raises(DataError, match=rf"000000\.npy: .*{messages[fault]}"):
        Items.load(tmp_path, "products", pictures=True)


def test_no_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="queries: no features here; run the featurize stage"):
        Items.load(tmp_path, "queries")


def test_concatenate_pads_shorter_texts(make_items: Callable[..., Items]) -> None:
    short, long = make_items(np.array([[5]]), prefix="s"), make_items(np.array([[6, 7, 8]]), prefix="l")
    both = Items.concatenate([short, long])
    assert both.tokens.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert both.ids.tolist() == ["s000", "l000"]
    assert equal(both.take(np.array([False, True])), long)


@pytest.mark.parametrize(("index", "width"), [([0], 1), ([0, 1], 3), ([2], 1)])
def test_batch_ends_with_its_longest_text(
    make_items: Callable[..., Items], index: list[int], width: int
) -> None:
    items = make_items(np.array([[4, 0, 0, 0], [4, 1, 5, 0], [0, 0, 0, 0]]))
    assert items.batch(np.array(index))["tokens"].tolist() == items.tokens[index, :width].tolist()


def test_batch_has_the_modalities_that_are_present(make_items: Callable[..., Items]) -> None:
    pictures = np.array([[1.5, 2.0, 3.0, 4.0], [0.0] * 4])
    batch = make_items(np.array([[0, 0], [4, 0]]), pictures, np.array([True, False])).batch(slice(None))
    assert batch["present"].tolist() == [[False, True, False, False], [True, False, False, False]]
    assert "videos" not in batch
    assert torch.equal(batch["images"][:, 0], torch.from_numpy(pictures).float())
    assert batch["picture_mask"].tolist() == [[True], [False]]
    assert (batch["tokens"].dtype, batch["tokens"].tolist()) == (torch.int64, [[0], [4]])
    assert batch["regions"].tolist() == [[[1.5], [2.0], [3.0], [4.0]], [[0.0]] * 4]


def test_batch_has_the_clips_there_are(make_items: Callable[..., Items]) -> None:
    videos = np.array([None, np.array([[1, 2, 3]], np.uint8), None, np.array([[4, 5, 6]], np.uint8)], object)
    items = make_items(np.ones((4, 2)), videos=videos)
    batch = items.batch(np.array([3, 0, 1]))
    assert batch["present"][:, 2].tolist() == [True, False, True]
    assert batch["videos"].tolist() == [[[4, 5, 6]], [[1, 2, 3]]]


def test_batch_has_the_pictures_there_are(make_items: Callable[..., Items]) -> None:
    has_image = np.array([True, False, True])
    items = make_items(np.ones((3, 1)), np.ones((3, 4)), has_image, pictures=noise(has_image))
    pictures = items.batch(np.array([2, 1, 0]))["pictures"]
    assert pictures.dtype == torch.uint8
    assert np.array_equal(pictures, np.concatenate([items.pictures[2], items.pictures[0]]))
    assert "pictures" not in items.batch(np.array([1]))


@pytest.mark.parametrize("modality", MODALITIES)
def test_without_a_modality(make_items: Callable[..., Items], modality: str) -> None:
    clip = np.zeros((1, 3), np.uint8)
    videos = np.array([clip, None], object)
    videos[1] = clip
    pictures = noise(np.ones(2, bool))
    tokens = np.array([[4, 5], [6, 7]])
    items = make_items(tokens, np.ones((2, 4)), videos=videos, pictures=pictures, joint=np.ones((2, 3)))
    before = replace(items, tokens=items.tokens.copy(), images=items.images.copy(), videos=videos.copy())
    before = replace(before, pictures=pictures.copy(), joint=items.joint.copy())
    column = MODALITIES.index(modality)
    first_without, all_without = items.without(modality, np.array([True, False])), items.without(modality)
    assert first_without.present[:, column].tolist() == [False, True]
    assert all_without.present.tolist() == [[name != modality for name in MODALITIES]] * 2
    assert equal(first_without.take(np.array([1])), items.take(np.array([1])))
    assert all_without.images.any() == (modality != "image")
    assert all_without.joint.any() == (modality != "joint")
    assert ("pictures" in all_without.batch(slice(None))) == (modality != "image")
    assert equal(items, before), "the original does not change"
