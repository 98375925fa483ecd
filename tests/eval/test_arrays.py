import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vitrine_judge.arrays import equal_count_blocks, locate, to_text


@given(st.sets(st.integers(0, 30), min_size=1), st.lists(st.integers(0, 30)))
def test_locate(haystack: set[int], needles: list[int]) -> None:
    ordered = list(haystack)
    expected = [ordered.index(n) if n in haystack else -1 for n in needles]
    numbers, known = pa.array(needles, pa.int64()), pa.array(ordered)
    for ids in (numbers, numbers.cast(pa.string())):
        for known_ids in (known, known.cast(pa.string())):
            assert locate(ids, known_ids).tolist() == expected


def test_locate_from_either_side() -> None:
    needles = pa.array([7, 1, 7, 99])
    for haystack in (pa.array([1, 7]), pa.array([*range(100, 200), 7, 1])):
        places = [
            haystack.to_pylist().index(n) if n in haystack.to_pylist() else -1 for n in needles.to_pylist()
        ]
        assert locate(needles, haystack).tolist() == places


def test_a_long_id_does_not_widen_the_others() -> None:
    ids = pa.array([*map(str, range(20_000)), "é" * 10_000])
    text = to_text(ids)
    assert text.tolist() == ids.to_pylist()
    assert text.nbytes < 1e6


@given(st.lists(st.text("ab é\U0001f97e", min_size=1), min_size=1), st.integers(0, 3))
def test_text_of(ids: list[str], start: int) -> None:
    text = pa.array(ids).slice(start)
    converted = to_text(text)
    assert converted.dtype.kind == "U"
    assert converted.tolist() == ids[start:]


@pytest.mark.parametrize("counts", [[3, 3, 3], [1, 5, 2, 5, 1], [700], [1]])
def test_equal_rows(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitrine_judge.arrays.BLOCK", 6)
    positions = np.arange(sum(counts))
    blocks = [
        positions[cells].reshape(-1, count) for count, cells in equal_count_blocks(np.cumsum([0, *counts]))
    ]
    assert sorted(row.tolist() for block in blocks for row in block) == sorted(
        part.tolist() for part in np.split(positions, np.cumsum(counts)[:-1])
    )
