"""The rules for data, as one table, and their check by Great Expectations."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)

from catalog.progress import show_progress
from catalog.schema import GRADES, JUDGED_BY, SPLITS, TABLES, DataError
from validation.params import Severity, ValidateParams

EXAMPLES = 5  # of failing rows
RESULTS = "expectations.json"
# Data Docs fetch a stamped logo from its maker's server.
LOGO = re.compile(r"https://great-expectations-web-assets[^\"']*")


class Rule(NamedTuple):
    """One rule about a column of a frame of `validation.data_profile`.

    Attributes:
        name: Several rules may share it.
        frame: The frame.
        requirement: What the data must fulfil, in words.
        expectation: A class of Great Expectations.
        column: The column, or several for expectations about pairs.
        arguments: Further arguments of the expectation.
        allowed: Share of the rows that may fail.
        severity: Of a failure.
    """

    name: str
    frame: str
    requirement: str
    expectation: type
    column: str | list[str]
    arguments: Mapping[str, Any] = MappingProxyType({})
    allowed: float = 0.0
    severity: Severity = "error"

    @property
    def accepted_values(self) -> str:
        """The values that pass, and the share of rows that may fail, in words."""
        values = ACCEPTED_VALUES[self.expectation](self.arguments)
        return f"{values}, but for {100 * self.allowed:.3g} % of the rows" if self.allowed else values

    def build_expectation(self, number: int) -> Any:
        """Build the expectation; `number` identifies its result."""
        return self.expectation(
            **{"column" if isinstance(self.column, str) else "column_list": self.column},
            **self.arguments,
            **({"mostly": round(1 - self.allowed, 12)} if self.allowed else {}),
            description=f"{self.name}: {self.requirement}",
            severity="critical" if self.severity == "error" else "warning",
            meta={"number": number},
        )


def _describe_range(limits: Mapping[str, Any]) -> str:
    low, high = limits.get("min_value"), limits.get("max_value")
    if high is None:
        return f"{low:g} or more"
    return f"at most {high:g}" if low is None else f"{low:g} to {high:g}"


# Expectation → the values that pass, in words, from its arguments.
ACCEPTED_VALUES: dict[type, Callable[[Mapping[str, Any]], str]] = {
    gxe.ExpectColumnValuesToBeNull: lambda _: "none",
    gxe.ExpectColumnValuesToNotBeNull: lambda _: "a value in every row",
    gxe.ExpectColumnValuesToBeUnique: lambda _: "each value once",
    gxe.ExpectCompoundColumnsToBeUnique: lambda _: "each pair once",
    gxe.ExpectColumnValuesToBeBetween: _describe_range,
    gxe.ExpectColumnValuesToBeInSet: lambda arguments: " or ".join(
        str(value).lower() for value in arguments["value_set"]
    ),
}


@dataclass(frozen=True)
class Finding:
    """The result of a rule.

    Attributes:
        rule: Its name.
        table: The frame that it checks.
        requirement: What the data must fulfil, in words.
        accepted_values: The values that pass, in words.
        passed: Whether at most the allowed share of the rows fails.
        count, total: Number of rows that fail, and of all rows with a value.
        share: `count` / `total`.
        examples: Ids of failing rows, with the failing value where it adds information.
        products: Ids of the products among them.
    """

    rule: str
    table: str
    severity: Severity
    requirement: str
    accepted_values: str
    passed: bool
    count: int
    total: int
    share: float
    examples: list[str]
    products: list[str]

    def to_json(self) -> dict[str, Any]:
        """The finding as report.json has it."""
        names = {"requirement": "says", "accepted_values": "expected"}
        return {names.get(name, name): value for name, value in asdict(self).items()}


def rules(params: ValidateParams) -> list[Rule]:
    """The table of rules, with the severities that `params` sets.

    Raises:
        DataError: where `params.severity` names an unknown rule.
    """
    null, filled = gxe.ExpectColumnValuesToBeNull, gxe.ExpectColumnValuesToNotBeNull
    between, among = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValuesToBeInSet
    unique, unique_pairs = gxe.ExpectColumnValuesToBeUnique, gxe.ExpectCompoundColumnsToBeUnique
    # fmt: off
    table = [
        Rule("schema", "columns", "required columns must exist, with the right types", null, "problem"),
        Rule("personal_data", "unexpected_columns", "columns outside the schema must not look like personal data (if "
             "they are not, list them in validate.personal)", null, "reason"),
        Rule("empty_tables", "tables", "tables must have rows", between, "rows", {"min_value": 1}),
        *(Rule("missing_values", name, f"{field.name} must be filled", filled, field.name)
          for name, schema in TABLES.items() for field in schema if not field.nullable),
        Rule("duplicate_ids", "products", "product ids must be unique", unique, "product_id"),
        Rule("duplicate_ids", "queries", "query ids must be unique", unique, "query_id"),
        Rule("duplicate_judgements", "judgements", "a query must have at most one judgement of a product",
             unique_pairs, ["query_id", "product_id"]),
        Rule("unknown_products", "judgements", "judged products must be in products/", null, "unknown_product"),
        Rule("unknown_queries", "judgements", "judged queries must be in queries/", null, "unknown_query"),
        Rule("prices", "products", "prices must be 0 or more", between, "price", {"min_value": 0}),
        Rule("grades", "judgements", "grades must be 0, 1, 2 or 3", among, "grade", {"value_set": sorted(GRADES)}),
        Rule("ratings", "satisfaction", "ratings must be 1 to 5", between, "rating",
             {"min_value": 1, "max_value": 5}),
        Rule("empty_queries", "queries", "queries must have a text, an image or both", filled, "asks"),
        Rule("splits", "queries", "split must be train, valid or test", among, "split", {"value_set": list(SPLITS)}),
        Rule("empty_splits", "splits", "every split must have queries", between, "queries", {"min_value": 1}),
        Rule("unanswerable", "queries", "test queries must have an exact match",
             between, "exact", {"min_value": 1}, severity="warning"),
        Rule("leaked_query_texts", "queries", "a query's text must stay in one split", null, "text_splits"),
        Rule("leaked_query_pixels", "queries", "a query's picture must stay in one split", null, "pixels_splits"),
        Rule("shared_clusters", "queries", "queries of a cluster should stay in one split", null, "cluster_splits",
             severity="warning"),
        Rule("frequencies", "queries", "frequencies must be 0 or more", between, "frequency", {"min_value": 0}),
        Rule("judges", "queries", "judged_by must be human, implicit, derived, or empty (means human)",
             among, "judged_by", {"value_set": list(JUDGED_BY)}),
        # A derived query was made from its exact match, so sharing it is a leak; people may judge one product an exact
        # match of many queries.
        Rule("leaked_targets", "exact_matches", "an exact match must stay in one split", null, "id_splits"),
        Rule("leaked_titles", "exact_matches", "the title of an exact match must stay in one split",
             null, "title_splits"),
        Rule("leaked_pixels", "exact_matches", "the picture of an exact match must stay in one split",
             null, "pixels_splits"),
        Rule("near_duplicates", "exact_matches", "an exact match should have no near-duplicate picture in "
             "another split", null, "looks_like", severity="warning"),
        Rule("shared_targets", "shared_matches", "an exact match judged by people or clicks should stay in one "
             "split", null, "id_splits", severity="warning"),
        Rule("broken_images", "pictures", "pictures must decode and be within the size limits",
             null, "problem", allowed=params.max_broken_images),
        Rule("broken_frames", "clip_frames", "frames must decode and be within the size limits (else leave out the "
             "clip)", null, "problem", allowed=params.max_broken_images),
        Rule("short_clips", "products", "a clip must have 2 frames or more (put a single picture into image)",
             between, "frames", {"min_value": 2}),
        Rule("duplicate_images", "products", "products must not share identical pictures",
             unique, "pixels", allowed=params.max_duplicate_images),
        Rule("missing_pictures", "catalogue", "most products should have a picture", between, "value",
             {"max_value": params.max_without_picture}, severity="warning"),
        Rule("placeholders", "products", f"at most {params.max_sharing} products should share a picture (else it is a "
             "placeholder)", between, "same_pixels", {"max_value": params.max_sharing}, severity="warning"),
        Rule("boilerplate", "products", f"at most {params.max_sharing} products should share a description",
             between, "same_description", {"max_value": params.max_sharing}, severity="warning"),
        Rule("foreign_texts", "products", "title and description should be in "
             f"{' or '.join(params.languages) or 'the most frequent language'}", null, "foreign",
             allowed=params.max_poor_texts, severity="warning"),
        Rule("query_languages", "languages", "products should be in each language of the queries", null,
             "without_products", severity="warning"),
        Rule("empty_texts", "products", f"title and description should have {params.min_letters} letters or more",
             between, "letters", {"min_value": params.min_letters}, allowed=params.max_poor_texts,
             severity="warning"),
        Rule("small_images", "pictures", f"each side of a picture must have {params.min_image_side} pixels or more",
             between, "side", {"min_value": params.min_image_side}, severity="warning"),
        Rule("flat_images", "pictures", "pictures must show more than one colour",
             among, "flat", {"value_set": [False]}, severity="warning"),
        Rule("moved_queries", "champion_queries", "a query must stay in the split that it had when the champion was "
             "trained (give it that split again: in the column split of an import, or by making the data from the "
             "champion's with python -m catalog update and queries)", null, "moved"),
        Rule("drift", "drift", "products must not drift from the champion's data (population stability index)",
             between, "drift", {"max_value": params.max_drift}, severity="warning"),
        Rule("mismatched", "picture_matches", "a picture must match its product's text better than most other "
             "texts, by the champion's embeddings", between, "match", {"min_value": params.min_match},
             allowed=params.max_mismatched, severity="warning"),
    ]
    # fmt: on
    names = list(dict.fromkeys(rule.name for rule in table))
    if unknown := sorted(set(params.severity) - set(names)):
        raise DataError(f"validate.severity: unknown rule {', '.join(unknown)}; known are {', '.join(names)}")
    return [rule._replace(severity=params.severity.get(rule.name, rule.severity)) for rule in table]


class Inspection:
    """Checks a table of rules on frames with Great Expectations; holds its results and its Data Docs."""

    def __init__(self, table: Sequence[Rule]) -> None:
        self._table = table
        self._findings: dict[int, Finding] = {}
        self._results: list[dict[str, Any]] = []
        self._run = RunIdentifier(run_name="validate", run_time=datetime.now(UTC))
        self._context = gx.get_context(
            project_config=DataContextConfig(
                store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
                progress_bars=ProgressBarsConfig(globally=False),
                analytics_enabled=False,
            )
        )
        self._source = self._context.data_sources.add_pandas("data")

    @property
    def findings(self) -> list[Finding]:
        """One per checked rule, in the order of the table."""
        return [self._findings[number] for number in sorted(self._findings)]

    @property
    def errors(self) -> list[Finding]:
        """Failed rules of severity "error"."""
        return [finding for finding in self.findings if not finding.passed and finding.severity == "error"]

    def check(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Check the rules about these frames; each frame may be checked only once."""
        names = dict.fromkeys(rule.frame for rule in self._table if rule.frame in frames)
        for name in show_progress(names, "rules", unit="table"):
            suite = {number: rule for number, rule in enumerate(self._table) if rule.frame == name}
            self._findings |= self._check(name, frames[name], suite)

    def _check(self, name: str, frame: pd.DataFrame, suite: Mapping[int, Rule]) -> dict[int, Finding]:
        expectations = [rule.build_expectation(number) for number, rule in suite.items()]
        definition = gx.ValidationDefinition(
            name=name,
            data=self._source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe("all"),
            suite=self._context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations)),
        )
        checked = self._context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": frame},
            # Without unexpected_index_column_names rows are positions: thirty times faster on a million rows.
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES},
            run_id=self._run,
        )
        self._results.append(_remove_ids(checked.to_json_dict()))
        results = {result.expectation_config.meta["number"]: result for result in checked.results}
        return {number: _build_finding(rule, results[number], frame) for number, rule in suite.items()}

    def write_results(self, path: Path) -> None:
        """Write Great Expectations' own results as JSON, a list of suites; equal findings give equal bytes."""
        path.write_text(json.dumps(self._results, indent=2, ensure_ascii=False) + "\n")

    def write_data_docs(self, folder: Path) -> None:
        """Build Great Expectations' Data Docs: index.html, with the time of this run.

        Their pages load styles and scripts from several servers; without a network a browser shows little of them.
        """
        self._context.add_data_docs_site(
            "report",
            {
                "class_name": "SiteBuilder",
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(folder.absolute()),
                },
            },
        )
        self._context.build_data_docs()
        for page in (*folder.rglob("*.html"), *folder.rglob("*.css")):
            parts = page.relative_to(folder).parts
            text = LOGO.sub("../" * (len(parts) - 1) + "static/images/logo-long.png", page.read_text())
            if parts[0] == "validations":  # Great Expectations has no name for frames in memory
                text = text.replace("Data asset: None", f"Data asset: {parts[1]}")
            page.write_text(text)


def _remove_ids(result: dict[str, Any]) -> dict[str, Any]:
    """Remove what changes from run to run."""
    for checked in result["results"]:
        del checked["expectation_config"]["id"]
    return {name: result[name] for name in ("suite_name", "success", "statistics", "results")}


def _build_finding(rule: Rule, result: Any, frame: pd.DataFrame) -> Finding:
    counts = result.result
    if not counts:
        raise RuntimeError(f"{rule.name}: Great Expectations could not check it: {result.exception_info}")
    count, total = counts["unexpected_count"], counts["element_count"] - counts.get("missing_count", 0)
    rows, values = counts["partial_unexpected_index_list"], counts["partial_unexpected_list"]
    return Finding(
        rule=rule.name,
        table=rule.frame,
        severity=rule.severity,
        requirement=rule.requirement,
        accepted_values=rule.accepted_values,
        passed=bool(result.success),
        count=count,
        total=total,
        share=count / total if total else 0.0,
        examples=_describe_rows(rule, frame, rows, values),
        products=_product_ids(rule.frame, frame, rows),
    )


# Frame → the column that names a product, and the pattern of its texts, whose group is the product's id.
PRODUCT_COLUMNS = {
    "products": (0, re.compile("(.*)", re.DOTALL)),
    "pictures": (0, re.compile(r"products/(.*?)(?: picture \d+)?", re.DOTALL)),
    "clip_frames": (0, re.compile(r"products/(.*) frame \d+", re.DOTALL)),
    "judgements": (1, re.compile("(.*)", re.DOTALL)),
    "exact_matches": (0, re.compile(r"(.*) \(\w+\)", re.DOTALL)),
    "shared_matches": (0, re.compile(r"(.*) \(\w+\)", re.DOTALL)),
    "picture_matches": (0, re.compile("(.*)", re.DOTALL)),
}


def _product_ids(name: str, frame: pd.DataFrame, rows: Sequence[int]) -> list[str]:
    """The ids of the products in some rows of a frame, each once."""
    if name not in PRODUCT_COLUMNS:
        return []
    column, pattern = PRODUCT_COLUMNS[name]
    texts = frame.iloc[list(rows), column].dropna().astype("str")
    return list(dict.fromkeys(match[1] for text in texts if (match := pattern.fullmatch(text))))


def _describe_rows(rule: Rule, frame: pd.DataFrame, rows: Sequence[int], values: Sequence[Any]) -> list[str]:
    """The ids of rows, with the failing value where it adds information: "q1 p9: 7"."""
    width = 2 if rule.frame == "judgements" else 1
    ids = [" ".join(frame.iloc[row, :width].fillna(f"row {row}").astype("str")) for row in rows]
    if rule.expectation in (gxe.ExpectColumnValuesToBeUnique, gxe.ExpectCompoundColumnsToBeUnique):
        return list(dict.fromkeys(ids))  # the value is the id, or a hash
    return [_describe_row(key, value) for key, value in zip(ids, values, strict=True)]


def _describe_row(key: str, value: Any) -> str:
    if pd.isna(value) or pd.api.types.is_bool(value):
        return key
    return f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"
