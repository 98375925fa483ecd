"""A data set beside the champion's: how far it has drifted, and which pictures the champion finds out of place."""

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import store
from catalog.images import decode
from components import champion
from components.drift import CHANCE, Drift, compare, with_vectors
from components.params import ValidateParams
from eval.pages import data_uri, pages

WORST = 60  # products shown
SIDE = 160  # pixels of a picture shown
PAGE, PROFILE = "champion.html", "profile.parquet"


@dataclass(frozen=True)
class Beside:
    """What the champion has to say.

    Attributes:
        version: The champion's number.
        drifts: Between its data and these.
        matches: Columns product_id and match of `fusion.matching.matches`, the worst first; those without are left out.
    """

    version: str
    drifts: list[Drift]
    matches: pa.Table

    def frames(self) -> dict[str, pd.DataFrame]:
        """For the rules of `components.expectations`: drift (null where it may be chance) and matches."""
        rows = [(one.what, one.index if one.proven else None) for one in self.drifts]
        drift = pd.DataFrame(rows, columns=["property", "drift"]).astype({"property": "str", "drift": float})
        return {"drift": drift, "matches": self.matches.to_pandas()}

    def summary(self) -> dict[str, object]:
        """For report.json."""
        return {
            "version": self.version,
            "drift": max(one.index for one in self.drifts),
            "drifts": {one.what: {"index": one.index, "p": one.p} for one in self.drifts},
            "pictures": len(self.matches),
        }

    def write(self, path: Path, data: Path, params: ValidateParams) -> None:
        """The page: drift, and the `WORST` pictures to look through."""
        worst = self.matches.slice(0, WORST)
        shown = _shown(data, worst["product_id"].combine_chunks())
        cards = [(row, shown[row["product_id"]]) for row in worst.to_pylist()]
        page = pages(Path(__file__).parent).get_template("champion.html.jinja")
        path.write_text(page.render(beside=self, params=params, chance=CHANCE, cards=cards))


def beside_champion(data: Path, profile: pa.Table, params: ValidateParams) -> Beside | None:
    """Let the champion look at a data set; None where there is no champion.

    Args:
        data: The data set.
        profile: Of `components.drift.profile`.
        params: Whose champion.

    Raises:
        DataError: where MLflow cannot be reached, or the champion was not registered by this chain.
    """
    version = champion.of(params.model_name) if params.model_name else None
    if version is None or not len(profile):
        return None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        package = champion.fetch(version, folder)
        then = pq.read_table(champion.artifact(package, "profile"))
        wanted, seen = folder / PROFILE, folder / "vectors.parquet"
        pq.write_table(profile, wanted)
        champion.run(package, "embed", data=data.resolve(), products=wanted, vectors=seen)
        vectors = pq.read_table(seen)
    drifts = compare(then, with_vectors(profile, vectors))
    matches = vectors.select(["product_id", "match"]).filter(pc.is_valid(vectors["match"]))
    return Beside(str(version.version), drifts, matches.sort_by([("match", "ascending")]))


def _shown(data: Path, product_ids: pa.Array) -> dict[str, tuple[str, str | None]]:
    """Title, and picture as a data URI, of some products."""
    found = {}
    for batch in store.batches(data, "products", ["product_id", "title", "image"]):
        for row in batch.filter(pc.is_in(batch["product_id"], product_ids)).to_pylist():
            found[row["product_id"]] = row["title"], data_uri(_small(row["image"]["bytes"]))
    return found


def _small(picture: bytes) -> bytes:
    image = decode(picture)
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG")
    return stream.getvalue()
