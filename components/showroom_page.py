"""The page of `components.showroom`: a search box, a picture, and what each model answers. Run by Streamlit."""

import base64
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as ds
import requests
import streamlit as st
from PIL import Image

from catalog.images import PictureError, decode

K = 8
MODALITIES = {"share_text": "words", "share_image": "picture", "share_video": "clip"}


def ask(address: str, query: dict[str, str]) -> tuple[list[dict[str, Any]] | str, float]:
    """A model's products, or why there are none; and how long it took, in seconds."""
    began = time.perf_counter()
    try:
        answer = requests.post(address, json={"dataframe_records": [query], "params": {"k": K}}, timeout=120)
        found = answer.json()
    except (requests.RequestException, ValueError) as error:
        return f"The model does not answer: {error}", time.perf_counter() - began
    took = time.perf_counter() - began
    return (found["predictions"] if answer.ok else reason(found)), took


def reason(found: dict[str, Any]) -> str:
    """The last line of what MLflow's server says of a bad request; before it stands the request."""
    return str(found.get("message", found)).rpartition("Error: ")[2]


def pictures(data: Path, ids: list[str]) -> dict[str, Image.Image]:
    """Of those products that have one which can be shown."""
    table = ds.dataset(data / "products").to_table(
        ["product_id", "image"], filter=pc.field("product_id").isin(ids)
    )
    found = {}
    for row in table.to_pylist():
        with suppress(PictureError):
            if row["image"]:
                found[row["product_id"]] = decode(row["image"]["bytes"])
    return found


def why(product: dict[str, Any]) -> str:
    """What its score is owed to, the most first."""
    shares = {name: round(100 * (product.get(share) or 0)) for share, name in MODALITIES.items()}
    parts = [f"{share} % {name}" for name, share in sorted(shares.items(), key=lambda one: -one[1]) if share]
    return "owed to: " + ", ".join(parts) if parts else "owed to no single modality"


def show(product: dict[str, Any], picture: Image.Image | None) -> None:
    """One result."""
    with st.container(border=True):
        left, right = st.columns([1, 2])
        if picture:
            left.image(picture, width=96)
        else:
            left.text("no picture")
        right.text(f"{product['rank']}. {product['title']}")  # not Markdown: titles are data
        price = f"{product['price']:.2f} {product['currency'] or ''}" if product.get("price") else ""
        right.text(" · ".join(part for part in (product.get("brand"), price) if part))
        right.caption(f"score {product['score']:.3f}, {why(product)}")


def main() -> None:
    """Draw the page for what is typed and dropped."""
    models, data = json.loads(sys.argv[1]), Path(sys.argv[2])
    st.set_page_config("Vitrine showroom", layout="wide")
    st.title("Showroom")
    text = st.text_input("Search for products", placeholder="red dotted mug", max_chars=500)
    upload = st.file_uploader("Or drop a picture, beside words or alone", ["png", "jpg", "jpeg", "webp"])
    query = {"text": text.strip()} if text.strip() else {}
    if upload:
        try:
            st.image(decode(upload.getvalue()), width=96)
        except PictureError as error:
            st.error(f"{upload.name}: this picture cannot be used: {error}")
            return
        query["image"] = base64.b64encode(upload.getvalue()).decode()
    if not query:
        st.info("Type something or drop a picture: " + " and ".join(models) + " will answer.")
        return
    for (name, address), column in zip(models.items(), st.columns(len(models)), strict=True):
        found, took = ask(address, query)
        with column:
            st.subheader(name)
            if isinstance(found, str):
                st.error(found)
                continue
            st.caption(f"{len(found)} products in {1000 * took:.0f} ms")
            seen = pictures(data, [product["product_id"] for product in found])
            for product in found:
                show(product, seen.get(product["product_id"]))


main()
