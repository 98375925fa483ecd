"""The model card: what a reviewer must know about a version, from facts alone."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from eval.gate import Decision, Evidence, Verdict
from eval.metrics import Scores
from eval.segments import Segment, segments
from eval.significance import bootstrap_interval
from scoring.systems import CANDIDATE

BASELINES = ("bm25", "hybrid")
LENGTH = 5000  # of a description, in MLflow's database
HEADLINES = 2  # findings that the first sentence names
ORDER: dict[Verdict, int] = {"failed": 0, "undecided": 1, "passed": 2}
MARKDOWN = re.compile(r"[\\`*\[\]<>|]")


def card(
    name: str,
    version: str,
    decision: Decision,
    candidate: Evidence,
    champion: Evidence | None,
    systems: Mapping[str, Scores],
    source: Mapping[str, Any],
    validation: Mapping[str, Any],
    lineage: Mapping[str, str],
    primary: str,
    again: str = "",
) -> str:
    """A version's card, as Markdown.

    Args:
        name: Of the registered model.
        version: Its number.
        decision: Of the gate.
        candidate, champion: What the gate was given.
        systems: Scores of the candidate and its baselines.
        source: How it was made, as `evaluate` writes it to made_from.json.
        validation: The report of `validate`.
        lineage: Tags of the version.
        primary: The metric that counts most.
        again: How the champion was scored again, if it was.
    """
    baselines = [system for system in BASELINES if system in systems]
    own = candidate.scores.values
    parts = list(segments(own[primary], candidate.segments))
    return _template().render(
        name=name,
        version=version,
        verdict=verdict_sentence(decision, version),
        findings=sorted(decision.findings, key=lambda finding: ORDER[finding.verdict]),
        queries=len(candidate.segments),
        champion=champion,
        baselines=baselines,
        metrics=list(_metric_rows(candidate.scores, champion, [systems[system] for system in baselines])),
        segments=parts,
        primary=primary,
        weaknesses=list(weaknesses(parts, float(own[primary].mean()), primary, systems, validation)),
        counts=_counts(validation["counts"]),
        beside=validation["champion"],
        model=_model(source["params"]),
        lineage=lineage,
        again=again,
    )


def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown, which MLflow's page sanitises
    )
    environment.filters["escape_markdown"] = escape_markdown
    return environment.get_template("model_card.md.jinja")


def _metric_rows(
    scores: Scores, champion: Evidence | None, baselines: Sequence[Scores]
) -> Iterator[dict[str, Any]]:
    for metric, values in scores.values.items():
        low, high = bootstrap_interval(values)
        yield {
            "name": metric,
            "mean": values.mean(),
            "low": low,
            "high": high,
            "champion": champion and champion.scores.values[metric].mean(),
            "baselines": [system.values[metric].mean() for system in baselines],
        }


def weaknesses(
    parts: list[Segment],
    mean: float,
    primary: str,
    systems: Mapping[str, Scores],
    validation: Mapping[str, Any],
) -> Iterator[str]:
    """What the numbers say against the model, in sentences."""
    for part in parts:
        if part.high < mean:
            yield (
                f"Queries of segment '{part.name}' are answered worse than others: {primary} is {part.mean:.3f} "
                f"({part.low:.3f}–{part.high:.3f}), over all {mean:.3f}."
            )
    for system, scores in systems.items():
        other = scores.means()[primary]
        if system != CANDIDATE and other >= mean:
            yield f"System '{system}' is no worse: {primary} {other:.3f}."
    for name, values in systems[CANDIDATE].values.items():
        if name.startswith("judged"):
            yield (
                f"Of the results, {100 * (1 - values.mean()):.0f} % were not judged ({name}) and count as irrelevant: "
                "the true quality may be higher."
            )
    unanswered = systems[CANDIDATE].unanswered
    if unanswered:
        yield f"{unanswered:,} judged queries have no answer, and score 0."
    for rule in validation["rules"]:
        if not rule["passed"]:
            yield f"The data breaks a rule that only warns: {rule['says']} ({rule['count']:,} of {rule['total']:,})."


def verdict_sentence(decision: Decision, version: str) -> str:
    """What the gate's verdict asks a person to do, and why, in one sentence.

    Args:
        decision: Of the gate.
        version: The candidate's number.
    """
    if decision.passed:
        return f"Gate passed: version {version} may be promoted with python -m registry promote {version}."
    against = sorted(
        (finding for finding in decision.findings if finding.verdict != "passed"),
        key=lambda finding: ORDER[finding.verdict],
    )
    why = [finding.headline or finding.text.rstrip(".") for finding in against[:HEADLINES]]
    if more := len(against) - len(why):
        why.append(f"and {more} more")
    yet, advice = ("", "see the decision page")
    if decision.verdict == "undecided":
        yet, advice = (" yet", "judge more queries, the decision page says how many")
    return f"Gate {decision.verdict}: do not promote version {version}{yet}; {', '.join(why)}; {advice}."


def escape_markdown(text: str) -> str:
    """A text that Markdown shows as it is, in one line: names of segments are data."""
    return MARKDOWN.sub(r"\\\g<0>", " ".join(text.split()))


def description(text: str, page: str) -> str:
    """A card as MLflow's description of a version or run: the verdict, a link, and whole sections, as many as fit.

    Args:
        text: Of `card`.
        page: Where the decision page is: of `tracking.artifact_link`.
    """
    _, verdict, sections = text.split("\n\n", 2)
    # plain: lists of versions show the beginning of a description without reading its Markdown
    return _whole_sections(f"{verdict.strip('*')}\n\n[Open the decision page]({page})\n\n{sections}")


def _whole_sections(text: str) -> str:
    kept = ""
    for number, section in enumerate(text.split("\n## ")):
        part = f"\n## {section}" if number else section
        if len(kept) + len(part) > LENGTH:
            break
        kept += part
    return kept or text[:LENGTH]


def _counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    tables = ", ".join(f"{count:,} {table}" for table, count in counts["tables"].items())
    splits = ", ".join(f"{count:,} {split}" for split, count in counts["splits"].items())
    return f"{tables}; queries: {splits}"


def _model(params: Mapping[str, Mapping[str, Any]]) -> str:
    featurize, train = params["featurize"], params["train"]
    return (
        f"Text encoder `{featurize['text_encoder']}`, image encoder `{featurize['image_encoder']}`, video encoder "
        f"`{featurize['video_encoder']}`, fusion `{train['fusion']}`, {train['dim']} dimensions, trained with the loss "
        f"`{train['loss']}` at α {train['alpha']:g}, β {train['beta']:g}, γ {train['gamma']:g}, δ {train['delta']:g}."
    )
