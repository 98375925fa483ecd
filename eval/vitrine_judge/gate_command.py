"""`vitrine-judge gate`: whether a candidate's run may replace the champion's; for a CI of any kind."""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from vitrine_judge.comparison import compare_with_others
from vitrine_judge.configuration import MetricConfiguration
from vitrine_judge.decision import Decision
from vitrine_judge.errors import JudgeError
from vitrine_judge.gate import Rules
from vitrine_judge.metrics import Scores, is_metric
from vitrine_judge.query_tables import read_query_table

EXIT_CODES = {"passed": 0, "failed": 1, "undecided": 2}
TABLES = {"margins", "baselines", "floors", "budgets"}  # rules that map names to numbers
# they need facts, a survey or live traffic, which files of runs do not have
UNAVAILABLE = {"budgets", "min_rating", "online"}


def read_rules(path: Path | None, primary: str) -> Rules:
    """Read the rules of a gate: YAML or JSON with fields of `Rules`.

    Args:
        path: None for the default of every rule.
        primary: The primary metric where the file names none.

    Raises:
        JudgeError: a file that is no mapping, an unknown rule, or a value that does not fit.
    """
    content = {} if path is None else _parse(path)
    known = {field.name for field in fields(Rules)} - UNAVAILABLE
    if unknown := sorted(set(content) - known):
        raise JudgeError(
            f"{path}: '{unknown[0]}' is no rule of this command; known are {', '.join(sorted(known))}"
        )
    for name, value in content.items():
        _check_value(f"{path}: {name}", name, value)
    return Rules(**{"primary": primary, **content})


def list_metrics(rules: Rules, configuration: MetricConfiguration) -> tuple[str, ...]:
    """The metrics that the rules need and those of the configuration, the primary one first."""
    floors = [name for name in rules.floors if is_metric(name)]
    return tuple(dict.fromkeys((rules.primary, *rules.margins, *floors, *configuration.metrics)))


def read_labels(path: Path | None, query_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Read the segment and the cluster of each query.

    Args:
        path: Table with query_id and one or both of segment and cluster; None for one segment and no clusters.
        query_ids: (Q,) str.

    Returns:
        (Q,) str, the segments, and (Q,) str, the clusters; None without clusters. A query without a cluster is its own.

    Raises:
        JudgeError: no such column, or a query that the table lacks.
    """
    segments = np.full(len(query_ids), "all")
    if path is None:
        return segments, None
    table = read_query_table(path, query_ids)
    columns = [name for name in ("segment", "cluster") if name in table.column_names]
    if not columns:
        raise JudgeError(f"{path}: it needs the column segment or cluster")
    labels = {name: table[name].to_pylist() for name in columns}
    if "segment" in labels:
        segments = np.array([str(value or "none") for value in labels["segment"]])
    clusters = labels.get("cluster")
    if clusters is None:
        return segments, None
    pairs = zip(clusters, query_ids.tolist(), strict=True)
    return segments, np.array([query if cluster is None else str(cluster) for cluster, query in pairs])


def render_gate_page(
    decision: Decision,
    systems: Mapping[str, Scores],
    segments: np.ndarray,
    clusters: np.ndarray | None,
    primary: str,
    configuration: str,
) -> str:
    """Render the decision as a page, with the comparison of the systems.

    Args:
        decision: Of the gate.
        systems: The candidate first, then the champion and the baselines.
        segments, clusters: Of the queries.
        primary: The deciding metric.
        configuration: How the runs were scored.
    """
    from vitrine_judge.report import Report, render

    candidate, *others = systems
    report = Report(
        title=f"Gate {decision.verdict}: {candidate} against {others[0]}",
        subject=candidate,
        primary=primary,
        systems=systems,
        comparisons=compare_with_others(systems, candidate, primary, clusters),
        segments={"segment": segments},
        grades={},
        rivals=others,
        note=" ".join(decision.reasons),
        configuration=configuration,
        clusters=clusters,
    )
    return render(report)


def _parse(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        content = _parse_yaml(path, text)
    if not isinstance(content, dict):
        raise JudgeError(f"{path}: it must hold rules, such as 'primary: ndcg@10'")
    return content


def _parse_yaml(path: Path, text: str) -> object:
    try:
        import yaml
    except ModuleNotFoundError:
        raise JudgeError(
            f"{path}: reading YAML needs PyYAML: pip install 'vitrine-judge[yaml]'; or write the rules as JSON"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JudgeError(f"{path}: it is neither JSON nor YAML: {' '.join(str(error).split())}") from None


def _check_value(where: str, name: str, value: object) -> None:
    """Check that a rule's value has the type of its field."""

    def is_number(item: object) -> bool:
        return isinstance(item, int | float) and not isinstance(item, bool) and bool(np.isfinite(item))

    if name == "primary":
        if not isinstance(value, str) or not is_metric(value):
            raise JudgeError(f"{where}: {value!r} is no metric")
    elif name in TABLES:
        if not isinstance(value, dict) or not all(map(is_number, value.values())):
            raise JudgeError(f"{where}: {value!r} must map names to numbers")
    elif not is_number(value):
        raise JudgeError(f"{where}: {value!r} is no number")
