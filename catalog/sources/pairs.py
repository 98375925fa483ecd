"""Pictures with descriptions by people: *MS-COCO* captions and *Visual Genome* regions.

A picture is a product; each description is a query with this picture as its only exact match. The product's own text
contains no query; otherwise a text search would find it by words alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from catalog.conversion import Row
from catalog.files import Files
from catalog.reading import read_json_items
from catalog.schema import EXACT, HUMAN, DataError
from catalog.sources import source
from catalog.splits import assign_splits
from catalog.text import normalise

TITLE_OBJECTS = 5  # objects in the title of a Visual Genome picture


@source("coco")
def coco(files: Files, *, captions: str = "captions_*.json") -> Iterator[Row]:
    """MS-COCO: the first caption of a picture is its title, the others are queries for it.

    https://cocodataset.org/#format-data (Lin et al., 2014): annotations/captions_val2017.json and val2017/; the
    pictures are optional.

    Args:
        files: The folder or zip.
        captions: Name or pattern of the file of captions, if there are several.
    """
    table = _find_captions(files, captions)
    folder = PurePosixPath(table).parent
    folder = folder.parent if folder.name == "annotations" else folder
    pictures = folder / PurePosixPath(table).stem.split("_")[1]  # captions_val2017_mini → val2017
    texts = _read_captions(files, table)
    for item in read_json_items(files, table, "images.item"):
        where = f"{table}, image {item['id']}"
        if not texts[item["id"]]:
            files.add_fault(where, "no caption")
            continue
        name = f"{pictures}/{item['file_name']}"
        images = [files.get_media(name)] if files.has(name) else None
        values = {"product_id": str(item["id"]), "title": texts[item["id"]][0], "images": images}
        yield Row("products", where, values)
    queries = {str(image): image_texts[1:] for image, image_texts in texts.items()}
    yield from _query_rows(files, table, queries)


def _find_captions(files: Files, pattern: str) -> str:
    names = files.find_all(f"annotations/{pattern}") or files.find_all(pattern)
    if not names:
        raise DataError(f"{files.source}: no {pattern}")
    if len(names) > 1:
        raise DataError(
            f"{files.source}: several of {pattern}: {', '.join(names)}; choose one with --captions"
        )
    return names[0]


def _read_captions(files: Files, table: str) -> dict[int, list[str]]:
    """Read captions: image id → texts in the order of their ids; a missing image has none."""
    captions: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for item in read_json_items(files, table, "annotations.item"):
        captions[item["image_id"]].append((item["id"], item["caption"].strip()))
    texts: dict[int, list[str]] = defaultdict(list)
    texts.update({image: [text for _, text in sorted(pairs)] for image, pairs in captions.items()})
    return texts


@source("visual_genome")
def visual_genome(files: Files) -> Iterator[Row]:
    """Visual Genome: the names of a picture's largest objects are its title, the phrases of its regions are queries.

    https://homes.cs.washington.edu/~ranjay/visualgenome/api.html (Krishna et al., 2017): region_descriptions.json,
    objects.json, attributes.json, image_data.json, VG_100K/ and VG_100K_2/; the pictures are optional.
    """
    images, objects, attributes, regions = (
        files.require(f"{name}.json")
        for name in ("image_data", "objects", "attributes", "region_descriptions")
    )
    titles = {
        item["image_id"]: _format_title(item["objects"]) for item in read_json_items(files, objects, "item")
    }
    attributes_by_image = {
        item["image_id"]: _collect_attributes(item["attributes"])
        for item in read_json_items(files, attributes, "item")
    }
    for item in read_json_items(files, images, "item"):
        image = item["image_id"]
        name = str(PurePosixPath(images).parent.joinpath(*item["url"].split("/")[-2:]))
        values = {
            "product_id": str(image),
            "title": titles.get(image),
            "attributes": attributes_by_image.get(image),
            "images": [files.get_media(name)] if files.has(name) else None,
        }
        yield Row("products", f"{images}, image {image}", values)
    phrases: dict[str, list[str]] = {}
    for item in read_json_items(files, regions, "item"):
        image = item["regions"][0]["image_id"] if item["regions"] else item.get("id")
        phrases[str(image)] = [region["phrase"].strip() for region in item["regions"]]
    yield from _query_rows(files, regions, phrases)


def _format_title(objects: Sequence[Mapping[str, Any]]) -> str:
    """Join the names of the largest objects."""
    by_area = sorted(objects, key=lambda item: -item["w"] * item["h"])
    names = dict.fromkeys(item["names"][0] for item in by_area if item["names"])
    return ", ".join(list(names)[:TITLE_OBJECTS])


def _collect_attributes(objects: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Collect the attributes of objects by the objects' names."""
    return {item["names"][0]: ", ".join(item["attributes"]) for item in objects if item.get("attributes")}


def _query_rows(files: Files, where: str, texts: Mapping[str, Sequence[str]]) -> Iterator[Row]:
    """Yield a query for each text, with its pictures as exact matches.

    All texts of a picture are in one split and one cluster.

    If several pictures have the same text, the query is in split and cluster of the first; pictures of other splits are
    not judged.
    """
    splits = assign_splits(texts)
    first: dict[str, tuple[str, str]] = {}  # normalised text → query id and split
    judgements: list[tuple[str, str]] = []
    for image, image_texts in texts.items():
        for number, text in enumerate(image_texts):
            new_id = f"{image}-{number}"
            query_id, split = first.setdefault(normalise(text) or "", (new_id, splits[image]))
            if split != splits[image]:
                reason = f"'{text[:40]}' also describes a picture of {split}"
                files.add_fault(f"{where}, image {image}", reason)
                continue
            judgements.append((query_id, image))
            if query_id == new_id:
                values = {"query_id": query_id, "text": text, "split": split, "judged_by": HUMAN}
                yield Row("queries", f"{where}, image {image}", values | {"cluster": image})
    for query_id, image in judgements:
        judgement = {"query_id": query_id, "product_id": image, "grade": EXACT}
        yield Row("judgements", f"{where}, image {image}", judgement)
