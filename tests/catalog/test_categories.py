"""Category paths from what shops write."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from catalog.categories import BREADCRUMBS, join_levels, select_path, split_category


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("Home > Kitchen > Mugs", "Home/Kitchen/Mugs"),
        ("Home>Kitchen", "Home/Kitchen"),
        ("Home » Kitchen", "Home/Kitchen"),
        ("Home | Kitchen", "Home/Kitchen"),
        ("Home › Kitchen → Dining", "Home/Kitchen → Dining"),
        ("home/kitchen", "home/kitchen"),
        ("/Home/Kitchen/", "Home/Kitchen"),
        ("Home > Kitchen/Dining", "Home/Kitchen-Dining"),
        ("Home > Kitchen / Dining", "Home/Kitchen-Dining"),
        ("Home > > Mugs >", "Home/Mugs"),
        ("Sale | Home > Mugs | Gifts > Mugs", "Home/Mugs"),
        ("Mugs", "Mugs"),
        (" > ", None),
        ("", None),
    ],
)
def test_a_breadcrumb_is_a_path(text: str, path: str | None) -> None:
    assert join_levels(split_category(text)) == path


@given(st.lists(st.text("abc d/", min_size=1), min_size=2), st.sampled_from(BREADCRUMBS))
def test_a_path_has_a_level_for_each_name(names: list[str], mark: str) -> None:
    names = [name for name in names if name.strip(" /")]
    assume(len(names) > 1)  # a single name with "/" is a path already
    path = join_levels(split_category(mark.join(names)))
    assert (path or "").count("/") + 1 == len(names)
    assert path is None or join_levels(split_category(path)) == path


def test_the_deepest_category_counts_and_the_first_of_equals() -> None:
    assert select_path([["Sale"], ["Home", "Mugs"], ["Gifts", "Mugs"], ["Home", " "]]) == ["Home", "Mugs"]
    assert select_path([]) == []
