"""The model card of a version: metrics, findings, weaknesses and lineage, for a reviewer."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from vitrine_judge.decision import Decision, Standing
from vitrine_judge.gate import Evidence
from vitrine_judge.metrics import Scores
from vitrine_judge.segments import Segment, segment_means
from vitrine_judge.significance import largest_change, mean_interval

from registry.champion_scoring import read_configuration
from registry.online_results import ONLINE_TAG
from scoring.systems import BM25, CANDIDATE, HYBRID

BASELINES = (BM25, HYBRID, CANDIDATE)
DESCRIPTION_LENGTH = 5000  # MLflow's limit
HEADLINES = 2  # findings that the first sentence names
VERDICT_ORDER: dict[Standing, int] = {"failed": 0, "undecided": 1, "noted": 2, "passed": 3}
MARKDOWN_CHARACTERS = re.compile(r"[\\`*\[\]<>|]")


def render_model_card(
    name: str,
    version: str,
    decision: Decision,
    candidate: Evidence,
    champion: Evidence | None,
    systems: Mapping[str, Scores],
    provenance: Mapping[str, Any],
    validation: Mapping[str, Any],
    lineage: Mapping[str, str],
    primary: str,
    rescored: str = "",
    online: str = "",
) -> str:
    """Render a version's card as Markdown.

    Args:
        name: Of the registered model.
        version: Its number.
        decision: Of the gate.
        candidate, champion: The gate's input; None for no champion.
        systems: Scores of the served system, which is first, and its baselines.
        provenance: Of the evaluation, as `evaluate` writes it to made_from.json.
        validation: The report of `validate`.
        lineage: Tags of the version, with those of its online result.
        primary: The primary metric.
        rescored: A sentence on how the champion was rescored; empty if it was not.
        online: Link to the page of its experiment on live traffic against the champion; empty for none.
    """
    scores = _describe_scores(candidate, champion, systems, primary)
    mean = float(candidate.scores.values[primary].mean())
    return _load_template().render(
        name=name,
        version=version,
        verdict=summarize_verdict(decision, version),
        findings=sorted(decision.findings, key=lambda finding: VERDICT_ORDER[finding.verdict]),
        champion=champion,
        primary=primary,
        configuration=read_configuration(provenance).describe(),
        served=describe_served(next(iter(systems)), candidate.facts),
        weaknesses=list(list_weaknesses(scores["segments"], mean, primary, systems, validation)),
        counts=_describe_counts(validation["counts"]),
        champion_data=validation["champion"],
        model=_describe_model(provenance["params"]),
        rescored=rescored,
        online=online,
        **scores,
        **_split_tags(lineage),
    )


def _describe_scores(
    candidate: Evidence, champion: Evidence | None, systems: Mapping[str, Scores], primary: str
) -> dict[str, Any]:
    """The tables of metrics and segments."""
    baselines = [system for system in BASELINES if system in list(systems)[1:]]
    return {
        "queries": len(candidate.segments),
        "baselines": baselines,
        "metrics": list(_list_metrics(candidate.scores, champion, [systems[system] for system in baselines])),
        "segments": list(segment_means(candidate.scores.values[primary], candidate.segments)),
    }


def _split_tags(tags: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The tags of the online result, and all others."""
    measured = {
        tag.removeprefix(ONLINE_TAG): value for tag, value in tags.items() if tag.startswith(ONLINE_TAG)
    }
    others = {tag: value for tag, value in tags.items() if not tag.startswith(ONLINE_TAG)}
    return {"measured": measured, "lineage": others}


@cache
def _load_template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 - Markdown, which MLflow's page sanitises
    )
    environment.filters["escape_markdown"] = escape_markdown
    return environment.get_template("model_card.md.jinja")


def _list_metrics(
    scores: Scores, champion: Evidence | None, baselines: Sequence[Scores]
) -> Iterator[dict[str, Any]]:
    for metric, values in scores.values.items():
        low, high = mean_interval(values, (0.0, largest_change(values)))
        yield {
            "name": metric,
            "mean": values.mean(),
            "low": low,
            "high": high,
            "champion": champion and champion.scores.values[metric].mean(),
            "baselines": [system.values[metric].mean() for system in baselines],
        }


def list_weaknesses(
    segments: list[Segment],
    mean: float,
    primary: str,
    systems: Mapping[str, Scores],
    validation: Mapping[str, Any],
) -> Iterator[str]:
    """The model's known weaknesses, in sentences; `systems` as for `render_model_card`."""
    served = next(iter(systems))
    for segment in segments:
        if segment.high < mean:
            yield (
                f"Segment '{segment.name}' is below average: {primary} {segment.mean:.3f} "
                f"({segment.low:.3f}–{segment.high:.3f}); all queries {mean:.3f}."
            )
    for system, scores in systems.items():
        system_mean = scores.means()[primary]
        if system != served and system_mean >= mean:
            yield f"System '{system}' is as good or better: {primary} {system_mean:.3f}."
    for name, values in systems[served].values.items():
        if name.startswith("judged"):
            yield (
                f"{100 * (1 - values.mean()):.0f} % of the results are not judged ({name}) and count as irrelevant: "
                "the true quality may be higher."
            )
    unanswered = systems[served].unanswered
    if unanswered:
        yield f"{unanswered:,} judged queries have no results and score 0."
    for rule in validation["rules"]:
        if not rule["passed"]:
            yield f"The data fails a rule that only warns: {rule['says']} ({rule['count']:,} of {rule['total']:,})."


def summarize_verdict(decision: Decision, version: str) -> str:
    """The gate's verdict in one sentence: what to do, and why.

    Args:
        decision: Of the gate.
        version: The candidate's number.
    """
    if decision.passed:
        return f"Gate passed: version {version} may be promoted with python -m registry promote {version}."
    objections = sorted(
        (finding for finding in decision.findings if finding.verdict in ("failed", "undecided")),
        key=lambda finding: VERDICT_ORDER[finding.verdict],
    )
    reasons = [finding.headline or finding.text.rstrip(".") for finding in objections[:HEADLINES]]
    if more := len(objections) - len(reasons):
        reasons.append(f"and {more} more")
    yet, advice = ("", "see the decision page")
    if decision.awaits_experiment:
        yet, advice = " yet", "compare it with the champion on live traffic (docs/interleaving.md)"
    elif decision.verdict == "undecided":
        yet, advice = (" yet", "judge more queries (number: see the decision page)")
    return f"Gate {decision.verdict}: do not promote version {version}{yet}; {', '.join(reasons)}; {advice}."


def describe_served(served: str, facts: Mapping[str, float]) -> str:
    """What is served, in one sentence.

    Args:
        served: A system.
        facts: Of the evaluation.
    """
    if served != HYBRID:
        return "The model alone is served, without BM25."
    return (
        f"The hybrid is served: for queries with text, {facts['hybrid_weight']:g} · model + "
        f"{1 - facts['hybrid_weight']:g} · BM25, each scaled to [0, 1]; pictures are searched with the model alone."
    )


def escape_markdown(text: str) -> str:
    """The text with Markdown's characters escaped, in one line: names of segments are data, not markup."""
    return MARKDOWN_CHARACTERS.sub(r"\\\g<0>", " ".join(text.split()))


def render_description(card: str, page: str) -> str:
    """Render MLflow's description of a version or run: the verdict, a link, and the card's sections that fit.

    Args:
        card: Of `render_model_card`.
        page: Link to the decision page, of `registry.mlflow_urls.artifact_link`.
    """
    _, verdict, sections = card.split("\n\n", 2)
    # without Markdown: lists of versions show the first words of a description as plain text
    return _cut_sections(f"{verdict.strip('*')}\n\n[Open the decision page]({page})\n\n{sections}")


def _cut_sections(text: str) -> str:
    """The first complete sections that fit into MLflow's limit."""
    short_text = ""
    for number, section in enumerate(text.split("\n## ")):
        part = f"\n## {section}" if number else section
        if len(short_text) + len(part) > DESCRIPTION_LENGTH:
            break
        short_text += part
    return short_text or text[:DESCRIPTION_LENGTH]


def _describe_counts(counts: Mapping[str, Mapping[str, int]]) -> str:
    tables = ", ".join(f"{count:,} {table}" for table, count in counts["tables"].items())
    splits = ", ".join(f"{count:,} {split}" for split, count in counts["splits"].items())
    return f"{tables}; queries: {splits}"


def _describe_model(params: Mapping[str, Mapping[str, Any]]) -> str:
    featurize, train = params["featurize"], params["train"]
    joint = featurize["joint_encoder"]
    joint_encoder = f", joint encoder `{joint}`" if joint else ""
    return (
        f"Text encoder `{featurize['text_encoder']}`, image encoder `{featurize['image_encoder']}`, video encoder "
        f"`{featurize['video_encoder']}`{joint_encoder}, fusion `{train['fusion']}`, {train['dim']} dimensions, "
        f"trained with the loss `{train['loss']}` at α {train['alpha']:g}, β {train['beta']:g}, "
        f"γ {train['gamma']:g}, δ {train['delta']:g}."
    )
