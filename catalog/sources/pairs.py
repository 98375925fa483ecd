"""Pictures that people described: *MS-COCO* captions and *Visual Genome* regions, as pairs across modalities.

A picture is a product; what people wrote of it are queries whose one exact match it is. Nothing that is a query
stands in the product's own text, or a search by words alone would find it.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from catalog.conversion import Row
from catalog.reading import Files, document
from catalog.schema import EXACT, HUMAN, DataError
from catalog.sources import source
from catalog.splits import split
from catalog.text import normalise

NAMES = 5  # of objects that a picture of Visual Genome is titled by


@source("coco")
def coco(files: Files, *, captions: str = "captions_*.json") -> Iterator[Row]:
    """MS-COCO: the first caption of a picture is its title, the others are queries for it.

    https://cocodataset.org/#format-data (Lin et al., 2014): annotations/captions_val2017.json beside val2017/, whose
    pictures may be absent.

    Args:
        files: The folder or zip.
        captions: Name, or pattern, of the file of captions, where there are several.
    """
    found = files.all(f"annotations/{captions}") or files.all(captions)
    if len(found) != 1:
        said = (
            f"several of {captions}: {', '.join(found)}; choose with --captions"
            if found
            else f"no {captions}"
        )
        raise DataError(f"{files.source}: {said}")
    folder = PurePosixPath(found[0]).parent
    folder = folder.parent if folder.name == "annotations" else folder
    inside = str(folder / PurePosixPath(found[0]).stem.split("_")[1])  # captions_val2017_mini → val2017
    told: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for one in document(files, found[0], "annotations.item"):
        told[one["image_id"]].append((one["id"], one["caption"].strip()))
    for captioned in told.values():
        captioned.sort()
    for one in document(files, found[0], "images.item"):
        if not told[one["id"]]:
            files.fault(f"{found[0]}, image {one['id']}", "no caption")
            continue
        name = f"{inside}/{one['file_name']}"
        image = files.picture(name) if files.has(name) else None
        own = {"product_id": str(one["id"]), "title": told[one["id"]][0][1], "image": image}
        yield Row("products", f"{found[0]}, image {one['id']}", own)
    yield from _pairs(files, found[0], {str(image): [text for _, text in told[image][1:]] for image in told})


@source("visual_genome")
def visual_genome(files: Files) -> Iterator[Row]:
    """Visual Genome: the names of a picture's largest objects are its title, its regions' phrases queries for it.

    https://homes.cs.washington.edu/~ranjay/visualgenome/api.html (Krishna et al., 2017): region_descriptions.json,
    objects.json, attributes.json, image_data.json beside VG_100K/ and VG_100K_2/, whose pictures may be absent.
    """
    names = {
        one: files.need(f"{one}.json")
        for one in ("image_data", "objects", "attributes", "region_descriptions")
    }
    folder = PurePosixPath(names["image_data"]).parent
    titles: dict[int, str] = {}
    for one in document(files, names["objects"], "item"):
        largest = sorted(one["objects"], key=lambda found: -found["w"] * found["h"])
        seen = dict.fromkeys(found["names"][0] for found in largest if found["names"])
        titles[one["image_id"]] = ", ".join(list(seen)[:NAMES])
    noted: dict[int, dict[str, str]] = {}
    for one in document(files, names["attributes"], "item"):
        told = {
            found["names"][0]: ", ".join(found["attributes"])
            for found in one["attributes"]
            if found.get("attributes")
        }
        noted[one["image_id"]] = told
    for one in document(files, names["image_data"], "item"):
        image, inside = one["image_id"], one["url"].split("/")[-2:]
        name = str(folder.joinpath(*inside))
        own: dict[str, Any] = {
            "product_id": str(image),
            "title": titles.get(image),
            "attributes": noted.get(image),
        }
        own["image"] = files.picture(name) if files.has(name) else None
        yield Row("products", f"{names['image_data']}, image {image}", own)
    phrases: dict[str, list[str]] = {}
    for one in document(files, names["region_descriptions"], "item"):
        regions = one["regions"]
        phrases[str(regions[0]["image_id"] if regions else one.get("id"))] = [
            r["phrase"].strip() for r in regions
        ]
    yield from _pairs(files, names["region_descriptions"], phrases)


def _pairs(files: Files, where: str, told: dict[str, list[str]]) -> Iterator[Row]:
    """A query for each text, whose exact matches are its pictures; all texts of a picture are in one split.

    A text that belongs to pictures of several splits stays in the first one's, and is left out of the others'.
    """
    splits = split(told)
    first: dict[str, tuple[str, str]] = {}  # text → its query, and that one's split
    judged: list[tuple[str, str]] = []
    for image, texts in told.items():
        for number, text in enumerate(texts):
            key = normalise(text) or ""
            query, its_split = first.setdefault(key, (f"{image}-{number}", splits[image]))
            if its_split != splits[image]:
                files.fault(
                    f"{where}, image {image}", f"'{text[:40]}' is also said of a picture of {its_split}"
                )
                continue
            judged.append((query, image))
            if query == f"{image}-{number}":
                own = {"query_id": query, "text": text, "split": its_split, "judged_by": HUMAN}
                yield Row("queries", f"{where}, image {image}", own)
    for query, image in judged:
        yield Row(
            "judgements", f"{where}, image {image}", {"query_id": query, "product_id": image, "grade": EXACT}
        )
