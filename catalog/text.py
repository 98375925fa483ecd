"""When two texts are the same text."""


def normalise(text: str | None) -> str | None:
    """Case folded, white space collapsed; null where nothing is left."""
    return " ".join((text or "").casefold().split()) or None
