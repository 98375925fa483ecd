"""The data for the decision on a version: verdict and reasons, cost, data changes, and the next step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitrine_judge.decision import Decision, Finding
from vitrine_judge.online import OnlineResult, OnlineRule

# Fact → its name on the page, and its unit.
FACTS = {
    "latency_ms_p95": ("Latency of a query, 95th percentile", "ms"),
    "model_mb": ("Size of the model", "MB"),
    "index_mb": ("Size of the index", "MB"),
}
VERDICTS = {
    "passed": "Version {} may be promoted",
    "failed": "Do not promote version {}",
    "undecided": "Do not promote version {} yet",
}


@dataclass(frozen=True)
class Version:
    """A version of a model.

    Attributes:
        number: In the registry.
        since: Date and time in UTC: of a candidate, when it was registered; of a champion, when it became champion.
    """

    number: str
    since: str


@dataclass(frozen=True)
class Cost:
    """A fact of the candidate and of the champion; None where it is unknown."""

    name: str
    unit: str
    candidate: float | None
    champion: float | None

    @property
    def change(self) -> str:
        """The change in percent; empty where it is unknown."""
        if not self.candidate or not self.champion:
            return ""
        percent = round(100 * (self.candidate / self.champion - 1))
        return f"{percent:+d} %".replace("-", "−") if percent else "the same"


@dataclass(frozen=True, eq=False)
class Review:
    """The content of the decision page's first screen.

    Attributes:
        model: Name of the registered model.
        candidate, champion: The compared versions; None for no champion.
        decision: Of the gate.
        aliases: The candidate's aliases in the registry.
        costs: The facts of both versions.
        data: The changes of the data, in sentences.
        link: Address of the version's page in MLflow.
        online: The result of an experiment against the champion, and the rule for it; None where there is none.
    """

    model: str
    candidate: Version
    champion: Version | None
    decision: Decision
    aliases: Sequence[str]
    costs: Sequence[Cost]
    data: Sequence[str]
    link: str
    online: tuple[OnlineResult, OnlineRule] | None = None

    @property
    def promoted(self) -> bool:
        """Whether the pipeline made it the champion."""
        return "champion" in self.aliases

    @property
    def headline(self) -> str:
        """The verdict in words."""
        if self.promoted:
            return f"Version {self.candidate.number} is the champion now"
        return VERDICTS[self.decision.verdict].format(self.candidate.number)

    @property
    def problems(self) -> list[Finding]:
        """The failed, then the undecided findings."""
        findings = self.decision.findings
        return [
            finding
            for verdict in ("failed", "undecided", "noted")
            for finding in findings
            if finding.verdict == verdict
        ]

    @property
    def passes(self) -> list[Finding]:
        """The passed findings."""
        return [finding for finding in self.decision.findings if finding.verdict == "passed"]

    @property
    def promote(self) -> str:
        """The command that promotes the candidate."""
        override = "" if self.decision.passed else ' --force --reason "…"'
        return f"python -m registry promote {self.candidate.number}{override}"


def compare_costs(candidate: Mapping[str, float], champion: Mapping[str, float]) -> list[Cost]:
    """The costs of serving, of both versions.

    Args:
        candidate, champion: Fact → value; a missing fact is unknown.
    """
    return [Cost(name, unit, candidate.get(fact), champion.get(fact)) for fact, (name, unit) in FACTS.items()]
