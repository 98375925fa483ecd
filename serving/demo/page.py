"""The demo page as a web application: a search box, filters, and what each model answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from catalog.images import Limits, PictureError
from catalog.schema import DataError
from catalog.text import normalise
from eval.pages import pages
from serving.demo.catalogue import QueryPictures, Shop
from serving.demo.search import MAX_TEXT, Answer, Model, Search, ask, parse, rank_changes
from serving.demo.votes import RATINGS, Votes

COUNTS = (8, 16, 24, 48)  # numbers of results to choose from
MAX_UPLOAD = Limits().max_bytes + 100_000  # bytes: a picture and the other fields
MAX_FIELDS = 20
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # beside the one in the page, which cannot say this
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Shown in place of a picture that cannot be decoded.
BROKEN = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 200"><rect width="200" height="200" fill="#f1efec"/>'
    '<text x="100" y="105" text-anchor="middle" font-family="sans-serif" font-size="14" fill="#67635c">'
    "broken picture</text></svg>"
)


@dataclass(frozen=True)
class Query:
    """What is sent to the models: words, a picture file's content, and the title of the product it is of."""

    text: str = ""
    image: bytes | None = None
    similar_to: str = ""


@dataclass(frozen=True)
class View:
    """What the template shows.

    Attributes:
        search: What is searched for.
        query: The same as the models get it; None where nothing is searched for.
        problems: What is wrong with the request.
        answers: One for each model, in their order.
        changes: Of the challenger's products: see `rank_changes`.
        vote: The present vote on this search, a key of `RATINGS`.
    """

    search: Search
    query: Query | None = None
    problems: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    changes: Mapping[str, int | None] = field(default_factory=dict)
    vote: str | None = None


class SearchError(Exception):
    """A search that cannot be made, and why."""


class Demo:
    """The page over one or two served models.

    Args:
        models: The champion, then the challenger, as far as there are.
        shop: Whose pictures are shown.
        votes: Where votes are kept.
    """

    def __init__(self, models: Sequence[Model], shop: Shop, votes: Votes) -> None:
        self.models, self.shop, self.votes = list(models), shop, votes
        self.pictures = QueryPictures()
        self.query_ids = {(text, ""): query_id for text, query_id in shop.query_ids.items()}
        self.examples: list[Search] = []
        for example in shop.examples:
            try:
                key = self.pictures.add(example.image, pinned=True) if example.image else ""
            except PictureError:  # validate counts broken pictures; another query serves as well
                continue
            self.examples.append(Search(text=example.text[:MAX_TEXT], picture=key))
            self.query_ids.setdefault((normalise(example.text) or "", key), example.query_id)
        self.template = pages(Path(__file__).parent).get_template("demo.html.jinja")

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/", self.show),
            Route("/search", self.search, methods=["POST"]),
            Route("/vote", self.vote, methods=["POST"]),
            Route("/picture/{product_id:path}", self.product_picture),
            Route("/clip/{product_id:path}", self.product_clip),
            Route("/query/{key}", self.query_picture),
            Route("/favicon.ico", lambda _: Response(status_code=204)),
        ]
        # Other names for this machine are refused, so that no other site can act as this one (DNS rebinding).
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        headers = Middleware(BaseHTTPMiddleware, dispatch=_with_headers)
        handlers: dict[Any, Any] = {HTTPException: self._http_error, DataError: self._data_error}
        return Starlette(routes=routes, middleware=[hosts, headers], exception_handlers=handlers)

    def show(self, request: Request) -> Response:
        """The page, of the search in its address."""
        search, problems = parse(request.query_params)
        if problems:
            return self._page(View(search, problems=problems), 400)
        if search.empty:
            return self._page(View(search))
        try:
            query = self._query(search)
        except SearchError as error:
            return self._page(View(search, problems=[str(error)]), 404)
        answers = [ask(model, query.text, query.image, search) for model in self.models]
        changes = rank_changes(*answers) if len(answers) == 2 else {}
        return self._page(View(search, query, answers=answers, changes=changes, vote=self._vote(search)))

    async def search(self, request: Request) -> Response:
        """Take the form, which may have a picture, to the address of its search."""
        form = await _form(request)
        return await run_in_threadpool(self._search, form, await _upload(form))

    def _search(self, form: FormData, upload: tuple[str, bytes] | None) -> Response:
        search, problems = parse(form)
        if problems:
            return self._page(View(search, problems=problems), 400)
        if upload:
            name, content = upload
            try:
                search = search.model_copy(update={"picture": self.pictures.add(content), "similar": ""})
            except PictureError as error:
                problem = f"{name}: this picture cannot be used: {error}"
                return self._page(View(search, problems=[problem]), 400)
        return RedirectResponse(search.url(), 303)

    async def vote(self, request: Request) -> Response:
        """Keep a vote, and go back to its search."""
        form = await _form(request)
        search, problems = parse(form)
        vote = str(form.get("vote"))
        if problems or search.empty or vote not in RATINGS or len(self.models) < 2:
            raise HTTPException(400, "A vote needs a search and an answer: better, same or worse")
        champion, challenger = (model.version for model in self.models)
        if (form.get("champion"), form.get("challenger")) != (champion, challenger):
            raise HTTPException(409, "This page showed other versions; search again, then vote")
        await run_in_threadpool(self.votes.write, self.query_id(search), champion, challenger, vote)
        return RedirectResponse(search.url() + "#vote", 303)

    def product_picture(self, request: Request) -> Response:
        """The picture of a product, for 200 pixels."""
        return self._product_picture(request.path_params["product_id"], clip=False)

    def product_clip(self, request: Request) -> Response:
        """The clip of a product, for 100 pixels."""
        return self._product_picture(request.path_params["product_id"], clip=True)

    def _product_picture(self, product_id: str, clip: bool) -> Response:
        products = self.shop.products
        row = products.row(product_id)
        if row is None or not products.media(product_id)[clip]:
            return Response(status_code=404)
        content = products.clip(row) if clip else products.picture(row)
        if content is None:
            return Response(BROKEN, media_type="image/svg+xml")
        return Response(content, media_type="image/webp", headers={"Cache-Control": "private, max-age=300"})

    def query_picture(self, request: Request) -> Response:
        """A picture that is searched with."""
        content = self.pictures.get(request.path_params["key"])
        return Response(content, media_type="image/png") if content else Response(status_code=404)

    def query_id(self, search: Search) -> str:
        """The data set's query that is the same search, or else an id made of a hash of the search."""
        text = normalise(search.text) or ""
        if not (search.narrowed or search.similar) and (text, search.picture) in self.query_ids:
            return self.query_ids[text, search.picture]
        fields = search.model_dump(exclude={"k"}) | {"text": text}
        return "demo-" + blake2b(repr(sorted(fields.items())).encode(), digest_size=12).hexdigest()

    def _query(self, search: Search) -> Query:
        if search.similar:
            row = self.shop.products.row(search.similar)
            if row is None:
                raise SearchError(
                    f"{self.shop.data} has no product {search.similar}; search for something else"
                )
            title, image = self.shop.products.title(row), self.shop.products.image(row)
            try:
                image = self.pictures.get(self.pictures.add(image)) if image else None
            except PictureError:  # its title is left
                image = None
            return Query(search.text or title, image, title)
        image = self.pictures.get(search.picture) if search.picture else None
        if search.picture and image is None:
            raise SearchError("The picture of this search is no longer kept; choose it again")
        return Query(search.text, image)

    def _vote(self, search: Search) -> str | None:
        if len(self.models) < 2:
            return None
        champion, challenger = (model.version for model in self.models)
        return self.votes.answer(self.query_id(search), champion, challenger)

    def _page(self, view: View, status: int = 200) -> Response:
        return HTMLResponse(
            self.template.render(demo=self, view=view, counts=COUNTS, ratings=RATINGS), status
        )

    def _http_error(self, _: Request, error: HTTPException) -> Response:
        return self._page(View(Search(), problems=[error.detail]), error.status_code)

    def _data_error(self, _: Request, error: DataError) -> Response:
        return self._page(View(Search(), problems=[str(error)]), 500)


async def _with_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _form(request: Request) -> FormData:
    """The fields of a form of this page.

    Raises:
        HTTPException: the form is of another site's page, or too large.
    """
    if request.headers.get("origin") != str(request.base_url).rstrip("/"):
        raise HTTPException(403, "This form is not of this page; search again")
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_UPLOAD:
        async for _ in request.stream():  # a browser shows no answer before it has sent all
            pass
        raise HTTPException(413, f"A picture may have {Limits().max_bytes:,} bytes; choose a smaller one")
    return await request.form(max_files=1, max_fields=MAX_FIELDS)


async def _upload(form: FormData) -> tuple[str, bytes] | None:
    """Name and content of the picture in a form."""
    upload = form.get("upload")
    if not isinstance(upload, UploadFile) or not upload.filename:
        return None
    return upload.filename, await upload.read()
