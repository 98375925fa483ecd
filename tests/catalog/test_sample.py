import re
import subprocess
import sys
from collections import defaultdict
from math import gcd
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.__main__ import main
from catalog.images import decode, pixel_hash
from catalog.sample import write_sample
from catalog.sample.language import NAMES, join_phrase, misspell
from catalog.sample.listings import CODE_COUNT, LOOKS, OPENINGS, STRIDE, TITLES, make_listing, model_code
from catalog.sample.motions import FRAMES
from catalog.sample.queries import (
    ABSENT,
    MAX_JUDGED,
    PHRASES,
    PINS,
    SLOTS,
    Query,
    draw_judgements,
    draw_queries,
)
from catalog.sample.truth import (
    BRAND,
    CHUNK_PRODUCTS,
    COLOUR,
    EMBLEM,
    KIND,
    LABEL,
    LABEL_PAIRS,
    LABEL_SHARE,
    MATERIAL,
    MOTION,
    NO_EMBLEM,
    NO_LABEL,
    PATTERN,
    STILL,
    assign_splits,
    draw_labelled_pairs,
    draw_truth,
    draw_truths,
    grade_products,
)
from catalog.sample.words import (
    BRANDS,
    CARE,
    COLOURS,
    EMBLEMS,
    LABELS,
    LINES,
    MATERIALS,
    MOTIONS,
    PATTERNS,
    SIZES,
    TYPES,
)
from catalog.schema import COMPLEMENT, EXACT, IRRELEVANT, SUBSTITUTE, DataError, list_pictures, product_text
from catalog.store import fingerprint, read_table
from catalog.text import normalise

PRODUCTS = CHUNK_PRODUCTS + 900  # more than one chunk
SLOT = re.compile(r"{\w+}")


@pytest.fixture(scope="module")
def queries() -> list[Query]:
    return list(draw_queries(seed=5, products=PRODUCTS, count=200))


@pytest.fixture(scope="module")
def grades_by_query(queries: list[Query]) -> dict[int, dict[int, int]]:
    """By number of the query: index of the product → grade."""
    grades: dict[int, dict[int, int]] = defaultdict(dict)
    for number, index, grade in draw_judgements(5, PRODUCTS, [query.need for query in queries]):
        grades[number][index] = grade
    return grades


# Vocabulary.


def test_a_word_means_one_thing() -> None:
    words = [word for names in NAMES.values() for words in names for word in {w.casefold() for w in words}]
    assert len(words) == len(set(words))


def test_sentences_give_no_attribute_away() -> None:
    hidden = {word.casefold() for attribute, names in NAMES.items() for words in names for word in words}
    sentences = [
        *LINES,
        *(s for kind in TYPES for s in kind.features),
        *(s for care in CARE.values() for s in care),
        *(f"{measure} {' '.join(sizes)}" for measure, sizes in SIZES.values()),
        *(" ".join(pieces) for pieces in (*TITLES, *OPENINGS, LOOKS)),
        *(" ".join(pieces) for phrases in PHRASES.values() for pieces in phrases),
    ]
    for sentence in sentences:
        words = "".join(sign if sign.isalnum() else " " for sign in SLOT.sub("", sentence).casefold()).split()
        assert not {word for word in hidden if f" {word} " in f" {' '.join(words)} "}, sentence


def test_every_phrase_of_a_segment_can_say_all_that_its_queries_pin() -> None:
    pinnable = {segment: {column for pinned in pins for column in pinned} for segment, pins in PINS.items()}
    for segment, phrases in PHRASES.items():
        expected_values = pinnable[segment] | {COLOUR} | ({KIND} if segment != "composed" else set())
        for pieces in phrases:
            assert sorted(SLOTS[slot[1:-1]] for slot in SLOT.findall(" ".join(pieces))) == sorted(
                expected_values
            )


def test_every_type_is_complete() -> None:
    names = {kind.name for kind in TYPES}
    assert len(names) == len(TYPES) >= 16
    assert len({kind.department for kind in TYPES}) >= 5
    for kind in TYPES:
        assert kind.complement in names - {kind.name}
        assert kind.department in SIZES
        assert kind.department in CARE
        assert 3 <= len(kind.materials) <= 4


# Truth.


def test_truths_fit_the_vocabulary() -> None:
    drawn = draw_truths(1, 0)
    counts = (
        len(TYPES),
        len(COLOURS),
        len(PATTERNS),
        len(BRANDS),
        len(MATERIALS),
        len(MOTIONS),
        len(EMBLEMS),
        len(LABELS),
    )
    assert drawn.min(axis=0).tolist() == [0, 0, 0, 0, 0, STILL, NO_EMBLEM, NO_LABEL]
    assert (drawn.max(axis=0) == np.array(counts) - 1).all()
    for kind, material in drawn[:500, [KIND, MATERIAL]]:
        assert MATERIALS[material] in TYPES[kind].materials


def test_a_quarter_moves_each_way_as_often_whatever_the_product() -> None:
    drawn = np.concatenate([draw_truths(1, chunk) for chunk in range(4)])
    clipped = drawn[:, MOTION] != STILL
    assert clipped.mean() == pytest.approx(0.25, abs=0.02)
    assert np.bincount(drawn[clipped, MOTION]) / clipped.sum() == pytest.approx(0.25, abs=0.03)
    for column in (KIND, COLOUR, PATTERN, BRAND):
        values = np.unique(drawn[:, column])
        assert np.array([clipped[drawn[:, column] == value].mean() for value in values]) == pytest.approx(
            0.25, abs=0.06
        )


def test_truth_of_one_is_that_of_its_chunk() -> None:
    assert (draw_truth(1, CHUNK_PRODUCTS + 7) == draw_truths(1, 1)[7]).all()
    assert (draw_truths(1, 0) != draw_truths(2, 0)).any()


# Queries and judgements.


def expected(candidate: np.ndarray, query: Query) -> int:
    """The grade, computed for one product."""
    expected_values, pinned = query.need
    wrong = sum(candidate[column] != expected_values[column] for column in pinned if column != KIND)
    if candidate[KIND] == expected_values[KIND] and wrong <= 1:
        return (EXACT, SUBSTITUTE)[wrong]
    partner = TYPES[expected_values[KIND]].complement
    if TYPES[candidate[KIND]].name == partner and candidate[COLOUR] == expected_values[COLOUR]:
        return COMPLEMENT
    return IRRELEVANT


def test_grades_are_as_defined_and_all_exact_matches_judged(
    queries: list[Query], grades_by_query: dict[int, dict[int, int]]
) -> None:
    catalogue = [draw_truth(5, index) for index in range(PRODUCTS)]
    for number in range(0, len(queries), 9):
        want = {index: expected(product, queries[number]) for index, product in enumerate(catalogue)}
        got = grades_by_query[number]
        assert all(want[index] == grade for index, grade in got.items())
        for grade, most in MAX_JUDGED.items():
            available = sum(g == grade for g in want.values())
            assert sum(g == grade for g in got.values()) == min(available, most)
        assert EXACT in got.values()


def test_half_of_the_irrelevant_look_alike(
    queries: list[Query], grades_by_query: dict[int, dict[int, int]]
) -> None:
    for number, query in enumerate(queries):
        zeros = [
            draw_truth(5, index) for index, grade in grades_by_query[number].items() if grade == IRRELEVANT
        ]
        same = sum(z[KIND] == query.need.truth[KIND] or z[COLOUR] == query.need.truth[COLOUR] for z in zeros)
        assert same >= MAX_JUDGED[IRRELEVANT] // 2


def test_exact_matches_are_capped_evenly() -> None:
    query = next(
        query for query in draw_queries(5, 400 * CHUNK_PRODUCTS, 20) if query.row["segment"] == "image"
    )
    exact = [
        index for _, index, grade in draw_judgements(5, 30 * CHUNK_PRODUCTS, [query.need]) if grade == EXACT
    ]
    assert len(exact) == MAX_JUDGED[EXACT]
    assert 0.3 < np.mean(exact) / (30 * CHUNK_PRODUCTS) < 0.7  # from all over the catalogue


def test_splits_share_no_exact_match_and_no_text(
    queries: list[Query], grades_by_query: dict[int, dict[int, int]]
) -> None:
    matches: dict[int, set[str]] = defaultdict(set)
    texts: dict[str, set[str]] = defaultdict(set)
    for number, query in enumerate(queries):
        for index, grade in grades_by_query[number].items():
            if grade == EXACT:
                matches[index].add(query.row["split"])
        if text := normalise(query.row["text"]):
            texts[text].add(query.row["query_id"])
    assert all(len(values) == 1 for values in (*matches.values(), *texts.values()))
    assert {query.row["split"] for query in queries} == {"train", "valid", "test"}


@pytest.mark.parametrize("seed", range(5))
def test_every_type_and_colour_is_seen_in_training(seed: int) -> None:
    train = assign_splits(seed) == "train"
    assert train.sum(axis=1).min() >= 5
    assert train.sum(axis=0).min() >= 5
    assert train.mean() == pytest.approx(0.55)
    assert (assign_splits(seed) == "test").mean() == pytest.approx(0.3)


def test_queries_pin_type_and_colour_and_say_so(queries: list[Query]) -> None:
    complete = 0
    for row, need in queries:
        assert need.pinned[:2] == (KIND, COLOUR)
        assert (row["text"] is None) == (row["segment"] == "image")
        assert (row["image"] is None) == (row["segment"] in ("text", "video", "gallery", "label"))
        if row["text"]:
            spoken = [column for column in need.pinned if row["segment"] != "composed" or column != KIND]
            names = [NAMES[column][need.truth[column]] for column in spoken]
            complete += all(any(word.casefold() in row["text"] for word in words) for words in names)
    assert complete >= 0.9 * sum(row["text"] is not None for row, _ in queries)  # the others are misspelled


def test_most_queries_need_what_only_the_text_tells(queries: list[Query]) -> None:
    read_only = [
        bool({BRAND, MATERIAL} & set(need.pinned))
        for row, need in queries
        if row["segment"] in ("text", "composed")
    ]
    assert np.mean(read_only) > 0.7
    exact = [need.pinned for row, need in queries if row["segment"] == "text"]
    assert all(set(pinned) & {BRAND, MATERIAL, PATTERN} for pinned in exact)


@pytest.mark.parametrize(
    ("segment", "rows", "column", "count"),
    [("video", range(144, 172), MOTION, len(MOTIONS)), ("gallery", range(172, 200), EMBLEM, len(EMBLEMS))],
)
def test_the_last_two_sevenths_ask_for_motions_and_emblems_that_can_be_seen(
    queries: list[Query], segment: str, rows: range, column: int, count: int
) -> None:
    assert {query.row["segment"] for query in queries[:144]} == {"text", "image", "composed"}
    assert {queries[row].row["segment"] for row in rows} == {segment}
    assert {int(queries[row].need.truth[column]) for row in rows} == set(range(count))
    for number, (_, need) in enumerate(queries):
        assert (need.pinned == (KIND, COLOUR, column)) == (column in need.pinned) == (number in rows)


@pytest.mark.parametrize("seed", range(3))
def test_some_products_of_a_type_and_colour_have_labels_that_differ(seed: int) -> None:
    truths = np.concatenate([draw_truths(seed, chunk) for chunk in range(4)])
    pairs, splits = draw_labelled_pairs(seed), assign_splits(seed)
    assert {split: (pairs & (splits == split)).sum() for split in LABEL_PAIRS} == LABEL_PAIRS
    may_have = pairs[truths[:, KIND], truths[:, COLOUR]]
    is_labelled = truths[:, LABEL] != NO_LABEL
    assert not is_labelled[~may_have].any()
    assert is_labelled[may_have].mean() == pytest.approx(LABEL_SHARE, abs=0.06)
    shares = np.bincount(truths[is_labelled, LABEL], minlength=len(LABELS)) / is_labelled.sum()
    assert 0.5 / len(LABELS) < shares.min() and shares.max() < 2 / len(LABELS)
    for column in (PATTERN, BRAND, MOTION, EMBLEM):
        for value in np.unique(truths[may_have, column]):
            share = is_labelled[may_have & (truths[:, column] == value)].mean()
            assert share == pytest.approx(LABEL_SHARE, abs=0.15)


def test_queries_for_labels_come_after_the_others(
    queries: list[Query], grades_by_query: dict[int, dict[int, int]]
) -> None:
    catalogue = np.concatenate([draw_truths(5, chunk) for chunk in (0, 1)])[:PRODUCTS]
    label_queries, exact, labelled = queries[200:], [], []
    assert len(label_queries) == 200 // 8
    assert [query.row["query_id"] for query in label_queries] == [
        f"q{number:06d}" for number in range(200, 225)
    ]
    for number, query in enumerate(label_queries, start=200):
        assert query.row["segment"] == "label"
        assert query.need.pinned == (KIND, COLOUR, LABEL) and query.need.truth[LABEL] != NO_LABEL
        pair = (catalogue[:, [KIND, COLOUR]] == query.need.truth[[KIND, COLOUR]]).all(axis=1)
        labelled.append((catalogue[pair, LABEL] != NO_LABEL).sum())
        exact.append(list(grades_by_query[number].values()).count(EXACT))
    assert min(exact) > 0 and np.mean(exact) < 2 and np.mean(labelled) > 5, "it must be read"
    answers = {tuple(query.need.truth[[KIND, COLOUR, LABEL]].tolist()) for query in label_queries}
    assert len(answers) == len(label_queries)
    assert not any(LABEL in query.need.pinned for query in queries[:200])


def test_what_still_products_are_worth_to_a_video_query(queries: list[Query]) -> None:
    need = queries[171].need
    still, other, blue, both = (need.truth.copy() for _ in range(4))
    still[MOTION] = both[MOTION] = STILL
    other[MOTION] = (need.truth[MOTION] + 1) % len(MOTIONS)
    blue[COLOUR] = both[COLOUR] = (need.truth[COLOUR] + 1) % len(COLOURS)
    candidates = np.array([need.truth, still, other, blue, both])
    assert grade_products(candidates, need).tolist() == [
        EXACT,
        SUBSTITUTE,
        SUBSTITUTE,
        SUBSTITUTE,
        IRRELEVANT,
    ]


def test_other_queries_are_the_same_however_many_ask_for_motions(queries: list[Query]) -> None:
    for query, other in zip(queries[:42], draw_queries(seed=5, products=PRODUCTS, count=60), strict=False):
        assert query.row == other.row


@pytest.mark.parametrize("read", [{KIND, BRAND, MATERIAL}, {KIND, COLOUR, PATTERN}], ids=["text", "picture"])
def test_one_modality_alone_is_not_enough(read: set[int], queries: list[Query]) -> None:
    products, precision = draw_truths(5, 0), []
    for row, need in queries:
        if row["segment"] != "image":
            equal = products[:, need.pinned] == need.truth[list(need.pinned)]
            matches = equal[:, [column in read for column in need.pinned]].all(axis=1)
            precision.append(equal.all(axis=1).sum() / matches.sum())
    assert np.mean(precision) < 0.5  # even where all that it shows is understood


def test_too_many_queries_for_the_catalogue_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.sample.queries.MAX_ATTEMPTS", 3)
    with pytest.raises(DataError, match=r"use fewer queries \(--queries\)"):
        list(draw_queries(seed=0, products=1, count=2000))


@pytest.mark.parametrize(("segment", "column", "number"), [("video", MOTION, 6), ("gallery", EMBLEM, 7)])
def test_queries_ask_for_products_that_show_the_motion_or_the_emblem(
    segment: str, column: int, number: int
) -> None:
    def lacks_only(truth: np.ndarray) -> bool:
        return [truth[other] == value for other, value in ABSENT.items()] == [
            other == column for other in ABSENT
        ]

    seed = next(seed for seed in range(99) if lacks_only(draw_truth(seed, 0)))
    assert len(list(draw_queries(seed, products=1, count=6))) == 6
    message = rf"cannot draw a new {segment} query as number {number} of 7; .*\(--products\)"
    with pytest.raises(DataError, match=message):
        list(draw_queries(seed, products=1, count=7))


# Products.


def test_codes_are_unique() -> None:
    assert gcd(STRIDE, CODE_COUNT) == 1
    assert len({model_code(index) for index in range(30_000)}) == 30_000


def test_products_differ_in_title_and_pixels(drawn: Path) -> None:
    products = read_table(drawn, "products").to_pylist()
    assert [p["product_id"] for p in products] == [f"p{index:08d}" for index in range(300)]
    assert len({normalise(p["title"]) for p in products}) == 300
    rows = [*products, *read_table(drawn, "queries", ["image"]).to_pylist()]
    hashes = [pixel_hash(decode(picture["bytes"])) for row in rows for picture in list_pictures(row)]
    assert len(hashes) == len(set(hashes)) > 300


def test_text_tells_brand_and_material_but_seldom_colour_and_pattern(drawn: Path) -> None:
    mentions = {column: [] for column in (KIND, COLOUR, PATTERN, BRAND, MATERIAL)}
    for index, product in enumerate(read_table(drawn, "products").to_pylist()):
        text = f" {product_text(product)} ".casefold()
        for column, shares in mentions.items():
            words = NAMES[column][draw_truth(3, index)[column]]
            shares.append(any(word.casefold() in text for word in words))
        others = {word for words in NAMES[COLOUR] for word in words} - set(
            NAMES[COLOUR][draw_truth(3, index)[COLOUR]]
        )
        assert not any(f" {word} " in text for word in others - {"blue"} - {"green"})
        if product["color"] is None:
            assert not any(f" {word} " in text for word in NAMES[COLOUR][draw_truth(3, index)[COLOUR]])
    share = {column: np.mean(shares) for column, shares in mentions.items()}
    assert share[KIND] > 0.95
    assert share[BRAND] > 0.95
    assert share[MATERIAL] > 0.95
    assert 0.15 < share[COLOUR] < 0.35
    assert 0.05 < share[PATTERN] < 0.25


def test_those_that_move_have_a_clip_and_no_others(drawn: Path) -> None:
    products = read_table(drawn, "products").to_pylist()
    for index, product in enumerate(products):
        if draw_truth(3, index)[MOTION] == STILL:
            assert product["video"] is None
        else:
            frames = product["video"]
            assert [frame["path"] for frame in frames] == [f"p{index:08d}-{n}.webp" for n in range(FRAMES)]
            assert len({frame["bytes"] for frame in frames}) == FRAMES
    assert sum(product["video"] is not None for product in products) > 50


@pytest.mark.parametrize("motion", [STILL, *range(len(MOTIONS))])
def test_the_clip_alone_tells_the_motion(motion: int, monkeypatch: pytest.MonkeyPatch) -> None:
    moving = [index for index in range(60) if draw_truth(3, index)[MOTION] not in (STILL, motion)]
    before = [make_listing(3, index) for index in moving]

    def moves(seed: int, index: int) -> np.ndarray:
        truth = draw_truth(seed, index).copy()
        truth[MOTION] = motion
        return truth

    monkeypatch.setattr("catalog.sample.listings.draw_truth", moves)
    for index, listing in zip(moving, before, strict=True):
        other = make_listing(3, index)
        assert [name for name in listing if listing[name] != other[name]] == ["video"]


def test_no_text_but_that_of_video_queries_speaks_of_motion(drawn: Path) -> None:
    words = [word for names in MOTIONS for word in names]
    for product in read_table(drawn, "products").to_pylist():
        del product["images"], product["video"]
        assert not any(word in str(product).casefold() for word in words)
    for query in read_table(drawn, "queries", ["text", "segment"]).to_pylist():
        if query["segment"] != "video":
            assert not any(word in (query["text"] or "") for word in words)


def test_some_things_are_missing(drawn: Path) -> None:
    products = read_table(drawn, "products")
    missing = {name: products[name].null_count / products.num_rows for name in products.column_names}
    assert 0 < missing["images"] < 0.06
    assert 0 < missing["description"] < 0.06
    assert 0.08 < missing["category"] < 0.25
    assert 0.6 < missing["color"] < 0.85


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalog.sample.TASK_PRODUCTS", 7)
    for name, seed, workers in (("one", 1, 1), ("two", 1, 2), ("other", 2, 1)):
        write_sample(tmp_path / name, products=60, seed=seed, queries=10, workers=workers)
    prints = {name: fingerprint(tmp_path / name) for name in ("one", "two", "other")}
    assert prints["one"] == prints["two"] != prints["other"]


def test_those_with_an_emblem_have_a_second_picture_that_alone_shows_it(
    drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [len(row["images"]) for row in read_table(drawn, "products").to_pylist() if row["images"]]
    assert 0.25 < np.mean([count == 2 for count in pictures]) < 0.45
    index = next(index for index in range(60) if draw_truth(3, index)[EMBLEM] not in (NO_EMBLEM, 0))
    before = make_listing(3, index)

    def star(seed: int, index: int) -> np.ndarray:
        truth = draw_truth(seed, index).copy()
        truth[EMBLEM] = 0
        return truth

    monkeypatch.setattr("catalog.sample.listings.draw_truth", star)
    after = make_listing(3, index)
    assert [name for name in before if before[name] != after[name]] == ["images"]
    assert before["images"][0] == after["images"][0]


def test_no_text_but_that_of_gallery_queries_speaks_of_emblems(drawn: Path) -> None:
    words = [word for names in EMBLEMS for word in names]
    for product in read_table(drawn, "products").to_pylist():
        assert not any(word in product_text(product).casefold() for word in words)
    for query in read_table(drawn, "queries", ["text", "segment"]).to_pylist():
        if query["segment"] != "gallery":
            assert not any(word in (query["text"] or "") for word in words)


def test_the_label_alone_changes_the_main_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    index = next(i for i in range(999) if (draw_truth(3, i)[[EMBLEM, LABEL]] > (NO_EMBLEM, 0)).all())
    before = make_listing(3, index)
    for label in (NO_LABEL, 0):

        def prints(seed: int, index: int, label: int = label) -> np.ndarray:
            truth = draw_truth(seed, index).copy()
            truth[LABEL] = label
            return truth

        monkeypatch.setattr("catalog.sample.listings.draw_truth", prints)
        after = make_listing(3, index)
        assert [name for name in before if before[name] != after[name]] == ["images"]
        assert before["images"][0]["bytes"] != after["images"][0]["bytes"]
        assert before["images"][1:] == after["images"][1:]


def test_no_text_but_that_of_label_queries_speaks_of_labels(drawn: Path) -> None:
    words = [word.casefold() for word in LABELS]
    for product in read_table(drawn, "products").to_pylist():
        del product["images"], product["video"]
        assert not any(word in str(product).casefold() for word in words)
    queries = read_table(drawn, "queries", ["text", "segment"]).to_pylist()
    assert any(query["segment"] == "label" for query in queries)
    for query in queries:
        if query["segment"] != "label":
            assert not any(word in (query["text"] or "") for word in words)


def test_the_committed_sample_is_still_what_its_seed_draws() -> None:
    texts = [query.row["text"] for query in draw_queries(seed=7, products=4000, count=840)]
    assert len(texts) == 938
    assert [*texts[:3], *texts[840:842]] == [
        "snow purse made of canvas",
        "tessolo midnight blue backpack",
        "steel ceiling light in dark blue",
        "rosilu aqua suitcase",
        "pluska rose standing lamp",
    ]
    drawn = [make_listing(7, index) for index in (0, 1, 3999)]
    assert [(row["title"], row["price"]) for row in drawn] == [
        ("Tessolo Isla A0A0A0 uplighter", 156.95),
        ("Ossaby teapot Sol V2H9H5", 43.95),
        ("Sol X3X3K6 denim", 63.95),
    ]


@pytest.mark.parametrize(
    ("products", "queries", "seed"), [(0, 1, 0), (CODE_COUNT + 1, 1, 0), (1, 0, 0), (1, 1, -1)]
)
def test_impossible_numbers_are_refused(tmp_path: Path, products: int, queries: int, seed: int) -> None:
    with pytest.raises(DataError, match="give"):
        write_sample(tmp_path / "out", products, seed, queries)
    assert not (tmp_path / "out").exists()


# Language.


@given(st.text("abcdefgh 0123", max_size=40), st.integers(0, 2**32))
def test_misspelling_touches_one_word_without_digits(text: str, seed: int) -> None:
    before, after = text.split(" "), misspell(text, np.random.default_rng(seed)).split(" ")
    assert len(before) == len(after)
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) <= 1
    for a, b in changed:
        assert a.isalpha()
        assert len(a) >= 5
        assert abs(len(a) - len(b)) <= 1
        assert (a[0], a[-1]) == (b[0], b[-1])


def test_phrase_leaves_out_what_is_not_given() -> None:
    assert join_phrase(("{colour}", "mug", "by {brand}"), {"colour": "red"}) == "red mug"


# The command line.


def test_command_line_draws_a_catalogue(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "catalog",
        "sample",
        "--products",
        "30",
        "--queries",
        "5",
        "--seed",
        "1",
        "--out",
    ]
    done = subprocess.run([*command, str(tmp_path / "data")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert read_table(tmp_path / "data", "products").num_rows == 30


def test_a_folder_in_use_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("dear")
    assert main(["sample", "--products", "3", "--seed", "1", "--out", str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err == f"vitrine: {tmp_path}: already exists; remove it or give another --out\n"
    )
    assert (tmp_path / "mine").read_text() == "dear"


def test_errors_are_one_line(tmp_path: Path, drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", str(tmp_path / "nowhere")]) == 1
    sheet = tmp_path / "nowhere" / "sheet.png"
    assert main(["describe", str(drawn), "--sheet", str(sheet)]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"vitrine: {tmp_path / 'nowhere' / 'products'}: no parquet files")
    assert lines[1] == f"vitrine: {sheet}: No such file or directory"


def test_an_interrupt_ends_with_130_and_nothing_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("catalog.sample.draw_judgements", interrupted)
    command = ["sample", "--products", "3", "--queries", "2", "--seed", "1", "--out", str(tmp_path / "out")]
    assert main(command) == 130
    assert capsys.readouterr().err == "vitrine: interrupted; run the same command again to continue\n"
    assert not (tmp_path / "out").exists()
