"""A data set beside the champion's: how far it has drifted, and which pictures the champion finds out of place."""

import io
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from markupsafe import Markup

from catalog import store
from catalog.images import PictureError, decode
from eval.pages import data_uri, pages
from eval.plots import paired_bars
from registry import champion_process
from validation.drift import BINS, CHANCE, EMBEDDINGS, Drift, compare, with_vectors
from validation.params import ValidateParams

WORST = 60  # products shown
SIDE = 160  # pixels of a picture shown
PAGE, PROFILE = "champion.html", "profile.parquet"


@dataclass(frozen=True)
class Beside:
    """What the champion has to say.

    Attributes:
        version: The champion's number.
        drifts: Between its data and these.
        matches: Columns product_id and match of `fusion.search.matching.matches`, the worst first, without nulls.
        max_drift: The population stability index of embeddings from which the champion does not know such products.
    """

    version: str
    drifts: list[Drift]
    matches: pa.Table
    max_drift: float

    @property
    def reliable(self) -> bool:
        """Whether the champion knows such products: what it says of pictures far from its data means little."""
        embeddings = next(drift for drift in self.drifts if drift.what == EMBEDDINGS)
        return not (embeddings.proven and embeddings.index > self.max_drift)

    def frames(self) -> dict[str, pd.DataFrame]:
        """For the rules of `validation.expectations`: drift (null where it may be chance), and matches if reliable."""
        rows = [(one.what, one.index if one.proven else None) for one in self.drifts]
        drift = pd.DataFrame(rows, columns=["property", "drift"]).astype({"property": "str", "drift": float})
        matches = self.matches if self.reliable else self.matches.slice(0, 0)
        return {"drift": drift, "picture_matches": matches.to_pandas()}

    def summary(self) -> dict[str, object]:
        """For report.json."""
        return {
            "version": self.version,
            "drift": max(one.index for one in self.drifts),
            "drifts": {one.what: {"index": one.index, "p": one.p} for one in self.drifts},
            "pictures": len(self.matches),
            "reliable": self.reliable,
        }

    def write(self, path: Path, data: Path, params: ValidateParams) -> None:
        """The page: drift, and the `WORST` pictures to look through."""
        worst = self.matches.slice(0, WORST if self.reliable else 0)
        thumbnails = read_thumbnails(data, worst["product_id"].to_pylist())
        cards = [(row, thumbnails[row["product_id"]]) for row in worst.to_pylist()]
        page = pages(Path(__file__).parent).get_template("champion.html.jinja")
        plots = [_plot(drift) for drift in self.drifts]
        path.write_text(page.render(beside=self, params=params, chance=CHANCE, cards=cards, plots=plots))


def beside_champion(data: Path, profile: pa.Table, params: ValidateParams) -> Beside | None:
    """Let the champion look at a data set; None where there is no champion.

    Args:
        data: The data set.
        profile: Of `validation.drift.profile`.
        params: Whose champion.

    Raises:
        DataError: where MLflow cannot be reached, or the champion was not registered by this chain.
    """
    version = champion_process.of(params.model_name) if params.model_name else None
    if version is None or not len(profile):
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = champion_process.fetch(version, folder)
        then = pq.read_table(champion_process.artifact(package, "profile"))
        wanted, seen = folder / PROFILE, folder / "vectors.parquet"
        pq.write_table(profile, wanted)
        champion_process.run(package, "embed", data=data.resolve(), products=wanted, vectors=seen)
        vectors = pq.read_table(seen)
    drifts = compare(then, with_vectors(profile, vectors))
    matches = vectors.select(["product_id", "match"]).filter(pc.is_valid(vectors["match"]))
    return Beside(str(version.version), drifts, matches.sort_by([("match", "ascending")]), params.max_drift)


def _plot(drift: Drift) -> Markup:
    """The shares of the first bins: of values, the most frequent; of numbers, all."""
    first = slice(0, BINS + 2)
    summary = f"Shares of products by {drift.what}; the table has the numbers"
    return paired_bars(drift.bins[first], drift.then[first], drift.now[first], drift.what, summary)


def read_thumbnails(data: Path, product_ids: Collection[str]) -> dict[str, tuple[str | None, str | None]]:
    """Title, and a small picture as a data URI, of some products; None for a picture that is missing or broken.

    Args:
        data: The data set.
        product_ids: Those that it does not have are left out.
    """
    thumbnails: dict[str, tuple[str | None, str | None]] = {}
    ids = pa.array(sorted(product_ids), pa.string())
    for batch in store.batches(data, "products", ["product_id", "title", "image"]) if product_ids else ():
        for row in batch.filter(pc.is_in(batch["product_id"], ids)).to_pylist():
            thumbnails[row["product_id"]] = row["title"], data_uri(_shrink(row["image"]))
    return thumbnails


def _shrink(picture: Mapping[str, Any] | None) -> bytes | None:
    stream = io.BytesIO()
    try:
        image = decode(picture["bytes"]) if picture and picture["bytes"] else None
    except PictureError:  # which may be what the page is about
        return None
    if image is None:
        return None
    image.thumbnail((SIDE, SIDE))
    image.save(stream, "JPEG")
    return stream.getvalue()
