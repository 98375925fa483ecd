"""How runs are scored: metrics, gains, relevance and ties in one object, which is stored beside the judgements."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vitrine_judge.errors import JudgeError
from vitrine_judge.metrics import TIES, Scores, check_gains, metric_name, parse_metric, score
from vitrine_judge.ranking_files import read_bytes
from vitrine_judge.rankings import Qrels, Run

CONFIGURATION_FILE = "judging.json"


@dataclass(frozen=True)
class MetricConfiguration:
    """Everything besides run and judgements on which a score depends.

    Attributes:
        metrics: Names, such as "ndcg@10"; the spellings of ir_measures become ours.
        gains: Grade → gain ≥ 0; None if a grade is its own gain.
        relevant: The grade from which a product is relevant.
        ties: "id" or "average"; see `vitrine_judge.metrics.score`.

    Raises:
        JudgeError: no metric, an unknown one or one that is listed twice, gains that are not finite numbers ≥ 0, or
            another value that `vitrine_judge.metrics.score` refuses.
    """

    metrics: tuple[str, ...] = ("ndcg@10", "recall@100", "mrr@10")
    gains: Mapping[int, float] | None = None
    relevant: float = 1.0
    ties: str = "id"

    def __post_init__(self) -> None:
        names = tuple(metric_name(name) for name in self.metrics)
        object.__setattr__(self, "metrics", names)
        for name in names:
            parse_metric(name)
        if not names:
            raise JudgeError("metrics: none is given; name at least one, such as ndcg@10")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise JudgeError(f"metrics: '{repeated[0]}' is listed twice; remove one of them")
        check_gains(self.gains)
        if not math.isfinite(self.relevant):
            raise JudgeError(f"relevant: {self.relevant}; it must be a finite grade")
        if self.ties not in TIES:
            raise JudgeError(f"ties: '{self.ties}'; it must be {' or '.join(TIES)}")

    def score(self, run: Run | Iterable[Run], qrels: Qrels) -> Scores:
        """`vitrine_judge.metrics.score` with this configuration."""
        return score(run, qrels, self.metrics, gains=self.gains, relevant=self.relevant, ties=self.ties)

    def describe(self) -> str:
        """One short phrase to print beside numbers; the metrics are not part of it."""
        gains = "gain = grade"
        if self.gains is not None:
            gains = "gains " + " ".join(f"{grade}:{gain:g}" for grade, gain in sorted(self.gains.items()))
        ties = "; mean over all orders of ties" if self.ties == "average" else ""
        return f"{gains}; relevant from grade {self.relevant:g}{ties}"

    def to_file(self, path: Path) -> None:
        """Write what `from_file` reads: JSON."""
        text = json.dumps({**asdict(self), "gains": self.gains and dict(self.gains)}, indent=1)
        path.write_text(text + "\n", encoding="utf-8")

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a JSON object with the attributes of this class; a missing one has its default.

        Raises:
            JudgeError: an unreadable file, a duplicate or unknown field, or a value that does not fit.
        """
        try:
            content = json.loads(
                read_bytes(path).decode("utf-8-sig"), object_pairs_hook=_unique, parse_constant=_refuse
            )
            return cls(**_convert(content))
        except ValueError as error:  # also of JSON and UTF-8
            raise JudgeError(f"{path}: {error}") from error


def stored_configuration(qrels: Path) -> Path | None:
    """The configuration in the folder of a file or folder of judgements; None where there is none."""
    path = qrels.parent / CONFIGURATION_FILE
    return path if path.is_file() else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise JudgeError(f"the key '{repeated}' is there twice; remove one of them")
    return content


def _refuse(constant: str) -> float:
    raise JudgeError(f"{constant} is not a finite number")


def _convert(content: object) -> dict[str, Any]:
    """Arguments of `MetricConfiguration`, with the right types."""
    if not isinstance(content, dict):
        raise JudgeError(f"expected an object with {', '.join(_CHECKS)}")
    if unknown := content.keys() - _CHECKS.keys():
        raise JudgeError(f"unknown field '{min(unknown)}'; known are {', '.join(_CHECKS)}")
    for name, value in content.items():
        is_valid, form = _CHECKS[name]
        if not is_valid(value):
            raise JudgeError(f"{name}: {json.dumps(value)}; expected {form}")
    if content.get("gains") is not None:
        content["gains"] = {int(grade): float(gain) for grade, gain in content["gains"].items()}
    if "metrics" in content:
        content["metrics"] = tuple(content["metrics"])
    return content


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_grade(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and str(int(text)) == text


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_gains(value: object) -> bool:
    return value is None or (
        isinstance(value, dict)
        and all(_is_grade(grade) and _is_number(gain) for grade, gain in value.items())
    )


_CHECKS = {
    "metrics": (_are_names, 'a list of names, as ["ndcg@10"]'),
    "gains": (_are_gains, 'null or gains by grade, as {"0": 0, "1": 1}'),
    "relevant": (_is_number, "a number"),
    "ties": (lambda value: isinstance(value, str), "a word"),
}
