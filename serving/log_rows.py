"""Entries of the request log, and their rows: what is kept of a text, and how sessions are hashed."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b, sha512
from typing import Any, NamedTuple

from catalog.privacy import find_personal
from catalog.request_log import EVENTS, SEARCHES
from catalog.schema import DataError
from catalog.text import normalise, split_words

KEY_VARIABLE = "VITRINE_LOG_KEY"
MIN_KEY = 16  # characters; a shorter one can be guessed, and with it the queries
MAX_TEXT = 1000  # characters that are kept of a text
CONFIGURED = "log.queries"  # why a text is withheld


class Result(NamedTuple):
    """A product of a result list.

    Attributes:
        product_id: The product.
        score: Of the model that placed it.
        version: The version of that model.
    """

    product_id: str
    score: float
    version: str


@dataclass(frozen=True)
class Search:
    """A request and its answer; see `catalog.request_log.COLUMNS`.

    Attributes:
        request_id: Hex; events name it.
        time: When it came, with a time zone.
        session: As the client sent it; only its hash is stored.
        text: As the client sent it.
        has_picture: Whether it had a picture.
        filters: JSON.
        k: Products per query.
        version: The model's version.
        index: Data fingerprint of the index.
        results: What was shown, best first.
        latency_ms: Until the answer.
        status: Of HTTP.
        unknown_tokens: Share of the text's tokens; None without text.
        experiment, arm: Of the session; None for no experiment.
        champion, challenger: The versions that the experiment compares.
        shadow_results: Of a challenger in shadow mode, which nobody saw; None if it failed.
        shadow_ms: Until the challenger's answer.
    """

    request_id: str
    time: datetime
    session: str | None
    text: str | None
    has_picture: bool
    filters: str
    k: int
    version: str
    index: str
    results: Sequence[Result]
    latency_ms: float
    status: int
    unknown_tokens: float | None = None
    experiment: str | None = None
    arm: str | None = None
    champion: str | None = None
    challenger: str | None = None
    shadow_results: Sequence[Result] | None = None
    shadow_ms: float | None = None


@dataclass(frozen=True)
class Event:
    """What a customer did with a product of a search.

    Attributes:
        request_id: Of the search.
        time: When it came, with a time zone.
        product_id: The product.
        kind: "click" or "cart".
        session: As the client sent it; only its hash is stored.
    """

    request_id: str
    time: datetime
    product_id: str
    kind: str
    session: str | None = None


class RowEncoder:
    """Makes rows of entries.

    Session ids are always hashed. Without a key, the hash has a salt of this process: then sessions can be followed
    only within one process. A text is withheld where `queries` is "hash", or where it holds personal data
    (`catalog.privacy.find_personal`); with a key its hash is kept, without a key nothing.

    Args:
        queries: `log.queries`.
        key: Of the hashes; None for none.

    Raises:
        DataError: if `queries` is "hash" and there is no key, or the key is too short.
    """

    def __init__(self, queries: str, key: str | None) -> None:
        if queries == "hash" and not key:
            raise DataError(f"log.queries is hash: set the environment variable {KEY_VARIABLE} to a secret")
        if key and len(key) < MIN_KEY:
            raise DataError(f"{KEY_VARIABLE}: shorter than {MIN_KEY} characters; set a longer secret")
        self._withholds_all = queries == "hash"
        self._has_key = bool(key)
        self._secret = sha512(key.encode()).digest() if key else secrets.token_bytes(64)

    def encode(self, entry: Search | Event) -> tuple[str, dict[str, Any]]:
        """The table and the row of an entry."""
        if isinstance(entry, Event):
            return EVENTS, {
                "request_id": _valid(entry.request_id),
                "time": entry.time,
                "product_id": _valid(entry.product_id),
                "kind": entry.kind,
                "session": self._hash("session", entry.session),
            }
        return SEARCHES, {
            **{name: getattr(entry, name) for name in _UNCHANGED},
            **self._encode_text(entry.text),
            "request_id": _valid(entry.request_id),
            "session": self._hash("session", entry.session),
            "filters": None if find_personal(entry.filters) else _valid(entry.filters),
            "results": _encode_results(entry.results),
            "shadow_results": _encode_results(entry.shadow_results),
        }

    def _encode_text(self, text: str | None) -> dict[str, Any]:
        if text is None:
            return {}
        normal = normalise(text) or ""
        sizes = {"characters": len(text), "words": len(split_words(normal))}
        reason = CONFIGURED if self._withholds_all else find_personal(text)
        if reason is None:
            return {"text": _valid(text[:MAX_TEXT]), **sizes}
        text_hash = self._hash("text", normal) if self._has_key else None
        return {"text_hash": text_hash, "withheld": reason, **sizes}

    def _hash(self, kind: str, value: str | None) -> str | None:
        """A keyed hash: 32 hex digits. Those of different kinds have nothing in common."""
        if value is None:
            return None
        content = value.encode(errors="surrogatepass")
        return blake2b(content, key=self._secret, person=kind.encode(), digest_size=16).hexdigest()


_UNCHANGED = (
    "time", "has_picture", "k", "version", "index", "experiment", "arm", "champion", "challenger", "latency_ms",
    "unknown_tokens", "status", "shadow_ms",
)  # fmt: skip


def _encode_results(results: Sequence[Result] | None) -> list[dict[str, Any]] | None:
    if results is None:
        return None
    return [
        {"product_id": product_id, "score": score, "version": version}
        for product_id, score, version in results
    ]


def _valid(text: str) -> str:
    """A text that UTF-8 can encode: JSON may hold halves of surrogate pairs."""
    return text.encode(errors="replace").decode()
