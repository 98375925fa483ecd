"""Words and their token ids."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

import numpy as np

PAD, UNKNOWN = 0, 1
_WORD = re.compile(r"[^\W_]+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, case folded."""
    return _WORD.findall(text.casefold())


class Vocabulary:
    """Words and their ids: 0 is padding, 1 any unknown word, the rest by falling frequency.

    A published encoder has its own vocabulary, see `SubwordVocabulary`.

    Args:
        known_words: Words in order of id, from 2 on.
    """

    def __init__(self, known_words: list[str]) -> None:
        self.known_words = known_words
        self.ids = {word: i for i, word in enumerate(known_words, start=2)}

    def __len__(self) -> int:
        return len(self.known_words) + 2

    @classmethod
    def build(cls, texts: Iterable[str], size: int, min_count: int) -> Self:
        """The `size` most frequent words that occur at least `min_count` times; ties in alphabetical order."""
        counts = Counter(word for text in texts for word in words(text))
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return cls([word for word, count in ranked[:size] if count >= min_count])

    def split(self, text: str) -> list[str]:
        """The words of a text, one for each token."""
        return words(text)

    def encode(self, texts: Iterable[str], length: int) -> np.ndarray:
        """Token ids of each text, cut or padded to `length`.

        Returns:
            int32 array of shape (texts, length); a row of zeros is a text without words.
        """
        rows = [[self.ids.get(word, UNKNOWN) for word in self.split(text)[:length]] for text in texts]
        encoded = np.full((len(rows), length), PAD, np.int32)
        for row, tokens in zip(encoded, rows, strict=True):
            row[: len(tokens)] = tokens
        return encoded

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.known_words, ensure_ascii=False, indent=0))

    @staticmethod
    def load(path: Path) -> "Vocabulary":
        """The inverse of `save`, for both classes."""
        content = json.loads(path.read_text())
        return Vocabulary(content) if isinstance(content, list) else SubwordVocabulary(path.read_text())


class SubwordVocabulary(Vocabulary):
    """The subwords that a published encoder reads.

    Args:
        tokenizer: JSON of the tokenizers library.
    """

    def __init__(self, tokenizer: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer: Any = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        super().__init__(
            [self._tokenizer.id_to_token(i) or "" for i in range(self._tokenizer.get_vocab_size())]
        )
        self.ids.pop(json.loads(tokenizer)["model"].get("unk_token"), None)

    def split(self, text: str) -> list[str]:
        return self._tokenizer.encode(text, add_special_tokens=False).tokens

    def special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids of the tokens that the encoder expects before and after each text."""
        encoded = self._tokenizer.encode("a")
        is_special = encoded.special_tokens_mask
        first, last = is_special.index(0), len(is_special) - is_special[::-1].index(0)
        return encoded.ids[:first], encoded.ids[last:]

    def save(self, path: Path) -> None:
        path.write_text(self._tokenizer.to_str())
