"""The demo page as a web application: a search box, filters, and the results of each model."""

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
from vitrine_judge.pages import template_environment

from catalog.images import Limits, PictureError
from catalog.schema import DataError
from catalog.text import normalise
from serving.demo.catalogue import DemoCatalogue, QueryPictures
from serving.demo.search import MAX_TEXT, Answer, Model, Search, compare_ranks, parse_search, search_model
from serving.demo.votes import RATINGS, Votes

COUNTS = (8, 16, 24, 48)  # numbers of results to choose from
MAX_UPLOAD = Limits().max_bytes + 100_000  # bytes, of a picture and the other fields
MAX_FIELDS = 20
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",  # a policy in the page itself cannot set this
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
# Shown instead of a picture that cannot be decoded.
BROKEN_PICTURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 200 200"><rect width="200" height="200" fill="#f1efec"/>'
    '<text x="100" y="105" text-anchor="middle" font-family="sans-serif" font-size="14" fill="#67635c">'
    "broken picture</text></svg>"
)


@dataclass(frozen=True)
class Query:
    """The query for the models: words, content of a picture file; and the title of the product to be similar to."""

    text: str = ""
    image: bytes | None = None
    similar_to: str = ""


@dataclass(frozen=True)
class PageContent:
    """Content of the page, for the template.

    Attributes:
        search: The search.
        query: The query of the search; None if the search is empty or invalid.
        problems: Error messages about the request.
        answers: One for each model, in the same order.
        changes: Rank changes of the challenger's products; see `compare_ranks`.
        vote: The current vote on this search, a key of `RATINGS`.
    """

    search: Search
    query: Query | None = None
    problems: Sequence[str] = ()
    answers: Sequence[Answer] = ()
    changes: Mapping[str, int | None] = field(default_factory=dict)
    vote: str | None = None


class SearchError(Exception):
    """A search that is not possible; the message says why."""


class Demo:
    """The demo page for one or two served models.

    Args:
        models: The champion, then the challenger; or only one of them.
        catalogue: The data set to show.
        votes: Storage for votes.
    """

    def __init__(self, models: Sequence[Model], catalogue: DemoCatalogue, votes: Votes) -> None:
        self.models, self.catalogue, self.votes = list(models), catalogue, votes
        self.pictures = QueryPictures()
        self.query_ids = {(text, ""): query_id for text, query_id in catalogue.query_ids.items()}
        self.examples: list[Search] = []
        for example in catalogue.examples:
            try:
                key = self.pictures.add(example.image, pinned=True) if example.image else ""
            except PictureError:  # the validate stage reports broken pictures; skip this example
                continue
            self.examples.append(Search(text=example.text[:MAX_TEXT], picture=key))
            self.query_ids.setdefault((normalise(example.text) or "", key), example.query_id)
        self.template = template_environment(Path(__file__).parent).get_template("demo.html.jinja")

    def build_app(self) -> Starlette:
        """Build the web application."""
        routes = [
            Route("/", self.show_page),
            Route("/search", self.submit_search, methods=["POST"]),
            Route("/vote", self.submit_vote, methods=["POST"]),
            Route("/picture/{product_id:path}", self.serve_picture),
            Route("/clip/{product_id:path}", self.serve_clip),
            Route("/query/{key}", self.serve_query_picture),
            Route("/favicon.ico", lambda _: Response(status_code=204)),
        ]
        # Rejects other host names, against DNS rebinding.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
        headers = Middleware(BaseHTTPMiddleware, dispatch=_add_headers)
        handlers: dict[Any, Any] = {HTTPException: self._show_http_error, DataError: self._show_data_error}
        return Starlette(routes=routes, middleware=[hosts, headers], exception_handlers=handlers)

    def show_page(self, request: Request) -> Response:
        """Show the page for the search in the URL."""
        search, problems = parse_search(request.query_params)
        if problems:
            return self._render(PageContent(search, problems=problems), 400)
        if search.is_empty:
            return self._render(PageContent(search))
        try:
            query = self._make_query(search)
        except SearchError as error:
            return self._render(PageContent(search, problems=[str(error)]), 404)
        answers = [search_model(model, query.text, query.image, search) for model in self.models]
        changes = compare_ranks(*answers) if len(answers) == 2 else {}
        return self._render(
            PageContent(search, query, answers=answers, changes=changes, vote=self._read_vote(search))
        )

    async def submit_search(self, request: Request) -> Response:
        """Redirect the form, which may have a picture, to the URL of its search."""
        form = await _read_form(request)
        return await run_in_threadpool(self._redirect_search, form, await _read_upload(form))

    def _redirect_search(self, form: FormData, upload: tuple[str, bytes] | None) -> Response:
        search, problems = parse_search(form)
        if problems:
            return self._render(PageContent(search, problems=problems), 400)
        if upload:
            name, content = upload
            try:
                search = search.model_copy(update={"picture": self.pictures.add(content), "similar": ""})
            except PictureError as error:
                problem = f"{name}: this picture cannot be used: {error}"
                return self._render(PageContent(search, problems=[problem]), 400)
        return RedirectResponse(search.url(), 303)

    async def submit_vote(self, request: Request) -> Response:
        """Save a vote and redirect to its search."""
        form = await _read_form(request)
        search, problems = parse_search(form)
        vote = str(form.get("vote"))
        if problems or search.is_empty or vote not in RATINGS or len(self.models) < 2:
            raise HTTPException(400, "A vote needs a search and one of: better, same, worse")
        champion, challenger = (model.version for model in self.models)
        if (form.get("champion"), form.get("challenger")) != (champion, challenger):
            raise HTTPException(409, "The model versions have changed; search again, then vote")
        await run_in_threadpool(self.votes.write_vote, self.find_query_id(search), champion, challenger, vote)
        return RedirectResponse(search.url() + "#vote", 303)

    def serve_picture(self, request: Request) -> Response:
        """Serve the picture of a product; the page shows it at 200 pixels."""
        return self._serve_media(request.path_params["product_id"], clip=False)

    def serve_clip(self, request: Request) -> Response:
        """Serve the clip of a product; the page shows it at 64 pixels."""
        return self._serve_media(request.path_params["product_id"], clip=True)

    def _serve_media(self, product_id: str, clip: bool) -> Response:
        products = self.catalogue.products
        row = products.find_row(product_id)
        if row is None or not products.has_media(product_id)[clip]:
            return Response(status_code=404)
        content = products.encode_clip(row) if clip else products.encode_picture(row)
        if content is None:
            return Response(BROKEN_PICTURE, media_type="image/svg+xml")
        return Response(content, media_type="image/webp", headers={"Cache-Control": "private, max-age=300"})

    def serve_query_picture(self, request: Request) -> Response:
        """Serve the picture of a query."""
        content = self.pictures.get(request.path_params["key"])
        return Response(content, media_type="image/png") if content else Response(status_code=404)

    def find_query_id(self, search: Search) -> str:
        """Return the id of the same query in the data set, or else a hash of the search."""
        text = normalise(search.text) or ""
        if not (search.has_filters or search.similar) and (text, search.picture) in self.query_ids:
            return self.query_ids[text, search.picture]
        fields = search.model_dump(exclude={"k"}) | {"text": text}
        return "demo-" + blake2b(repr(sorted(fields.items())).encode(), digest_size=12).hexdigest()

    def _make_query(self, search: Search) -> Query:
        if search.similar:
            row = self.catalogue.products.find_row(search.similar)
            if row is None:
                raise SearchError(
                    f"{self.catalogue.data} has no product {search.similar}; search for something else"
                )
            title, image = self.catalogue.products.read_title(row), self.catalogue.products.read_image(row)
            try:
                image = self.pictures.get(self.pictures.add(image)) if image else None
            except PictureError:  # search with the title only
                image = None
            return Query(search.text or title, image, title)
        image = self.pictures.get(search.picture) if search.picture else None
        if search.picture and image is None:
            raise SearchError("The picture of this search has expired; choose it again")
        return Query(search.text, image)

    def _read_vote(self, search: Search) -> str | None:
        if len(self.models) < 2:
            return None
        champion, challenger = (model.version for model in self.models)
        return self.votes.read_vote(self.find_query_id(search), champion, challenger)

    def _render(self, content: PageContent, status: int = 200) -> Response:
        return HTMLResponse(
            self.template.render(demo=self, content=content, counts=COUNTS, ratings=RATINGS), status
        )

    def _show_http_error(self, _: Request, error: HTTPException) -> Response:
        return self._render(PageContent(Search(), problems=[error.detail]), error.status_code)

    def _show_data_error(self, _: Request, error: DataError) -> Response:
        return self._render(PageContent(Search(), problems=[str(error)]), 500)


async def _add_headers(request: Request, call_next: RequestResponseEndpoint) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _read_form(request: Request) -> FormData:
    """Read the fields of a form of this page.

    Raises:
        HTTPException: the form comes from another site, or is too large.
    """
    if request.headers.get("origin") != str(request.base_url).rstrip("/"):
        raise HTTPException(403, "This form comes from another site; search again")
    length = request.headers.get("content-length", "")
    if not length.isdecimal() or int(length) > MAX_UPLOAD:
        async for _ in request.stream():  # browsers show no response before they have sent everything
            pass
        raise HTTPException(
            413, f"A picture may have at most {Limits().max_bytes:,} bytes; choose a smaller one"
        )
    return await request.form(max_files=1, max_fields=MAX_FIELDS)


async def _read_upload(form: FormData) -> tuple[str, bytes] | None:
    """Read name and content of the picture in a form; None if there is none."""
    upload = form.get("upload")
    if not isinstance(upload, UploadFile) or not upload.filename:
        return None
    return upload.filename, await upload.read()
