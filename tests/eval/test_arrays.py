import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.arrays import equal_rows, locate, text_of


@given(st.sets(st.integers(0, 30), min_size=1), st.lists(st.integers(0, 30)))
def test_locate(haystack: set[int], needles: list[int]) -> None:
    ordered = list(haystack)
    expected = [ordered.index(n) if n in haystack else -1 for n in needles]
    numbers, known = pa.array(needles, pa.int64()), pa.array(ordered)
    for these in (numbers, numbers.cast(pa.string())):
        for those in (known, known.cast(pa.string())):
            assert locate(these, those).tolist() == expected


@given(st.lists(st.text("ab é\U0001f97e", min_size=1), min_size=1), st.integers(0, 3))
def test_text_of(ids: list[str], start: int) -> None:
    text = pa.array(ids).slice(start)
    found = text_of(text)
    assert found.dtype.kind == "U"
    assert found.tolist() == ids[start:]


@pytest.mark.parametrize("counts", [[3, 3, 3], [1, 5, 2, 5, 1], [700], [1]])
def test_equal_rows(counts: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.arrays.BLOCK", 6)
    every = np.arange(sum(counts))
    found = [every[cells].reshape(-1, count) for count, cells in equal_rows(np.cumsum([0, *counts]))]
    assert sorted(row.tolist() for block in found for row in block) == sorted(
        part.tolist() for part in np.split(every, np.cumsum(counts)[:-1])
    )
