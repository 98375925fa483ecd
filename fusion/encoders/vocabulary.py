"""Sub-word pieces of texts and their token ids."""

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from itertools import chain, pairwise, repeat
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from catalog.schema import DataError
from catalog.scripts import UNSEGMENTED

PAD, UNKNOWN, FIRST = 0, 1, 2  # ids: padding, a piece that a published encoder does not know, the first piece
START = "▁"  # begins the first piece of a word, as in SentencePiece
WORD = r"[\p{L}\p{M}\p{N}]+"
MAX_UNSEGMENTED = (
    2  # letters of a piece in a script without blanks; longer ones would be phrases of the catalogue
)
NO_TOKENS = np.empty(0, np.int32)
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
STARTS = (START, "Ġ")  # of words, in the vocabularies of published encoders
_UNSEGMENTED = re.compile(f"[{UNSEGMENTED}]")


def word_starts(tokens: np.ndarray, continuations: np.ndarray) -> np.ndarray:
    """Which tokens begin a word; the first of each text does in any case.

    Args:
        tokens: int32 (N, T), texts.
        continuations: As `Vocabulary.continuations`.

    Returns:
        bool (N, T).
    """
    starts = ~np.isin(tokens, continuations)
    starts[:, :1] = True
    return starts


def word_ends(tokens: np.ndarray, continuations: np.ndarray) -> np.ndarray:
    """Which tokens end a word; arguments and result as for `word_starts`."""
    return np.pad(~np.isin(tokens[:, 1:], continuations), ((0, 0), (0, 1)), constant_values=True)


class Word(NamedTuple):
    """A word of a text.

    Attributes:
        text: The word, case folded.
        tokens: Its number of tokens.
    """

    text: str
    tokens: int


class Vocabulary:
    """The pieces that a text encoder reads: learned from a catalogue, or those of a published encoder.

    Token id 0 is padding, 1 is a piece that a published encoder does not know, n + 2 is piece n of the tokenizer.

    Args:
        tokenizer: JSON of the tokenizers library.
    """

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer: Any = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._model: dict[str, Any] = json.loads(tokenizer)["model"]

    def __len__(self) -> int:
        return FIRST + int(self._tokenizer.get_vocab_size())

    @classmethod
    def learn(cls, texts: Iterable[str], size: int, min_count: int) -> Self:
        """Learn pieces by byte-pair encoding (Sennrich et al., 2016).

        A word that occurs `min_count` times becomes one piece, within the limit of `size`. Rarer words, such as product
        codes and misspellings, are sequences of pieces and add none, or the model would learn products by heart. A
        letter that does not occur is read as its UTF-8 bytes, so no text is unknown. The order of the texts has no
        influence.

        Args:
            texts: Of the training split.
            size: Maximum number of letters and merged pieces; the 256 bytes are not counted.
            min_count: Least occurrences of a word, or of a piece in a script without blanks.
        """
        tokenizer = _build_tokenizer(models.BPE())
        normalise, split = tokenizer.normalizer.normalize_str, tokenizer.pre_tokenizer.pre_tokenize_str
        counts = Counter(word for text in texts for word, _ in split(normalise(text)))
        frequent = (
            repeat(word, count)
            for word, count in sorted(counts.items())
            if count >= min_count or not word.startswith(START)
        )
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=min_count,
            initial_alphabet=sorted({letter for word in counts for letter in word}),
            show_progress=False,
        )
        tokenizer.train_from_iterator(chain.from_iterable(frequent), trainer)
        model = json.loads(tokenizer.to_str())["model"]
        pieces = sorted(filter(_is_short, model["vocab"]), key=model["vocab"].get)
        merges = [(left, right) for left, right in model["merges"] if _is_short(left + right)]
        ids = {piece: number for number, piece in enumerate((*BYTES, *pieces))}
        return cls(_build_tokenizer(models.BPE(ids, merges, byte_fallback=True)).to_str())

    def encode(self, texts: Iterable[str], length: int, prompt: str = "") -> np.ndarray:
        """Token ids of each text, cut or padded to `length`.

        Args:
            texts: Any number.
            length: Tokens.
            prompt: Goes before each text that is split; its tokens are left out, see `prompt_pieces`.

        Returns:
            int32 array of shape (texts, length); a row of zeros is a text without letters and digits.
        """
        if prompt:
            rows = [self._after_prompt(prompt, text) for text in texts]
        else:
            batch = self._tokenizer.encode_batch_fast([*texts], add_special_tokens=False)
            rows = [row.ids for row in batch]
        encoded = np.full((len(rows), length), PAD, np.int32)
        for tokens, ids in zip(encoded, rows, strict=True):
            pieces = np.array(ids[:length], np.int32)
            tokens[: len(pieces)] = np.where(pieces == self._unknown_piece, UNKNOWN, pieces + FIRST)
        return encoded

    def prompt_pieces(self, prompt: str) -> list[int]:
        """The numbers of the pieces of a prompt, as the tokenizer splits it before a text."""
        text = self._tokenizer.encode(f"{prompt}a", add_special_tokens=False)
        return text.ids[: _prompt_tokens(text, prompt)]

    def _after_prompt(self, prompt: str, text: str) -> list[int]:
        if not text.strip():
            return []
        encoding = self._tokenizer.encode(prompt + text, add_special_tokens=False)
        return encoding.ids[_prompt_tokens(encoding, prompt) :]

    def drop_unreadable(self, text: str) -> str:
        """The text without the words that have a piece of `unreadable`; blanks separate words."""
        words = text.split()
        longest = max((len(word.encode()) for word in words), default=0)  # a byte is at most a piece
        is_unreadable = np.isin(self.encode(words, longest + 1), self.unreadable)
        return " ".join(word for word, flags in zip(words, is_unreadable, strict=True) if not flags.any())

    def split_words(self, text: str, length: int) -> list[Word]:
        """The words of a text's first `length` tokens. In a script without blanks each piece is a word."""
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        tokens, offsets = np.array(encoding.ids, np.int32) + FIRST, encoding.offsets
        starts = np.flatnonzero(word_starts(tokens[None], self.continuations))
        edges = [*starts.tolist(), len(tokens)]
        return [
            Word(_cut(text, offsets[first][0], offsets[end - 1][1]), min(end, length) - first)
            for first, end in pairwise(edges)
            if first < length
        ]

    @cached_property
    def continuations(self) -> np.ndarray:
        """Ids of the pieces that continue a word, int32, ascending."""
        if prefix := self._model.get("continuing_subword_prefix"):
            continues = [piece.startswith(prefix) for piece in self._pieces]
        elif any(piece.startswith(STARTS) or piece in BYTES for piece in self._pieces):
            continues = [not _starts_word(piece) for piece in self._pieces]
        else:
            return NO_TOKENS
        return np.flatnonzero(continues).astype(np.int32) + FIRST

    @cached_property
    def unreadable(self) -> np.ndarray:
        """Ids of the pieces that are not a letter or several, int32: unknown pieces, and bytes of a letter."""
        decoded = self._tokenizer.decode_batch([[piece] for piece in range(len(self._pieces))])
        return np.append(UNKNOWN, FIRST + np.flatnonzero(["\ufffd" in text for text in decoded])).astype(
            np.int32
        )

    @cached_property
    def _pieces(self) -> list[str]:
        return [self._tokenizer.id_to_token(piece) or "" for piece in range(len(self) - FIRST)]

    @cached_property
    def _unknown_piece(self) -> int:
        """The number of the piece that stands for what a published encoder does not know; -1 if there is none."""
        if "unk_id" in self._model:  # Unigram
            return -1 if self._model["unk_id"] is None else int(self._model["unk_id"])
        piece = self._tokenizer.token_to_id(self._model.get("unk_token") or "")
        return -1 if piece is None else int(piece)

    def special_tokens(self) -> tuple[list[int], list[int]]:
        """Ids of the tokens that the encoder expects before and after each text."""
        encoded = self._tokenizer.encode("a")
        is_special = encoded.special_tokens_mask
        first, last = is_special.index(0), len(is_special) - is_special[::-1].index(0)
        return encoded.ids[:first], encoded.ids[last:]

    def save(self, path: Path) -> None:
        path.write_text(self._tokenizer.to_str())

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`.

        Raises:
            DataError: if the file is no tokenizer, such as the list of words of an older model.
        """
        try:
            return cls(path.read_text())
        except Exception as error:  # tokenizers raises no narrower class
            raise DataError(
                f"{path}: not the pieces of a text encoder ({error}); an older version wrote it: run featurize and "
                "train again"
            ) from error


def _build_tokenizer(model: Any) -> Any:
    """A tokenizer that folds case, removes punctuation, and splits words where a script has blanks."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            # what case folding adds to lower case: ß, the final sigma, and the dot of the Turkish capital İ
            normalizers.Replace("ß", "ss"),
            normalizers.Replace("ς", "σ"),
            normalizers.Replace("i\u0307", "i"),
            normalizers.Replace(Regex(r"\p{Cf}"), ""),  # joiners and soft hyphens
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), "removed", invert=True),
            pre_tokenizers.Split(Regex(f"[{UNSEGMENTED}][{UNSEGMENTED}\\p{{M}}]*"), "isolated"),
            pre_tokenizers.Metaspace(START, prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(f"{START}(?=[{UNSEGMENTED}])"), "removed"),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _prompt_tokens(encoding: Any, prompt: str) -> int:
    """Number of the tokens of a prompt; a blank at its end belongs to the text's first token."""
    end = len(prompt.rstrip())
    return next(
        (number for number, (_, stop) in enumerate(encoding.offsets) if stop > end), len(encoding.ids)
    )


def _cut(text: str, start: int, end: int) -> str:
    """A word of a text, case folded; with the marks that follow it, which its offsets may leave out."""
    while end < len(text) and _is_mark(text[end]):
        end += 1
    return unicodedata.normalize("NFC", text[start:end].strip()).casefold()


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M")


def _is_short(piece: str) -> bool:
    """Whether a piece has at most `MAX_UNSEGMENTED` letters of scripts without blanks, marks not counted."""
    return sum(not _is_mark(letter) for letter in _UNSEGMENTED.findall(piece)) <= MAX_UNSEGMENTED


def _starts_word(piece: str) -> bool:
    """Whether a piece begins a word: it has the mark of a start, or its first letter has no blank before it."""
    return piece.startswith(STARTS) or bool(_UNSEGMENTED.match(piece) and not _is_mark(piece[0]))
