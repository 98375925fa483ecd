"""Category paths: levels joined by "/", whatever a source separates them with."""

import re
from collections.abc import Iterable, Sequence

# Between levels, in order of precedence. What comes later in this list belongs to a name.
BREADCRUMBS = (">", "»", "›", "→", "|")


def join_levels(levels: Iterable[str]) -> str | None:
    """Join the names of levels to a path, the top level first; None if there is none.

    A "/" inside a name must not make a level: it becomes "-".
    """
    names = (level.strip().strip("/").strip() for level in levels)
    return "/".join(re.sub(r"\s*/+\s*", "-", name) if "/" in name else name for name in names if name) or None


def split_category(text: str) -> list[str]:
    """Split a category as shops write it: "Home > Kitchen > Mugs", "Home » Kitchen", "Home | Kitchen", "Home/Kitchen".

    A text with none of `BREADCRUMBS` is a path already. With "|" beside another separator, as in "Home > Mugs | Sale >
    Mugs", there are several categories: see `select_path`.

    Returns:
        The names of the levels, the top level first.
    """
    mark = next((mark for mark in BREADCRUMBS if mark in text), "/")
    paths = text.split("|") if mark in BREADCRUMBS[:-1] else [text]
    return select_path(path.split(mark) for path in paths)


def select_path(paths: Iterable[Sequence[str]]) -> list[str]:
    """Select one of a product's categories: the deepest path, and the first of equally deep ones.

    Args:
        paths: The names of the levels of each category.

    Returns:
        The names of its levels that are not blank.
    """
    levels = [[name for name in path if name.strip()] for path in paths]
    return next(iter(sorted(levels, key=len, reverse=True)), [])
