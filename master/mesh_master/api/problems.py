"""What is wrong, as problem details (RFC 9457)."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import Operation, RequestBody

from mesh.errors import (
    AgentError,
    CannotDecrypt,
    ClusterArchived,
    ConfigError,
    InvalidJob,
    JobNotEnded,
    JobNotFound,
    JobRetried,
    KeyExists,
    LeaseLost,
    MasterError,
    MeshError,
    PayloadTooLarge,
    ScheduleExists,
    ScheduleNotFound,
    UnknownHandler,
)
from mesh_master.access.door import Forbidden, NotSignedIn, TooManyAttempts

__all__ = [
    "PROBLEMS",
    "SAFE_HEADERS",
    "BodyOptional",
    "NotFound",
    "Problem",
    "problem",
    "problem_handlers",
]

log = logging.getLogger("mesh")

_TRY_AGAIN = 2
"""Seconds after which to ask again what cannot be reached."""


SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Of every answer: nothing is executed that is not of this server's own files."""


class NotFound(MeshError):
    """There is no such thing."""


class FieldProblem(msgspec.Struct, frozen=True):
    """One of several things that are wrong with a request."""

    field: str
    message: str


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """Problem details, as RFC 9457 has them."""

    type: str
    """``urn:mesh:`` and the kind of the problem, which stays the same in later versions."""
    title: str
    status: int
    detail: str
    """What is wrong, and the next step."""
    job_id: str | None = None
    errors: list[FieldProblem] | None = None


# The most specific first.
_STATUS: tuple[tuple[type[MeshError], int], ...] = (
    (NotSignedIn, 401),
    (Forbidden, 403),
    (TooManyAttempts, 429),
    (NotFound, 404),
    (JobNotFound, 404),
    (ScheduleNotFound, 404),
    (UnknownHandler, 404),
    (PayloadTooLarge, 413),
    (InvalidJob, 422),
    (ConfigError, 422),
    (KeyExists, 409),
    (ScheduleExists, 409),
    (JobNotEnded, 409),
    (JobRetried, 409),
    (ClusterArchived, 409),
    (CannotDecrypt, 409),
    (LeaseLost, 409),
    (AgentError, 503),
    (MasterError, 503),
)


def problem(error: MeshError) -> Problem:
    """What is said of an error."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return Problem(
        type=f"urn:mesh:{_slug(type(error).__name__)}",
        title=_title(type(error).__name__),
        status=status,
        detail=str(error) or _title(type(error).__name__),
        job_id=getattr(error, "job_id", None),
    )


def _slug(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()


def _title(name: str) -> str:
    return _slug(name).replace("-", " ").capitalize()


def _answer(found: Problem, headers: dict[str, str] | None = None) -> Response[Any]:
    return Response(
        msgspec.json.encode(found),
        status_code=found.status,
        media_type="application/problem+json",
        # A path that leads nowhere passes no layer that would add them.
        headers={**SAFE_HEADERS, **(headers or {})},
    )


def _of_mesh(request: Request[Any, Any, Any], error: MeshError) -> Response[Any]:
    found = problem(error)
    headers = {}
    if found.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    elif found.status == 503:
        headers["Retry-After"] = str(_TRY_AGAIN)
    elif isinstance(error, TooManyAttempts):
        headers["Retry-After"] = str(max(1, round(error.wait)))
    elif found.status == 500:
        log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    return _answer(found, headers)


def _of_http(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    cause = error.__cause__
    if error.status_code == 500 and isinstance(cause, msgspec.ValidationError):
        # Litestar takes it for its own mistake if it cannot tell from the text which part of the
        # request is meant, as where that has a strange name.
        error = HTTPException(status_code=400, detail=str(cause))
    title = HTTPStatus(error.status_code).phrase
    errors = None
    if isinstance(error.extra, list):
        errors = [
            FieldProblem(str(item.get("key", "")), str(item.get("message", "")))
            for item in error.extra
            if isinstance(item, dict)
        ]
    if error.status_code >= 500:
        log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    kind = title.lower().replace(" ", "-")
    detail = error.detail or title
    found = Problem(f"urn:mesh:{kind}", title, error.status_code, detail, errors=errors)
    return _answer(found, dict(error.headers or {}))


def _of_depth(request: Request[Any, Any, Any], error: RecursionError) -> Response[Any]:
    if "deserializing" not in str(error):
        return _of_nobody(request, error)  # not msgspec's word on a body, but a mistake here
    detail = "the body's lists and objects are nested too deeply to be read: send a flatter one"
    return _answer(Problem("urn:mesh:bad-request", "Bad Request", 400, detail))


def _of_nobody(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    detail = "the server made a mistake; its log has more"
    return _answer(Problem("urn:mesh:internal-error", "Internal error", 500, detail))


problem_handlers: Any = {
    MeshError: _of_mesh,
    HTTPException: _of_http,
    RecursionError: _of_depth,
    Exception: _of_nobody,
}

PROBLEMS = {
    status: ResponseSpec(
        Problem,
        generate_examples=False,
        description=HTTPStatus(status).phrase,
        media_type="application/problem+json",
    )
    for status in (400, 401, 403, 404, 405, 409, 413, 415, 422, 429, 503)
}
"""What any route may answer."""


@dataclass
class BodyOptional(Operation):
    """What the document says of a route that can be asked without a body."""

    def __post_init__(self) -> None:
        if isinstance(self.request_body, RequestBody):
            self.request_body.required = False
