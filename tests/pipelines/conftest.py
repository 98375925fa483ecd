"""Kubeflow Pipelines' HTTP API as far as Vitrine uses it, kept in memory; its back end needs a cluster."""

import itertools
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest


class Kubeflow(ThreadingHTTPServer):
    """One user's. `kept` is what it holds, by kind and id; `refusing` is what it answers to all but how it is."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.kept: dict[str, dict[str, dict[str, Any]]] = {
            kind: {} for kind in ("experiments", "pipelines", "versions", "runs", "recurringruns")
        }
        self.numbers = itertools.count(1)
        self.refusing = 0
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]  # of a run, each time it is looked at

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, kind: str, key: str, **content: Any) -> dict[str, Any]:
        name = f"{kind}-{next(self.numbers)}"
        self.kept[kind][name] = {key: name, **content}
        return self.kept[kind][name]


class Handler(BaseHTTPRequestHandler):
    """Routes; a method that is not here is answered with 404."""

    server: Kubeflow

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_DELETE(self) -> None:
        self._route()

    def _route(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = [unquote(word) for word in re.split("[/:]", url.path.removeprefix("/apis/v2beta1/"))]
        status, said = self._answer(self.command, words)
        if self.server.refusing and words != ["healthz"]:
            status, said = self.server.refusing, {"message": "not today"}
        told = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    def _answer(self, method: str, words: list[str]) -> tuple[int, Any]:  # noqa: PLR0911, PLR0912
        kept = self.server.kept
        if "namespace" in self.query:
            return 400, {"message": "In single-user mode, nothing is filtered by namespace"}
        match method, *words:
            case "GET", "healthz":
                return 200, {"multi_user": False}
            case "POST", "pipelines", "upload":
                return 200, self.server.add("pipelines", "pipeline_id", display_name=self.query["name"])
            case "POST", "pipelines", "upload_version":
                if any(one["display_name"] == self.query["name"] for one in kept["versions"].values()):
                    return 409, {"message": f"a version {self.query['name']} already exists"}
                own = {"display_name": self.query["name"], "pipeline_id": self.query["pipelineid"]}
                return 200, self.server.add("versions", "pipeline_version_id", **own, file=self.body.decode())
            case "GET", "pipelines", _, "versions":
                return 200, self._page("pipeline_versions", kept["versions"])
            case "GET", "runs", key:
                run = kept["runs"][key]
                run["state"] = self.server.states[min(run["looks"], len(self.server.states) - 1)]
                run["looks"] += 1
                return 200, run
            case "POST", "runs":
                return 200, self.server.add("runs", "run_id", **json.loads(self.body), looks=0)
            case "POST", "recurringruns":
                asked = json.loads(self.body)
                if len(asked["trigger"]["cron_schedule"]["cron"].split()) != 6:
                    return 400, {"message": "cron"}
                return 200, self.server.add("recurringruns", "recurring_run_id", **asked)
            case "POST", "recurringruns", key, ("enable" | "disable") as does:
                kept["recurringruns"][key]["mode"] = does.upper()
                return 200, {}
            case "DELETE", "recurringruns", key:
                del kept["recurringruns"][key]
                return 200, {}
            case "POST", "experiments":
                return 200, self.server.add("experiments", "experiment_id", **json.loads(self.body))
            case "GET", ("experiments" | "pipelines" | "runs" | "recurringruns") as kind:
                return 200, self._page({"recurringruns": "recurringRuns"}.get(kind, kind), kept[kind])
            case _:
                return 404, {"message": f"{method} {words}"}

    def _page(self, key: str, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Of at most two, so that there are several."""
        found = list(rows.values())
        if wanted := self.query.get("filter"):
            value = json.loads(wanted)["predicates"][0]["stringValue"]
            found = [one for one in found if one["display_name"] == value]
        start = int(self.query.get("page_token") or 0)
        more = {"next_page_token": str(start + 2)} if len(found) > start + 2 else {}
        return {key: found[start : start + 2], **more}


@pytest.fixture
def kubeflow() -> Iterator[Kubeflow]:
    server = Kubeflow()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
