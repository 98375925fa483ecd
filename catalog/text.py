"""Text normalisation, for comparing texts."""


def normalise(text: str | None) -> str | None:
    """Fold case and collapse white space; None if the text is empty."""
    return " ".join((text or "").casefold().split()) or None
