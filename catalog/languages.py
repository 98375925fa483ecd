"""Language detection."""

from functools import cache
from typing import Any

MIN_PROBABILITY = 0.5  # it is lower for names, codes and very short texts


def detect_language(text: str) -> str | None:
    """Detect the language of a text: its ISO 639-1 code, or None if uncertain, as for most short titles."""
    code, probability = _identifier().classify(text)
    return str(code) if probability >= MIN_PROBABILITY else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # slow: loads the model

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
