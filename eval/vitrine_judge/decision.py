"""What the gate returns: findings of rules, and the decision that they make up."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["passed", "failed", "undecided"]
Standing = Verdict | Literal["noted"]

ONLINE = "online"  # the rule about live traffic


@dataclass(frozen=True)
class Finding:
    """The verdict of one rule, as text and in numbers.

    Attributes:
        rule: Name of the rule.
        verdict: Passed, failed or undecided; or noted, for a weakness that does not stop the candidate.
        text: A full sentence.
        value: The measured value.
        low, high: Its interval, where it is an estimate.
        limit: What the rule compares with.
        headline: The text without details, for sentences about several findings.
    """

    rule: str
    verdict: Standing
    text: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    headline: str = ""


@dataclass(frozen=True)
class Decision:
    """The findings of all rules."""

    findings: tuple[Finding, ...]

    @property
    def verdict(self) -> Verdict:
        """Failed if any rule failed, else undecided if any is undecided, else passed."""
        verdicts = {finding.verdict for finding in self.findings}
        return "failed" if "failed" in verdicts else "undecided" if "undecided" in verdicts else "passed"

    @property
    def passed(self) -> bool:
        """Whether the candidate may be promoted."""
        return self.verdict == "passed"

    @property
    def awaits_experiment(self) -> bool:
        """Whether only live traffic still has to decide: all other rules passed."""
        return not self.passed and all(
            finding.verdict in ("passed", "noted")
            or (finding.rule == ONLINE and finding.verdict == "undecided")
            for finding in self.findings
        )

    @property
    def reasons(self) -> list[str]:
        """The texts of failed, then undecided findings, or of passed ones if all passed; then of noted ones."""
        order = ("passed", "noted") if self.passed else ("failed", "undecided", "noted")
        return [finding.text for verdict in order for finding in self.findings if finding.verdict == verdict]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"verdict": self.verdict, "findings": [asdict(finding) for finding in self.findings]}
