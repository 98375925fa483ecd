"""A data set compared with the champion's: data drift, and pictures that do not match their text."""

import io
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup
from vitrine_judge.pages import data_uri, template_environment
from vitrine_judge.plots import paired_bars

from catalog import store
from catalog.images import PictureError, decode
from catalog.schema import main_picture
from registry import champion_process
from validation.drift import BINS, EMBEDDINGS, SIGNIFICANCE_LEVEL, Drift, add_vectors, measure_drift
from validation.params import ValidateParams

MAX_CARDS = 60  # products on the page
THUMBNAIL_SIDE = 160  # pixels
PAGE, PROFILE = "champion.html", "profile.parquet"


@dataclass(frozen=True)
class ChampionComparison:
    """A data set compared with the champion's.

    Attributes:
        version: The champion's number.
        drifts: From the champion's data to the new data.
        matches: Columns product_id and match of `fusion.search.matching.score_matches`, the worst first, without nulls.
        max_drift: The population stability index of embeddings above which the champion's matches are unreliable.
        query_splits: `validation.query_splits.hash_splits` of the champion's data; None if not registered.
    """

    version: str
    drifts: list[Drift]
    matches: pa.Table
    max_drift: float
    query_splits: pa.Table | None = None

    @property
    def reliable(self) -> bool:
        """Whether `matches` mean something: not on data far from those that the champion was trained on."""
        embeddings = next(drift for drift in self.drifts if drift.name == EMBEDDINGS)
        return not (embeddings.significant and embeddings.index > self.max_drift)

    def frames(self) -> dict[str, pd.DataFrame]:
        """Frames for `validation.expectations`: drift (null where not significant), and matches if reliable."""
        rows = [(drift.name, drift.index if drift.significant else None) for drift in self.drifts]
        drift_frame = pd.DataFrame(rows, columns=["property", "drift"])
        matches = self.matches if self.reliable else self.matches.slice(0, 0)
        return {
            "drift": drift_frame.astype({"property": "str", "drift": float}),
            "picture_matches": matches.to_pandas(),
        }

    def summary(self) -> dict[str, object]:
        """The content for report.json."""
        return {
            "version": self.version,
            "drift": max(drift.index for drift in self.drifts),
            "drifts": {drift.name: {"index": drift.index, "p": drift.p} for drift in self.drifts},
            "pictures": len(self.matches),
            "reliable": self.reliable,
        }

    def write(self, path: Path, data: Path, params: ValidateParams) -> None:
        """Write the page: drift, and the `MAX_CARDS` worst pictures."""
        worst = self.matches.slice(0, MAX_CARDS if self.reliable else 0)
        thumbnails = read_thumbnails(data, worst["product_id"].to_pylist())
        template = template_environment(Path(__file__).parent).get_template("champion.html.jinja")
        page = template.render(
            comparison=self,
            params=params,
            significance_level=SIGNIFICANCE_LEVEL,
            cards=[(row, thumbnails[row["product_id"]]) for row in worst.to_pylist()],
            plots=[_plot_shares(drift) for drift in self.drifts],
        )
        path.write_text(page)


def compare_with_champion(data: Path, profile: pa.Table, params: ValidateParams) -> ChampionComparison | None:
    """Compare a data set with the champion's; None where there is no champion or no product.

    Args:
        data: The data set.
        profile: Result of `validation.drift.profile_products`.
        params: The champion's model name.

    Raises:
        DataError: where MLflow cannot be reached, or the champion was not registered by this chain.
    """
    version = champion_process.find_version(params.model_name) if params.model_name else None
    if version is None or not len(profile):
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = champion_process.download_model(version, folder)
        reference = pq.read_table(champion_process.find_artifact(package, "profile"))
        splits_path = champion_process.list_artifacts(package).get("query_splits")
        query_splits = pq.read_table(splits_path) if splits_path else None
        profile_path, vectors_path = folder / PROFILE, folder / "vectors.parquet"
        pq.write_table(profile, profile_path)
        champion_process.run_in_own_environment(
            package, "embed", data=data.resolve(), products=profile_path, vectors=vectors_path
        )
        vectors = pq.read_table(vectors_path)
    drifts = measure_drift(reference, add_vectors(profile, vectors))
    matches = vectors.select(["product_id", "match"]).filter(pc.is_valid(vectors["match"]))
    matches = matches.sort_by([("match", "ascending")])
    return ChampionComparison(str(version.version), drifts, matches, params.max_drift, query_splits)


def _plot_shares(drift: Drift) -> Markup:
    """Plot the shares of the first bins: the most frequent categories, or all bins of numbers."""
    first = slice(0, BINS + 2)
    summary = f"Shares of products by {drift.name}; the table has the numbers"
    return paired_bars(drift.bins[first], drift.reference[first], drift.current[first], drift.name, summary)


def read_thumbnails(data: Path, product_ids: Collection[str]) -> dict[str, tuple[str | None, str | None]]:
    """Read titles and thumbnails, as data URIs, of some products; None for a picture that is missing or broken.

    Args:
        data: The data set.
        product_ids: Unknown products are left out.
    """
    thumbnails: dict[str, tuple[str | None, str | None]] = {}
    if not product_ids:
        return thumbnails
    ids = pa.array(sorted(product_ids), pa.string())
    for batch in store.read_batches(data, "products", ["product_id", "title", "images"]):
        for row in batch.filter(pc.is_in(batch["product_id"], ids)).to_pylist():
            thumbnails[row["product_id"]] = row["title"], data_uri(_shrink(main_picture(row)))
    return thumbnails


def _shrink(picture: bytes | None) -> bytes | None:
    stream = io.BytesIO()
    if picture is None:
        return None
    try:
        image = decode(picture)
    except PictureError:  # may be what the page reports
        return None
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    image.save(stream, "JPEG")
    return stream.getvalue()
