"""The log of the service as a log of clicks: what customers saw and clicked, whatever the files."""

from collections import Counter
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from request_logs import event, search, write_log

from catalog.__main__ import main
from catalog.logs import Impression, read_log
from catalog.request_log import EVENTS, SEARCHES
from catalog.schema import DataError
from catalog.store import TableWriter, read_table


@settings(max_examples=15)
@given(st.data())
def test_events_join_whatever_the_order_and_the_files(data: st.DataObject) -> None:
    products = st.lists(st.sampled_from("abcdef"), max_size=5, unique=True)
    shown = data.draw(st.lists(st.tuples(st.sampled_from(["Red", "blue"]), products), min_size=1, max_size=8))
    hours = st.floats(0, 30)
    searches = [search(f"r{n}", text, results, data.draw(hours)) for n, (text, results) in enumerate(shown)]
    clicks = data.draw(
        st.lists(st.tuples(st.integers(0, len(shown)), st.sampled_from("abcdef")), max_size=10)
    )
    events = [event(f"r{n}", product, hours=data.draw(hours)) for n, product in clicks]
    address = f"memory://{uuid4().hex}"
    for table, rows in ((SEARCHES, searches), (EVENTS, events)):
        shuffled = data.draw(st.permutations(rows))
        files = data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
        write_log(address, table, shuffled, files)
    expected = Counter(
        Impression(text.lower(), product, position, (n, product) in set(clicks))
        for n, (text, results) in enumerate(shown)
        for position, product in enumerate(results)
    )
    assert read_log(address) == expected


def test_only_what_was_seen_and_asked_by_text_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shadow = search("", "", ["c"])["results"]
    rows = [
        search("r1", "Red  Shoe", ["a", "b"], shadow_results=shadow),
        search("r2", "red shoe", ["a"], has_picture=True),
        search("r3", None, ["a"], withheld="e-mail addresses"),
        search("r4", None, ["a"], has_picture=True),
        {**search("r5", "red shoe", []), "results": None, "status": 503},
    ]
    write_log(str(tmp_path), SEARCHES, rows)
    write_log(str(tmp_path), EVENTS, [event("r1", "b", "cart"), event("r1", "c"), event("r2", "a")])
    expected = [Impression("red shoe", "a", 0, False), Impression("red shoe", "b", 1, True)]
    assert read_log(tmp_path) == Counter(expected)
    assert "skipped 1 of 5 searches, whose texts are withheld (e-mail addresses)" in capsys.readouterr().err
    with pytest.raises(DataError, match="a request log has known columns; remove --map and --personal"):
        read_log(tmp_path, mappings=["query=text"])


def test_a_log_without_texts_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no searches in it"):
        read_log(tmp_path)
    write_log(str(tmp_path), SEARCHES, [search("r1", None, ["a"], withheld="log.queries")])
    with pytest.raises(
        DataError, match=r"the texts of all 1 searches are withheld \(log.queries\), so no query"
    ):
        read_log(tmp_path)


def test_the_command_makes_judgements_that_are_not_those_of_positions(tmp_path: Path) -> None:
    """Of two products that customers like equally, the lower one has fewer clicks but the same grade."""
    data, log = tmp_path / "data", str(tmp_path / "log")
    for table in ("products", "queries", "judgements"):
        with TableWriter(data, table) as writer:
            for product in "abcd" if table == "products" else "":
                writer.write({"product_id": product, "title": f"title {product}"})
    rng = np.random.default_rng(0)
    likes = {"a": 0.6, "b": 0.6, "c": 0.2, "d": 0.01}
    searches, events = [], []
    for number in range(6000):
        order = "abcd" if number % 4 else "".join(rng.permutation(list("abcd")))
        request, text = f"r{number}", f"query {number % 12}"
        searches.append(search(request, text, list(order), number % 24))
        for position, product in enumerate(order):
            if rng.random() < likes[product] / (1 + position):
                events.append(event(request, product, hours=number % 24 + 0.5))
    write_log(log, SEARCHES, searches)
    write_log(log, EVENTS, events)
    assert main(["queries", str(data), "--clicks", log, "--out", str(tmp_path / "out")]) == 0
    grades: dict[str, set[int]] = {}
    for row in read_table(tmp_path / "out", "judgements").to_pylist():
        grades.setdefault(row["product_id"], set()).add(row["grade"])
    assert grades["a"] == grades["b"] == {3} and max(grades["c"]) < 3 and grades["d"] == {0}
    queries = read_table(tmp_path / "out", "queries").to_pylist()
    assert {(row["judged_by"], row["frequency"]) for row in queries} == {("implicit", 500)}
