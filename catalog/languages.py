"""Which language a text is in."""

from functools import cache
from typing import Any

SURE = 0.5  # probability; of names, codes and a word or two it is lower


def language(text: str) -> str | None:
    """Its ISO 639-1 code; None where that is uncertain, as of most titles that are little more than a name."""
    code, probability = _identifier().classify(text)
    return str(code) if probability >= SURE else None


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier  # a second, and memory, for its model

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
