"""The HTTP routes and the one error handler. ``build_api()`` makes the app; it knows neither Ray nor where the actors are."""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Route

import attr_actors
from attr_actors.core.access import ANYONE, Caller
from attr_actors.core.exposition import render_exposition
from attr_actors.errors import AttrError
from attr_actors.models import JobMode
from attr_actors.settings import Settings
from serve_app.bodies import BODY_BYTES_MAX, ErrorBody, HealthReply, InflightReply, JobsReply, ResultReply, SubmitBody, SubmitReply
from serve_app.error_replies import error_body, error_headers
from serve_app.figures import SECONDS
from serve_app.mcp_door import add_mcp
from serve_app.overview import Overview
from serve_app.service import AttributionService, ResultQuery
from serve_app.stats import group

logger = logging.getLogger("attr_actors.api")

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_parameter", 413: "body_too_large"}
EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8"

DESCRIPTION = """Why a training job died, on which node, with the lines that prove it.

`POST /mcp` has the same answers as tools for AI assistants (Model Context Protocol, streamable HTTP, stateless). There are no streams and
no sessions: other methods get 405 `method_not_allowed`."""

LogPathParam = Annotated[str, Query(description="Absolute path of the log inside the allowed root.")]
Pretty = Annotated[bool, Query(description="Indent the JSON for people.")]
Indent = Annotated[int | None, Query(ge=0, le=8, description="Indent the JSON by this many spaces.")]


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the error body for the statuses that a route may answer."""
    return {status: {"model": ErrorBody} for status in (*statuses, 422, 500, 503)}


def error_docs_of_text(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the same for a route whose success is plain text: its errors are JSON all the same."""
    body = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": body} for status in (*statuses, 422, 500, 503)}


SUBMIT_LINKS: dict[int | str, dict[str, Any]] = {
    200: {
        "links": {
            "result": {"operationId": "result_logs_get", "parameters": {"log_path": "$response.body#/normalized_path"}},
            "preview": {"operationId": "preview_print_get", "parameters": {"log_path": "$response.body#/normalized_path"}},
        }
    }
}
"""What a client may do next with a submitted log."""


routes = APIRouter()
"""Built once per process, which takes longer than all else of an app: each app answers them from its own state."""


def build_api(settings: Settings, service: AttributionService, overview: Overview) -> FastAPI:
    """Return the app of one replica."""
    api = FastAPI(
        title="attr-actors",
        version=attr_actors.__version__,
        description=DESCRIPTION,
        root_path=settings.fast_api_root_path,
        max_body_size=BODY_BYTES_MAX,
    )
    api.state.service, api.state.overview = service, overview
    _add_error_handlers(api)
    api.router.routes.extend(routes.routes)
    add_mcp(api, settings, service)
    return api


@routes.post("/logs", response_model=SubmitReply, responses={**error_docs(400, 401, 403, 404, 413, 429), **SUBMIT_LINKS})
async def submit(body: SubmitBody, request: Request) -> Response:
    """Register a job's log. Returns at once; ``terminal`` starts the analysis."""
    request.state.log_path, request.state.job = body.log_path, body.job_id
    return _json(await _service(request).submit(body, _caller(request).root))


@routes.get("/logs", response_model=ResultReply, responses=error_docs(400, 401, 403, 404, 429))
async def result(
    request: Request,
    log_path: LogPathParam,
    wl_restart: Annotated[int | None, Query(ge=0, description="Workload cycle, from 0; all cycles without it.")] = None,
    wait: Annotated[bool, Query(description="false never starts work and returns what is known.")] = True,
    timeout_s: Annotated[float | None, Query(gt=0, description="Longest wait, s; at most COMPUTE_TIMEOUT.")] = None,
    file: Annotated[str | None, Query(description="Splitlog: the base name of one log file; the last one without it.")] = None,
    all_files: Annotated[bool, Query(description="Splitlog: every complete file, under ``files``.")] = False,
) -> Response:
    """Tell why the job died."""
    request.state.log_path = log_path
    query = ResultQuery(log_path, wl_restart, wait, timeout_s, file, all_files, _caller(request).root)
    reply = await _service(request).result(query)
    request.state.basis, request.state.joined = reply.basis, reply.joined
    return _json(reply)


@routes.get("/print", response_class=PlainTextResponse, responses=error_docs_of_text(400, 401, 403, 404, 429))
async def preview(request: Request, log_path: LogPathParam) -> Response:
    """Show the first 4096 bytes of a log."""
    request.state.log_path = log_path
    return Response(await _service(request).preview(log_path, _caller(request).root), media_type="text/plain; charset=utf-8")


@routes.get("/", response_class=PlainTextResponse)
async def root() -> Response:
    """Answer quickly: old monitors probe here."""
    return PlainTextResponse("attr-actors: see /docs\n")


@routes.get("/healthz", response_model=HealthReply, responses=error_docs())
async def health(request: Request, ready: bool = False, pretty: Pretty = False, indent: Indent = None) -> Response:
    """Tell how the service is; with ``ready`` 503 until the ledger and the tracker answer."""
    overview = _overview(request)
    reply = await overview.health()
    return _json(reply, pretty, indent, status=503 if ready and not overview.is_ready() else 200)


@routes.get("/stats", responses=error_docs(401, 403))
async def stats(request: Request, pretty: Pretty = False, indent: Indent = None) -> Response:
    """Return the counters by group."""
    return _json(group(await _overview(request).counters()), pretty, indent)


@routes.get("/metrics", response_class=PlainTextResponse, responses=error_docs_of_text(401, 403))
async def metrics(request: Request) -> Response:
    """Return the counters of all replicas and actors for Prometheus."""
    return Response(render_exposition(await _overview(request).counters(), SECONDS), media_type=EXPOSITION_TYPE)


@routes.get("/jobs", response_model=JobsReply, responses=error_docs(401, 403))
async def jobs(
    request: Request,
    mode: JobMode | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
    pretty: Pretty = False,
    indent: Indent = None,
) -> Response:
    """Return one page of tracked jobs, newest first."""
    return _json(await _service(request).jobs(mode, limit, offset), pretty, indent)


@routes.get("/inflight", response_model=InflightReply, responses=error_docs(401, 403))
async def inflight(request: Request, pretty: Pretty = False, indent: Indent = None) -> Response:
    """Return the analyses under way."""
    return _json(await _service(request).inflight(), pretty, indent)


def _json(body: BaseModel | dict[str, Any], pretty: bool = False, indent: int | None = None, status: int = 200) -> Response:
    spaces = indent if indent is not None else 2 if pretty else None
    if isinstance(body, BaseModel):
        text = body.model_dump_json(indent=spaces)
    else:
        text = json.dumps(body, indent=spaces, separators=None if spaces else (",", ":"))
    return Response(text, status_code=status, media_type="application/json")


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(AttrError)
    async def on_attr_error(request: Request, exc: AttrError) -> Response:
        return _error(exc.http_status, exc.code, exc.message, headers=error_headers(exc))

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, exc: HTTPException) -> Response:
        code = HTTP_CODES.get(exc.status_code, "invalid_request")
        headers = dict(exc.headers or {})
        if exc.status_code == 405:  # The router names the methods of one route; a path may have several.
            headers["Allow"] = ", ".join(sorted(_methods(api, request.url.path)))
        return _error(exc.status_code, code, _http_message(request, exc), headers=headers)

    @api.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, exc: RequestValidationError) -> Response:
        faults = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in exc.errors()]
        sentence = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults)
        return _error(422, "validation_error", sentence, details=faults, detail=sentence)

    api.add_exception_handler(Exception, on_bug)


async def on_bug(request: Request, exc: Exception) -> Response:
    """Answer what nobody expected: the one last resort of all routes."""
    logger.error("unexpected error in %s %s", request.method, request.url.path, exc_info=exc)
    return _error(500, "internal_error", "unexpected error; the service's log has the details")


def _methods(api: FastAPI, path: str) -> set[str]:
    return {method for route in api.routes if isinstance(route, Route) and route.path == path for method in route.methods or ()}


def _http_message(request: Request, exc: HTTPException) -> str:
    if exc.status_code == 404:
        return f"not found: no route {request.url.path}; see /docs"
    if exc.status_code == 405:
        return f"method {request.method} is not allowed for {request.url.path}"
    if exc.status_code == 413:
        return f"the body has more than {BODY_BYTES_MAX} bytes"
    return str(exc.detail)


def _error(status: int, code: str, message: str, details: Any = None, headers: dict[str, str] | None = None, **more: str) -> Response:
    return Response(error_body(code, message, details, **more), status, headers, media_type="application/json")


def _caller(request: Request) -> Caller:
    """Return whom the door let in."""
    caller: Caller = getattr(request.state, "caller", ANYONE)
    return caller


def _service(request: Request) -> AttributionService:
    service: AttributionService = request.app.state.service
    return service


def _overview(request: Request) -> Overview:
    overview: Overview = request.app.state.overview
    return overview
