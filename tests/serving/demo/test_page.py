"""The demo page with a small real model, over HTTP."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from io import StringIO
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from catalog import store
from catalog.schema import PRODUCTS
from catalog.text import normalise
from fusion.search.hybrid import HYBRID_FILE
from fusion.search.search_index import SearchIndex
from registry import local_stack
from serving.demo import catalogue
from serving.demo import page as page_module
from serving.demo.catalogue import DemoCatalogue
from serving.demo.page import Demo
from serving.demo.search import Model, Search
from serving.demo.votes import Votes

if TYPE_CHECKING:
    from serving.pyfunc import ProductSearch

OPTIONAL = [field.name for field in PRODUCTS if field.nullable]
SAMPLE = Path(__file__).parents[3] / "data"
TIMEOUT = 30  # seconds for one response


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """The address of an application in this process."""
    port = local_stack.find_free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = Thread(target=server.run, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{port}"
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield address
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def product_search(model: Path, index: Path, evaluation: Path) -> "ProductSearch":
    """The registered model's code over a small catalogue."""
    from serving.pyfunc import ProductSearch

    product_search = ProductSearch()
    product_search.load_context(
        SimpleNamespace(
            artifacts={"model": str(model), "index": str(index), "hybrid": str(evaluation / HYBRID_FILE)}
        )
    )
    return product_search


@pytest.fixture(scope="module")
def model_address(product_search: "ProductSearch") -> Iterator[str]:
    """The endpoint of the model; it responds in MLflow's JSON."""
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc.scoring_server import predictions_to_json

    def answer(body: dict[str, Any]) -> Response:
        stream = StringIO()
        try:
            rows = pd.DataFrame(body["dataframe_records"])
            predictions_to_json(product_search.predict(None, rows, body["params"]), stream)
        except MlflowException as error:
            return Response(error.serialize_as_json(), 400, media_type="application/json")
        return Response(stream.getvalue(), media_type="application/json")

    async def invoke(request: Request) -> Response:
        return await run_in_threadpool(answer, await request.json())

    with serving(Starlette(routes=[Route("/invocations", invoke, methods=["POST"])])) as address:
        yield f"{address}/invocations"


@pytest.fixture
def models(model_address: str) -> list[Model]:
    return [Model("champion", "1", model_address), Model("challenger", "2", model_address)]


@pytest.fixture
def page(models: list[Model], data: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a page over two models and the small data set."""
    with serving(Demo(models, DemoCatalogue.load(data), Votes(tmp_path / "votes")).build_app()) as address:
        yield address


def get(address: str, search: Search) -> requests.Response:
    return requests.get(address + search.url(), timeout=TIMEOUT)


def post(page: str, path: str, fields: dict[str, str], **more: Any) -> requests.Response:
    headers = {"Origin": page} | more.pop("headers", {})
    return requests.post(page + path, fields, headers=headers, timeout=TIMEOUT, allow_redirects=False, **more)


def titles(html: str) -> list[str]:
    """Titles of all products on a page."""
    return [unescape(title) for title in re.findall(r"<h3>(.*?)</h3>", html, re.DOTALL)]


def problems(html: str) -> list[str]:
    return [unescape(text) for text in re.findall(r'role="alert">(.*?)</p>', html, re.DOTALL)]


def set_nulls(table: pa.Table, columns: list[str], half: bool) -> pa.Table:
    """Replace the values of some columns by null: all of them, or those of every second row."""
    for name in columns:
        if name in table.column_names:
            values = [
                value if half and row % 2 else None for row, value in enumerate(table[name].to_pylist())
            ]
            place, field = table.column_names.index(name), table.schema.field(name)
            table = table.set_column(place, field.with_nullable(True), pa.array(values, field.type))
    return table


def check_test_queries(demo: Demo, data: Path, most: int) -> None:
    """Search for test queries, of all segments: the page shows all products and no error."""
    rows = store.read_table(data, "queries", ["text", "image", "split"]).to_pylist()
    queries = [row for row in rows if row["split"] == "test"]
    queries = queries[:: -(-len(queries) // most)]
    assert queries
    with serving(demo.build_app()) as address:
        for query in queries:
            picture = demo.pictures.add(query["image"]["bytes"]) if query["image"] else ""
            response = get(address, Search(text=query["text"] or "", picture=picture))
            assert response.status_code == 200 and not problems(response.text), query["text"]
            assert response.text.count('<li class="product">') == 8 * len(demo.models), query["text"]


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["all", "half"])
@pytest.mark.parametrize("columns", [[name] for name in OPTIONAL] + [OPTIONAL], ids=lambda names: names[-1])
def test_test_queries_where_optional_columns_are_null(
    columns: list[str],
    half: bool,
    data: Path,
    models: list[Model],
    product_search: "ProductSearch",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(data, tmp_path / "data")
    for path in store.list_files(tmp_path / "data", "products"):
        pq.write_table(set_nulls(pq.read_table(path), columns, half), path)
    index = product_search.index
    fields = set_nulls(index.fields, columns, half)
    monkeypatch.setattr(
        product_search, "index", SearchIndex(index.marker, fields, index.vectors, index.vectors_without)
    )
    demo = Demo(models, DemoCatalogue.load(tmp_path / "data"), Votes(tmp_path / "votes"))
    check_test_queries(demo, tmp_path / "data", 4)


@pytest.mark.slow
def test_test_queries_of_the_sample(
    models: list[Model], product_search: "ProductSearch", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample of `make demo`, where half of all results have a product without a brand in the first eight."""
    if not SAMPLE.is_dir():
        pytest.skip("the sample is not here: dvc pull data")
    for table, rows in (("products", 400), ("queries", None), ("judgements", None)):
        (tmp_path / table).mkdir()
        pq.write_table(store.read_table(SAMPLE, table).slice(0, rows), tmp_path / table / "00000.parquet")
    products = product_search.featurizer.featurize_table(tmp_path, "products")
    index = SearchIndex.build(product_search.model, products, tmp_path, "data", np.empty((0, 16), np.float32))
    monkeypatch.setattr(product_search, "index", index)
    check_test_queries(Demo(models, DemoCatalogue.load(tmp_path), Votes(tmp_path / "votes")), tmp_path, 60)


def test_a_filter_holds_and_shows_counts(page: str, data: Path) -> None:
    brands = store.read_table(data, "products", ["brand"])["brand"].to_pylist()
    brand = next(filter(None, brands))
    html = get(page, Search(text="mug", brand=brand, k=48)).text
    count = brands.count(brand)
    assert f'<option value="{brand}" selected>{brand} ({count})</option>' in html
    assert html.count('<li class="product">') == 2 * count
    assert all(facts.startswith(brand) for facts in re.findall(r'class="facts">([^<]*)', html))


def test_only_the_most_frequent_values_are_offered(
    page: str, data: Path, models: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "MAX_COMPLETE_VALUES", 1)
    demo_catalogue = DemoCatalogue.load(data)
    brands = [brand for brand in store.read_table(data, "products", ["brand"])["brand"].to_pylist() if brand]
    facet = next(facet for facet in demo_catalogue.facets if facet.field == "brand")
    assert len(facet.values) == 4 and not facet.complete
    assert min(count for _, count in facet.values) >= sorted(map(brands.count, set(brands)))[-4]
    with serving(Demo(models, demo_catalogue, Votes(tmp_path / "other")).build_app()) as address:
        html = get(address, Search(text="mug", brand="Unheard of")).text
    assert '<datalist id="brand-values">' in html and 'value="Unheard of"' in html


def test_prices_hold(page: str, data: Path) -> None:
    prices = store.read_table(data, "products", ["price"])["price"].to_pylist()
    html = get(page, Search(text="mug", min_price=20, max_price=60, k=48)).text
    shown_prices = [
        float(price.replace(",", "")) for price in re.findall(r'class="price">([\d.,]+) EUR', html)
    ]
    assert sorted(shown_prices[::2]) and all(20 <= price <= 60 for price in shown_prices)
    assert len(shown_prices) == 2 * sum(20 <= price <= 60 for price in prices if price is not None)


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("text=mug&min_price=cheap", "Price from: Input should be a valid number"),
        ("text=mug&max_price=-1", "Price to: Input should be greater than or equal to 0"),
        ("text=mug&max_price=nan", "Price to: Input should be a finite number"),
        ("text=mug&min_price=30&max_price=10", "Price: from 30 to 10 matches no product"),
        ("text=mug&k=0", "Results: Input should be greater than or equal to 1"),
        ("text=mug&k=101", "Results: Input should be less than or equal to 100"),
        (f"text={'m' * 501}", "Words: String should have at most 500 characters"),
        ("picture=../../etc/passwd", "Picture: String should match pattern"),
    ],
)
def test_invalid_url_fields(page: str, query: str, message: str) -> None:
    response = requests.get(f"{page}/?{query}", timeout=TIMEOUT)
    assert response.status_code == 400
    assert problems(response.text)[0].startswith(message)
    assert '<li class="product">' not in response.text


def test_similar_products_leave_the_product_out(page: str, data: Path) -> None:
    product = store.read_table(data, "products", ["product_id", "title"]).to_pylist()[5]
    html = get(page, Search(similar=product["product_id"])).text
    assert len(titles(html)) == 16 and product["title"] not in titles(html)
    assert f"Like <strong>{product['title']}</strong>" in html
    with_words = get(page, Search(similar=product["product_id"], text="blue shoe")).text
    assert titles(with_words) != titles(html)
    response = get(page, Search(similar="none such"))
    assert response.status_code == 404
    assert problems(response.text) == [f"{data} has no product none such; search for something else"]


def test_product_texts_are_escaped(
    page: str, product_search: "ProductSearch", monkeypatch: pytest.MonkeyPatch
) -> None:
    index = product_search.index
    evil = pa.array(['<img src=x onerror="alert(1)">'] * len(index.fields))
    fields = index.fields
    for name in ("title", "brand"):
        fields = fields.set_column(fields.column_names.index(name), name, evil)
    monkeypatch.setattr(
        product_search, "index", SearchIndex(index.marker, fields, index.vectors, index.vectors_without)
    )
    html = get(page, Search(text='"><script>alert(1)</script>', brand="<b>")).text
    html += get(page, Search(text='"><script>alert(1)</script>')).text
    assert "<script" not in html and "<img src=x" not in html and titles(html)


def test_rank_changes_are_shown(models: list[Model], model_address: str, data: Path, tmp_path: Path) -> None:
    """The challenger shows the champion's products, but the first one last."""

    async def invoke(request: Request) -> Response:
        answer = await run_in_threadpool(
            requests.post, model_address, json=await request.json(), timeout=TIMEOUT
        )
        rows = answer.json()["predictions"]
        return Response(
            pd.Series([*rows[1:7], rows[0]]).to_json(orient="values").join(['{"predictions":', "}"])
        )

    with serving(Starlette(routes=[Route("/", invoke, methods=["POST"])])) as other:
        models[1] = Model("challenger", "2", other)
        with serving(Demo(models, DemoCatalogue.load(data), Votes(tmp_path / "v")).build_app()) as page:
            html = get(page, Search(text="mug")).text
    changes = re.findall(r'class="change (\w+)"', html)
    assert changes == ["gone"] + ["up"] * 6 + ["down"]
    assert "1 place higher than with the champion" in html and "6 places lower" in html
    assert 'out<span class="hidden">: not in the challenger’s results' in html


def test_modality_shares_are_shown(page: str) -> None:
    html = get(page, Search(text="red mug")).text
    parts = re.findall(r"<p>((?:\d+\u00a0%\u00a0\w+(?:, )?)+)</p>", html)
    assert parts
    for part in parts:
        assert 98 <= sum(map(int, re.findall(r"\d+", part))) <= 102
        assert set(re.findall(r"[a-z]+", part)) <= {"words", "picture", "clip"}


@pytest.mark.parametrize(
    ("content", "status", "problem"),
    [
        ("<html>", 200, "The model does not answer:"),
        ('{"message": "Failed. Error: k is too large"}', 400, "k is too large"),
        ('{"error_code": "X"}', 500, "{'error_code': 'X'}"),
        ("[]", 500, "[]"),
        ("{}", 200, "The model's answer has an unexpected format: KeyError('predictions')"),
        (
            '{"predictions": [{"title": "mug"}]}',
            200,
            "The model's answer has an unexpected format: KeyError('product_id')",
        ),
        ('{"predictions": [7]}', 200, "The model's answer has an unexpected format:"),
        (None, 200, "The model does not answer:"),
    ],
)
def test_an_error_is_shown_in_its_column(
    content: str | None, status: int, problem: str, models: list[Model], data: Path, tmp_path: Path
) -> None:
    routes = [Route("/", lambda _: Response(content, status), methods=["POST"])]
    with serving(Starlette(routes=routes)) as broken:
        models[1] = Model(
            "challenger", "2", broken if content else f"http://127.0.0.1:{local_stack.find_free_port()}"
        )
        with serving(Demo(models, DemoCatalogue.load(data), Votes(tmp_path / "votes")).build_app()) as page:
            response = get(page, Search(text="mug"))
    assert response.status_code == 200 and len(titles(response.text)) == 8
    assert [text.startswith(problem) for text in problems(response.text)] == [True]
    assert 'id="vote"' not in response.text


def test_an_answer_with_ids_only(models: list[Model], data: Path, tmp_path: Path) -> None:
    """Also from old versions, which return NaN instead of null."""
    nulls = ", ".join(f'"{name}": NaN' for name in ("title", "brand", "color", "price", "currency", "score"))
    rows = f'{{"predictions": [{{"product_id": "p<1", "share_text": null, {nulls}}}]}}'
    with serving(Starlette(routes=[Route("/", lambda _: Response(rows), methods=["POST"])])) as address:
        only = [Model("champion", "1", address)]
        with serving(Demo(only, DemoCatalogue.load(data), Votes(tmp_path / "votes")).build_app()) as page:
            html = get(page, Search(text="mug")).text
    assert titles(html) == ["p<1"] and "no picture" in html
    assert not re.search(r"\bnan\b", html) and 'class="facts"' not in html and 'class="price"' not in html


def test_one_model_alone(models: list[Model], data: Path, tmp_path: Path) -> None:
    with serving(Demo(models[:1], DemoCatalogue.load(data), Votes(tmp_path / "votes")).build_app()) as page:
        html = get(page, Search(text="mug")).text
        fields = {"text": "mug", "vote": "better", "champion": "1", "challenger": "2"}
        vote = post(page, "/vote", fields)
    assert len(titles(html)) == 8 and 'class="change' not in html and 'class="tabs"' not in html
    assert 'id="vote"' not in html and vote.status_code == 400


def test_no_products_match(page: str) -> None:
    html = get(page, Search(text="mug", max_price=0)).text
    assert html.count("No products match. Remove a filter.") == 2 and 'id="vote"' not in html


def test_a_picture_becomes_part_of_the_address(page: str, data: Path) -> None:
    image = store.read_table(data, "queries", ["image"])["image"].drop_null()[0].as_py()["bytes"]
    files = {"upload": ("photo.png", image)}
    response = post(page, "/search", {"text": " red ", "brand": "", "k": "16"}, files=files)
    assert response.status_code == 303
    assert re.fullmatch(r"/\?text=red&picture=[0-9a-f]{32}&k=16", response.headers["location"])
    html = requests.get(page + response.headers["location"], timeout=TIMEOUT).text
    assert len(titles(html)) == 32
    picture = requests.get(page + re.search(r"/query/[0-9a-f]+", html)[0], timeout=TIMEOUT)
    assert picture.headers["content-type"] == "image/png"
    without_words = titles(
        get(page, Search(picture=response.headers["location"].split("picture=")[1][:32])).text
    )
    assert len(without_words) == 16 and without_words[:8] != titles(html)[:8]


def test_a_form_without_a_picture(page: str) -> None:
    files = {"upload": ("", b"")}
    response = post(page, "/search", {"text": "mug", "similar": "", "max_price": "20"}, files=files)
    assert response.headers["location"] == "/?text=mug&max_price=20.0"


def test_an_upload_that_is_not_a_picture(page: str) -> None:
    response = post(page, "/search", {"text": "mug"}, files={"upload": ("a<b>.png", b"no picture")})
    assert response.status_code == 400
    assert problems(response.text) == [
        "a<b>.png: this picture cannot be used: not a JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIF picture"
    ]
    assert 'value="mug"' in response.text


def test_an_expired_picture(page: str) -> None:
    response = get(page, Search(picture="0" * 32))
    assert response.status_code == 404
    assert problems(response.text) == ["The picture of this search has expired; choose it again"]


def test_forms_are_bounded(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_module, "MAX_UPLOAD", 1000)
    response = post(page, "/search", {}, files={"upload": ("photo.png", b"x" * 2000)})
    assert response.status_code == 413 and "choose a smaller one" in problems(response.text)[0]
    chunks = requests.post(
        page + "/search", data=iter([b"text=mug"]), headers={"Origin": page}, timeout=TIMEOUT
    )
    assert chunks.status_code == 413
    assert post(page, "/search", {f"f{n}": "x" for n in range(30)}).status_code == 400


def test_pictures_and_clips(
    png: Callable[..., bytes], models: list[Model], data: Path, tmp_path: Path
) -> None:
    from PIL import Image

    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "products")
    frames = [{"bytes": png(n, 600, 300), "path": None} for n in range(5)]
    with store.TableWriter(tmp_path / "data", "products") as table:
        table.write(
            {"product_id": "a/b c", "title": "A", "images": [{"bytes": png(1, 900, 600), "path": None}]}
        )
        table.write({"product_id": "clip", "title": "B", "video": frames})
        table.write({"product_id": "broken", "title": "C", "images": [{"bytes": b"x", "path": None}]})
        table.write({"product_id": "none", "title": "D"})
    with serving(
        Demo(models, DemoCatalogue.load(tmp_path / "data"), Votes(tmp_path / "votes")).build_app()
    ) as page:

        def fetch(path: str) -> requests.Response:
            return requests.get(f"{page}/{path}", timeout=TIMEOUT, stream=True)

        picture = Image.open(fetch(f"picture/{quote('a/b c')}").raw)
        assert (picture.format, picture.size) == ("WEBP", (400, 267))
        clip = Image.open(fetch("clip/clip").raw)
        assert (clip.n_frames, clip.size) == (5, (200, 100)) and 0 < clip.info["loop"] * 5 * 120 < 5000
        assert Image.open(fetch("picture/clip").raw).size == (400, 200)
        assert "broken picture" in fetch("picture/broken").text
        for path in ("picture/none", "clip/broken", "picture/unknown", "query/unknown"):
            assert fetch(path).status_code == 404


def test_a_vote_is_kept_and_shown(page: str, data: Path, tmp_path: Path) -> None:
    rows = store.read_table(data, "queries", ["query_id", "text", "image"]).to_pylist()
    query = next(row for row in rows if row["text"] and not row["image"])
    text = f"  {query['text'].upper()} "
    fields = {"text": text, "vote": "better", "champion": "1", "challenger": "2"}
    response = post(page, "/vote", fields)
    assert response.status_code == 303
    html = requests.get(page + response.headers["location"], timeout=TIMEOUT).text
    assert "Your vote is saved: the challenger is <strong>better</strong>." in html
    assert '<button name="vote" value="better" aria-pressed="true">' in html
    votes = store.read_table(
        tmp_path / "votes", "satisfaction", ["query_id", "model_version", "rating"]
    ).to_pylist()
    first = next(
        row for row in rows if not row["image"] and normalise(row["text"]) == normalise(query["text"])
    )
    assert votes == [
        {"query_id": first["query_id"], "model_version": "1", "rating": 2},
        {"query_id": first["query_id"], "model_version": "2", "rating": 4},
    ]


def test_ids_of_searches(models: list[Model], data: Path, tmp_path: Path) -> None:
    demo = Demo(models, DemoCatalogue.load(data), Votes(tmp_path / "votes"))
    pictured = next(example for example in demo.catalogue.examples if example.image)
    key = demo.pictures.add(pictured.image)
    assert demo.find_query_id(Search(text=pictured.text, picture=key)) == pictured.query_id
    searches = [
        Search(text="no such query"),
        Search(text="no such query", brand="Almera"),
        Search(text="no such query", picture=key),
        Search(similar="p00000001"),
    ]
    ids = {demo.find_query_id(search) for search in searches}
    assert len(ids) == 4 and all(re.fullmatch("demo-[0-9a-f]{24}", key) for key in ids)
    assert demo.find_query_id(Search(text=" No such  QUERY", k=24)) == demo.find_query_id(searches[0])
    text = next(example.text for example in demo.catalogue.examples if not example.image)
    assert not demo.find_query_id(Search(text=text)).startswith("demo-")
    assert demo.find_query_id(Search(text=text, max_price=20)).startswith("demo-")


@pytest.mark.parametrize(
    ("change", "headers", "status"),
    [
        ({}, {"Origin": "http://elsewhere.example"}, 403),
        ({}, {"Origin": "null"}, 403),
        ({}, {"Origin": None}, 403),
        ({}, {"Host": "elsewhere.example", "Origin": "http://elsewhere.example"}, 400),
        ({"vote": "best"}, {}, 400),
        ({"text": ""}, {}, 400),
        ({"max_price": "x"}, {}, 400),
        ({"challenger": "3"}, {}, 409),
    ],
)
def test_rejected_votes(
    page: str, tmp_path: Path, change: dict[str, str], headers: dict[str, Any], status: int
) -> None:
    fields = {"text": "mug", "vote": "better", "champion": "1", "challenger": "2"}
    assert post(page, "/vote", fields | change, headers=headers).status_code == status
    assert not (tmp_path / "votes").exists()


def test_votes_that_cannot_be_read_are_an_error_of_the_page(page: str, tmp_path: Path) -> None:
    (tmp_path / "votes" / "satisfaction").mkdir(parents=True)
    (tmp_path / "votes" / "satisfaction" / "votes.parquet").write_text("no parquet")
    response = get(page, Search(text="mug"))
    assert response.status_code == 500 and "not a readable parquet file" in problems(response.text)[0]


def test_headers(page: str) -> None:
    response = requests.get(page, timeout=TIMEOUT)
    assert response.headers["content-security-policy"] == "frame-ancestors 'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; form-action 'self'" in unescape(
        response.text
    )


def test_examples_have_results(page: str) -> None:
    html = requests.get(page, timeout=TIMEOUT).text
    links = re.findall(r'<li><a href="(/\?[^"]+)">', html)
    assert len(links) > 5 and any("picture=" in link for link in links)
    for link in links:
        assert len(titles(requests.get(page + unescape(link), timeout=TIMEOUT).text)) == 16
