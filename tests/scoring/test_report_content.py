import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from vitrine_judge.comparison import compare_with_others
from vitrine_judge.metrics import Scores
from vitrine_judge.rankings import Qrels, Run

from scoring.report_content import (
    CLIP_SIDE,
    animate_clip,
    build_report,
    read_attribute_values,
    read_frequencies,
    read_survey,
    select_top_products,
)

Tables = dict[str, list[dict[str, Any]]]
Write = Callable[[Tables], Path]
Png = Callable[..., bytes]


def test_a_clip_becomes_a_small_animated_picture(png: Png) -> None:
    row = {"video": [{"bytes": png(seed, 300, 200), "path": None} for seed in range(20)]}
    with Image.open(io.BytesIO(animate_clip(row) or b"")) as clip:
        assert clip.format == "WEBP" and getattr(clip, "n_frames", 0) == 7
        assert max(clip.size) == CLIP_SIDE
    assert animate_clip({"video": row["video"][:1]}) is None
    assert animate_clip({"video": None}) is None


def test_frequencies_are_those_of_the_queries_and_else_zero(tiny_tables: Tables, write_data: Write) -> None:
    tiny_tables["queries"][1]["frequency"] = 40
    data = write_data(tiny_tables)
    assert read_frequencies(data, np.array(["q0", "q1", "q5"])).tolist() == [0, 40, 0]


def test_attribute_values_are_parts_of_paths_and_in_lower_case(
    tiny_tables: Tables, write_data: Write
) -> None:
    tiny_tables["products"][0] |= {"brand": "Almera", "attributes": [("pattern", "Dotted")]}
    values = read_attribute_values(write_data(tiny_tables))
    assert values == {"almera", "dotted", "clothing", "shirt"}


def scores(*values: float) -> Scores:
    ids = np.array(["q4", "q5"])
    return Scores(ids, np.ones(2, bool), {"ndcg@10": np.array(values)})


def test_a_report_shows_examples_against_a_named_rival_and_frequent_queries(
    tiny_tables: Tables, write_data: Write
) -> None:
    tiny_tables["queries"][4]["frequency"] = 7
    data = write_data(tiny_tables)
    runs = {
        name: Run.from_dict({"q4": {"p8": 1.0, "p9": 0.5}, "q5": {"p1": 1.0}}) for name in ("fused", "bm25")
    }
    systems = {"fused": scores(1.0, 0.0), "bm25": scores(0.5, 0.25)}
    page = build_report(
        "title",
        data,
        "fused",
        ["bm25"],
        runs,
        systems,
        compare_with_others(systems, "fused", "ndcg@10"),
        Qrels.from_dict({"q4": {"p8": 3}, "q5": {"p9": 3}}),
        {"segment": np.array(["text", "image"])},
        "ndcg@10",
    )
    assert [example.query_id for example in page.won] == ["q4"]
    assert [example.query_id for example in page.lost] == ["q5"]
    assert {name: [result.title for result in shown] for name, shown in page.won[0].lists.items()} == {
        "fused": ["Gold shirt", "Navy shirt"],
        "bm25": ["Gold shirt", "Navy shirt"],
    }
    assert [result.grade for result in page.won[0].lists["fused"]] == [3, None]
    (frequent,) = page.frequent
    assert (frequent.text, frequent.frequency) == ("gold or navy shirt", 7)
    assert (frequent.subject, frequent.rival) == (1.0, 0.5)


def test_a_query_without_results_has_no_top_products() -> None:
    run = Run.from_dict({"q1": {"p1": 2.0, "p2": 1.0}, "q3": {"p1": 1.0}})
    assert select_top_products(run, "q1") == [("p1", 2.0), ("p2", 1.0)]
    assert (
        select_top_products(run, "q0")
        == select_top_products(run, "q2")
        == select_top_products(run, "q4")
        == []
    )


def test_a_data_set_without_a_survey(tiny_tables: Tables, write_data: Write) -> None:
    assert read_survey(write_data(tiny_tables)) is None
