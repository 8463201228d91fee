"""The HTTP routes and the one error handler. ``build_api()`` makes the app; it knows neither Ray nor where the actors are."""

from __future__ import annotations

import json
import logging
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

import attr_actors
from attr_actors.errors import AttrError
from attr_actors.models import JobMode
from attr_actors.settings import Settings
from serve_app.bodies import ErrorBody, HealthReply, InflightReply, JobsReply, ResultReply, SubmitBody, SubmitReply
from serve_app.mcp_door import add_mcp
from serve_app.service import AttributionService, ResultQuery
from serve_app.stats import group

logger = logging.getLogger("attr_actors.api")

HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "invalid_parameter"}
RETRY_AFTER_DEFAULT_S = 2
"""What a 429 or 503 without a better guess tells the client to wait: a killed actor is back within about a second."""

LogPathParam = Annotated[str, Query(description="Absolute path of the log inside the allowed root.")]
Pretty = Annotated[bool, Query(description="Indent the JSON for people.")]
Indent = Annotated[int | None, Query(ge=0, le=8, description="Indent the JSON by this many spaces.")]


def error_docs(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Document the error body for the statuses that a route may answer."""
    return {status: {"model": ErrorBody} for status in (*statuses, 422, 500, 503)}


def build_api(settings: Settings, service: AttributionService) -> FastAPI:
    """Return the app of one replica."""
    api = FastAPI(
        title="attr-actors",
        version=attr_actors.__version__,
        description="Why a training job died, on which node, with the lines that prove it.",
        root_path=settings.fast_api_root_path,
    )
    _add_error_handlers(api)
    _add_log_routes(api, service)
    _add_introspection_routes(api, service)
    add_mcp(api, settings, service)
    return api


def _add_log_routes(api: FastAPI, service: AttributionService) -> None:
    @api.post("/logs", response_model=SubmitReply, responses=error_docs(400, 403, 404, 429))
    async def submit(body: SubmitBody) -> Response:
        """Register a job's log. Returns at once; ``terminal`` starts the analysis."""
        service.requests["submit"] += 1
        return _json(await service.submit(body))

    @api.get("/logs", response_model=ResultReply, responses=error_docs(400, 403, 404, 429))
    async def result(
        log_path: LogPathParam,
        wl_restart: Annotated[int | None, Query(ge=0, description="Workload cycle, from 0; all cycles without it.")] = None,
        wait: Annotated[bool, Query(description="false never starts work and returns what is known.")] = True,
        timeout_s: Annotated[float | None, Query(gt=0, description="Longest wait, s; at most COMPUTE_TIMEOUT.")] = None,
        file: Annotated[str | None, Query(description="Splitlog: the base name of one log file; the last one without it.")] = None,
        all_files: Annotated[bool, Query(description="Splitlog: every complete file, under ``files``.")] = False,
    ) -> Response:
        """Tell why the job died."""
        service.requests["result"] += 1
        return _json(await service.result(ResultQuery(log_path, wl_restart, wait, timeout_s, file, all_files)))

    @api.get("/print", response_class=PlainTextResponse, responses=error_docs(400, 403, 404, 429))
    async def preview(log_path: LogPathParam) -> Response:
        """Show the first 4096 bytes of a log."""
        service.requests["preview"] += 1
        return Response(await service.preview(log_path), media_type="text/plain; charset=utf-8")


def _add_introspection_routes(api: FastAPI, service: AttributionService) -> None:
    @api.get("/", response_class=PlainTextResponse)
    async def root() -> Response:
        """Answer quickly: old monitors probe here."""
        return PlainTextResponse("attr-actors: see /docs\n")

    @api.get("/healthz", response_model=HealthReply, responses=error_docs())
    async def health(ready: bool = False, pretty: Pretty = False, indent: Indent = None) -> Response:
        """Tell how the service is; with ``ready`` 503 until all actors answer."""
        reply = await service.health()
        return _json(reply, pretty, indent, status=503 if ready and reply.status == "fail" else 200)

    @api.get("/stats", responses=error_docs())
    async def stats(pretty: Pretty = False, indent: Indent = None) -> Response:
        """Return the counters by group."""
        counters = await service.counters() | {f"requests.{name}": float(n) for name, n in service.requests.items()}
        return _json(group(counters), pretty, indent)

    @api.get("/jobs", response_model=JobsReply, responses=error_docs())
    async def jobs(
        mode: JobMode | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
        pretty: Pretty = False,
        indent: Indent = None,
    ) -> Response:
        """Return one page of tracked jobs, newest first."""
        return _json(await service.jobs(mode, limit, offset), pretty, indent)

    @api.get("/inflight", response_model=InflightReply, responses=error_docs())
    async def inflight(pretty: Pretty = False, indent: Indent = None) -> Response:
        """Return the analyses under way."""
        return _json(await service.inflight(), pretty, indent)


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
        headers = {}
        if exc.http_status in (429, 503):
            headers["Retry-After"] = str(max(1, round(exc.retry_after_s or RETRY_AFTER_DEFAULT_S)))
        return _error(exc.http_status, exc.code, exc.message, headers=headers)

    @api.exception_handler(HTTPException)
    async def on_http_error(request: Request, exc: HTTPException) -> Response:
        code = HTTP_CODES.get(exc.status_code, "invalid_request")
        return _error(exc.status_code, code, _http_message(request, exc), headers=dict(exc.headers or {}))

    @api.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, exc: RequestValidationError) -> Response:
        faults = [{"loc": list(e["loc"]), "msg": e["msg"], "type": e["type"]} for e in exc.errors()]
        sentence = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in faults)
        return _error(422, "validation_error", sentence, details=faults, detail=sentence)

    @api.exception_handler(Exception)
    async def on_bug(request: Request, exc: Exception) -> Response:
        logger.error("unexpected error in %s %s", request.method, request.url.path, exc_info=exc)
        return _error(500, "internal_error", "unexpected error; the service's log has the details")


def _http_message(request: Request, exc: HTTPException) -> str:
    if exc.status_code == 404:
        return f"not found: no route {request.url.path}; see /docs"
    if exc.status_code == 405:
        return f"method {request.method} is not allowed for {request.url.path}"
    return str(exc.detail)


def _error(status: int, code: str, message: str, details: Any = None, headers: dict[str, str] | None = None, **more: str) -> Response:
    body = {"error_code": code, "message": message, "details": details, **more}
    return JSONResponse(body, status_code=status, headers=headers)
