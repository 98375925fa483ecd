"""The rules of `validate`, one table, and Great Expectations, which checks them."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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

from catalog.schema import GRADES, JUDGED_BY, SPLITS, TABLES, DataError
from validation.params import Severity, ValidateParams

EXAMPLES = 5
RESULTS = "expectations.json"
# Data Docs fetch a stamped logo from its maker's server.
LOGO = re.compile(r"https://great-expectations-web-assets[^\"']*")


class Rule(NamedTuple):
    """One rule: what must hold (`says`, `expect`) of a column of one of the frames of `validation.data_profile`.

    Attributes:
        expect: A class of Great Expectations.
        column: Or several, for expectations about pairs.
        more: Further arguments of the expectation.
        allowed: Share of the rows that may break the rule.
    """

    name: str
    frame: str
    says: str
    expect: type
    column: str | list[str]
    more: Mapping[str, Any] = MappingProxyType({})
    allowed: float = 0.0
    severity: Severity = "error"

    @property
    def expected(self) -> str:
        """What a value must be, and what share of the rows may differ, in words."""
        value = EXPECTED[self.expect](self.more)
        return f"{value}, but for {100 * self.allowed:.3g} % of the rows" if self.allowed else value

    def expectation(self, number: int) -> Any:
        """The expectation; `number` tells its result from the others'."""
        return self.expect(
            **{"column" if isinstance(self.column, str) else "column_list": self.column},
            **self.more,
            **({"mostly": round(1 - self.allowed, 12)} if self.allowed else {}),
            description=f"{self.name}: {self.says}",
            severity="critical" if self.severity == "error" else "warning",
            meta={"number": number},
        )


def _range(limits: Mapping[str, Any]) -> str:
    low, high = limits.get("min_value"), limits.get("max_value")
    if high is None:
        return f"{low:g} or more"
    return f"{high:g} at most" if low is None else f"{low:g} to {high:g}"


# Expectation → what it expects of each value, from its arguments.
EXPECTED: dict[type, Callable[[Mapping[str, Any]], str]] = {
    gxe.ExpectColumnValuesToBeNull: lambda _: "none",
    gxe.ExpectColumnValuesToNotBeNull: lambda _: "a value in every row",
    gxe.ExpectColumnValuesToBeUnique: lambda _: "each value once",
    gxe.ExpectCompoundColumnsToBeUnique: lambda _: "each pair once",
    gxe.ExpectColumnValuesToBeBetween: _range,
    gxe.ExpectColumnValuesToBeInSet: lambda more: " or ".join(
        str(value).lower() for value in more["value_set"]
    ),
}


@dataclass(frozen=True)
class Finding:
    """The result of a rule: `count` rows of `total` break it; a share of them may be allowed.

    Attributes:
        expected: What the rule expects, in words.
        examples: Ids of rows that break it, with the value at fault where it says more than the id.
        products: Ids of the products among them.
    """

    rule: str
    table: str
    severity: Severity
    says: str
    expected: str
    passed: bool
    count: int
    total: int
    share: float
    examples: list[str]
    products: list[str]


def rules(params: ValidateParams) -> list[Rule]:
    """The table of rules, with the severities that `params` sets.

    Raises:
        DataError: where `params.severity` names a rule that is not here.
    """
    null, filled = gxe.ExpectColumnValuesToBeNull, gxe.ExpectColumnValuesToNotBeNull
    between, among = gxe.ExpectColumnValuesToBeBetween, gxe.ExpectColumnValuesToBeInSet
    unique, unique_pairs = gxe.ExpectColumnValuesToBeUnique, gxe.ExpectCompoundColumnsToBeUnique
    # fmt: off
    table = [
        Rule("schema", "columns", "columns must be there, with their types", null, "problem"),
        Rule("personal_data", "unexpected_columns", "columns outside the schema must not look like personal data (or "
             "name them in validate.personal)", null, "reason"),
        Rule("empty_tables", "tables", "tables must have rows", between, "rows", {"min_value": 1}),
        *(Rule("missing_values", name, f"{field.name} must be filled", filled, field.name)
          for name, schema in TABLES.items() for field in schema if not field.nullable),
        Rule("duplicate_ids", "products", "product ids must be unique", unique, "product_id"),
        Rule("duplicate_ids", "queries", "query ids must be unique", unique, "query_id"),
        Rule("duplicate_judgements", "judgements", "a query must judge a product once",
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
        Rule("frequencies", "queries", "frequencies must be 0 or more", between, "frequency", {"min_value": 0}),
        Rule("judges", "queries", "judged_by must be human, implicit, derived or empty, for human",
             among, "judged_by", {"value_set": list(JUDGED_BY)}),
        # What a derived query was made from is its answer; people may well find one product right for many queries.
        Rule("leaked_targets", "exact_matches", "an exact match must stay in one split", null, "id_splits"),
        Rule("leaked_titles", "exact_matches", "the title of an exact match must stay in one split",
             null, "title_splits"),
        Rule("leaked_pixels", "exact_matches", "the picture of an exact match must stay in one split",
             null, "pixels_splits"),
        Rule("near_duplicates", "exact_matches", "the picture of an exact match should not look like one of another "
             "split", null, "looks_like", severity="warning"),
        Rule("shared_targets", "shared_matches", "an exact match should stay in one split, where people or shoppers "
             "judged", null, "id_splits", severity="warning"),
        Rule("broken_images", "pictures", "pictures must decode and keep to the limits of size",
             null, "problem", allowed=params.max_broken_images),
        Rule("broken_frames", "clip_frames", "frames must decode and keep to the limits of size (or leave the clip "
             "out)", null, "problem", allowed=params.max_broken_images),
        Rule("short_clips", "products", "a clip must have 2 frames or more (a lone picture goes into image)",
             between, "frames", {"min_value": 2}),
        Rule("duplicate_images", "products", "products must have pictures of their own",
             unique, "pixels", allowed=params.max_duplicate_images),
        Rule("missing_pictures", "catalogue", "most products should have a picture", between, "value",
             {"max_value": params.max_without_picture}, severity="warning"),
        Rule("placeholders", "products", f"a picture should be of {params.max_sharing} products at most (or is none "
             "of any)", between, "same_pixels", {"max_value": params.max_sharing}, severity="warning"),
        Rule("boilerplate", "products", f"a description should be of {params.max_sharing} products at most",
             between, "same_description", {"max_value": params.max_sharing}, severity="warning"),
        Rule("foreign_texts", "products", "title and description should be in "
             f"{' or '.join(params.languages) or 'the language of most'}", null, "foreign",
             allowed=params.max_poor_texts, severity="warning"),
        Rule("empty_texts", "products", f"title and description should have {params.min_letters} letters or more",
             between, "letters", {"min_value": params.min_letters}, allowed=params.max_poor_texts,
             severity="warning"),
        Rule("small_images", "pictures", f"pictures must have {params.min_image_side} pixels or more a side",
             between, "side", {"min_value": params.min_image_side}, severity="warning"),
        Rule("flat_images", "pictures", "pictures must show more than one colour",
             among, "flat", {"value_set": [False]}, severity="warning"),
        Rule("drift", "drift", "products must be like those of the champion's data (population stability index)",
             between, "drift", {"max_value": params.max_drift}, severity="warning"),
        Rule("mismatched", "picture_matches", "a picture must fit its product's text better than most others do, to "
             "the champion", between, "match", {"min_value": params.min_match}, allowed=params.max_mismatched,
             severity="warning"),
    ]
    # fmt: on
    names = list(dict.fromkeys(rule.name for rule in table))
    if unknown := sorted(set(params.severity) - set(names)):
        raise DataError(f"validate.severity: unknown rule {', '.join(unknown)}; known are {', '.join(names)}")
    return [rule._replace(severity=params.severity.get(rule.name, rule.severity)) for rule in table]


class Inspection:
    """A table of rules checked on frames by Great Expectations, its results, and its Data Docs."""

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
        """One per rule whose frame was there, in the order of the table."""
        return [self._findings[number] for number in sorted(self._findings)]

    @property
    def broken(self) -> list[Finding]:
        """Those of severity "error" that do not hold."""
        return [finding for finding in self.findings if not finding.passed and finding.severity == "error"]

    def check(self, frames: Mapping[str, pd.DataFrame]) -> None:
        """Check the rules about these frames, each of which comes once."""
        for name in dict.fromkeys(rule.frame for rule in self._table if rule.frame in frames):
            suite = {number: rule for number, rule in enumerate(self._table) if rule.frame == name}
            self._findings |= self._check(name, frames[name], suite)

    def _check(self, name: str, frame: pd.DataFrame, suite: Mapping[int, Rule]) -> dict[int, Finding]:
        expectations = [rule.expectation(number) for number, rule in suite.items()]
        definition = gx.ValidationDefinition(
            name=name,
            data=self._source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe("all"),
            suite=self._context.suites.add(gx.ExpectationSuite(name=name, expectations=expectations)),
        )
        checked = self._context.validation_definitions.add(definition).run(
            batch_parameters={"dataframe": frame},
            # Without unexpected_index_column_names the rows come as positions, thirty times faster on a million.
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": EXAMPLES},
            run_id=self._run,
        )
        self._results.append(_without_stamps(checked.to_json_dict()))
        numbered = {result.expectation_config.meta["number"]: result for result in checked.results}
        return {number: _finding(rule, numbered[number], frame) for number, rule in suite.items()}

    def write_results(self, path: Path) -> None:
        """Write Great Expectations' own results as JSON, a list of suites: the same bytes for the same findings."""
        path.write_text(json.dumps(self._results, indent=2, ensure_ascii=False) + "\n")

    def write_data_docs(self, folder: Path) -> None:
        """Build Great Expectations' Data Docs: index.html, with the time of this run.

        Their pages ask several servers for styles and scripts; a browser without a network shows little of them.
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
            places = page.relative_to(folder).parts
            text = LOGO.sub("../" * (len(places) - 1) + "static/images/logo-long.png", page.read_text())
            if places[0] == "validations":  # its own name for the data is lost on frames in memory
                text = text.replace("Data asset: None", f"Data asset: {places[1]}")
            page.write_text(text)


def _without_stamps(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what changes from run to run."""
    for checked in result["results"]:
        del checked["expectation_config"]["id"]
    return {name: result[name] for name in ("suite_name", "success", "statistics", "results")}


def _finding(rule: Rule, result: Any, frame: pd.DataFrame) -> Finding:
    if not result.result:
        raise RuntimeError(f"{rule.name}: Great Expectations could not check it: {result.exception_info}")
    facts = result.result
    count, total = facts["unexpected_count"], facts["element_count"] - facts.get("missing_count", 0)
    return Finding(
        rule=rule.name,
        table=rule.frame,
        severity=rule.severity,
        says=rule.says,
        expected=rule.expected,
        passed=bool(result.success),
        count=count,
        total=total,
        share=count / total if total else 0.0,
        examples=_examples(
            rule, frame, facts["partial_unexpected_index_list"], facts["partial_unexpected_list"]
        ),
        products=_products(rule.frame, frame, facts["partial_unexpected_index_list"]),
    )


# Frame → its column that names a product, and what of that text is the product's id.
PRODUCT = {
    "products": (0, re.compile("(.*)", re.DOTALL)),
    "pictures": (0, re.compile("products/(.*)", re.DOTALL)),
    "clip_frames": (0, re.compile(r"products/(.*) frame \d+", re.DOTALL)),
    "judgements": (1, re.compile("(.*)", re.DOTALL)),
    "exact_matches": (0, re.compile(r"(.*) \(\w+\)", re.DOTALL)),
    "shared_matches": (0, re.compile(r"(.*) \(\w+\)", re.DOTALL)),
    "picture_matches": (0, re.compile("(.*)", re.DOTALL)),
}


def _products(name: str, frame: pd.DataFrame, rows: Sequence[int]) -> list[str]:
    """The ids of the products that rows of a frame are about, each once."""
    if name not in PRODUCT:
        return []
    column, pattern = PRODUCT[name]
    texts = frame.iloc[list(rows), column].dropna().astype("str")
    return list(dict.fromkeys(match[1] for text in texts if (match := pattern.fullmatch(text))))


def _examples(rule: Rule, frame: pd.DataFrame, rows: Sequence[int], values: Sequence[Any]) -> list[str]:
    """The ids of rows, with the value at fault where it says more: "q1 p9: 7"."""
    width = 2 if rule.frame == "judgements" else 1
    ids = [" ".join(frame.iloc[row, :width].fillna(f"row {row}").astype("str")) for row in rows]
    if rule.expect in (gxe.ExpectColumnValuesToBeUnique, gxe.ExpectCompoundColumnsToBeUnique):
        return list(dict.fromkeys(ids))  # the value is the id, or a hash
    silent = [pd.isna(value) or pd.api.types.is_bool(value) for value in values]
    said = [f"{value:.4g}" if isinstance(value, float) else value for value in values]
    return [key if mute else f"{key}: {value}" for key, value, mute in zip(ids, said, silent, strict=True)]
