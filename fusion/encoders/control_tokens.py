"""Control tokens of a chat model, such as <|im_end|>: a text that contains one must not act as one."""

import re
from collections.abc import Iterable, Iterator
from typing import Any


class ControlTokens:
    """Splits the control tokens of a model where a text contains them.

    Args:
        tokens: The control tokens, as their tokenizer reads them in a text.
        normalizer: Of the tokenizers library, which changes a text before it is split into tokens; None without one.
    """

    def __init__(self, tokens: Iterable[str], normalizer: Any = None) -> None:
        names = sorted({name for token in tokens if (name := token.strip())}, key=len, reverse=True)
        self.pattern = re.compile(
            "|".join(map(re.escape, names)) or r"(?!)"
        )  # without tokens, it matches nothing
        self.normalizer = normalizer

    @classmethod
    def read(cls, processor: Any, tokenizer: Any) -> "ControlTokens":
        """Collect the control tokens of a processor of transformers and of its tokenizer.

        These are the special tokens, the places of pictures, clips and sounds, and the tokens that occur in a chat
        template. Other added tokens are words.
        """
        added = list(tokenizer.added_tokens_decoder.values())
        templates = list(_list_templates(processor, tokenizer))
        media = (value for name, value in vars(processor).items() if name.endswith("_token"))
        tokens = {
            *(token.content for token in added if token.special),
            *(value for value in media if isinstance(value, str)),
            *(token.content for token in added if any(token.content in text for text in templates)),
        }
        return cls(tokens, tokenizer.backend_tokenizer.normalizer)

    def neutralise(self, text: str) -> str:
        """The same text with a blank after the first character of each control token; other texts do not change."""
        text = self._split(text)
        if self.normalizer is None:
            return text
        normalised = self.normalizer.normalize_str(text)  # it may make a control token: ＜ becomes <
        return self._split(normalised) if self.pattern.search(normalised) else text

    def _split(self, text: str) -> str:
        while self.pattern.search(text):  # a blank may complete another token, a few times at most
            text = self.pattern.sub(_insert_blank, text)
        return text


def _insert_blank(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]} {token[1:]}" if len(token) > 1 else " "


def _list_templates(*sources: Any) -> Iterator[str]:
    """The chat templates of processors and tokenizers: each has none, one, or several by name."""
    for source in sources:
        template = getattr(source, "chat_template", None) or {}
        yield from template.values() if isinstance(template, dict) else [template]
