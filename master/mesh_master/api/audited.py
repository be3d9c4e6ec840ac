"""The audit log: each change that was asked for, by whom, and what was answered."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from mesh.errors import MeshError
from mesh.ports import AuditEntry
from mesh.redact import Redactor
from mesh_master.access.door import Principal
from mesh_master.api.context import Api

__all__ = ["audit"]

log = logging.getLogger("mesh")

_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_MOST = 4096
"""Bytes of a body that are kept."""
_SECRET = ("password", "key", "token", "secret")


def audit(app: ASGIApp) -> ASGIApp:
    """Middleware."""

    async def audited(scope: Scope, receive: Receive, send: Send) -> None:
        method = str(scope.get("method", ""))
        if method not in _CHANGES:
            await app(scope, receive, send)
            return
        status, body = 500, bytearray()

        async def listen() -> Any:
            message = await receive()
            if message["type"] == "http.request" and len(body) <= _MOST:
                body.extend(message.get("body", b"")[: _MOST + 1])
            return message

        async def speak(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, listen, speak)
        finally:
            await _write(scope, method, bytes(body), status)

    return audited


async def _write(scope: Scope, method: str, body: bytes, status: int) -> None:
    api: Api = scope["app"].state.api
    principal = scope.get("user")
    client = scope.get("client")
    parameters = scope.get("path_params") or {}
    entry = AuditEntry(
        at=api.mesh.now(),
        who=principal.who if isinstance(principal, Principal) else "nobody",
        action=f"{method} {scope.get('path_template') or scope['path']}",
        target=", ".join(str(value) for value in parameters.values()),
        status=status,
        client=client[0] if client else "",
        detail=_detail(api, body),
    )
    log.info("%s by %s (%s): %d", entry.action, entry.who, entry.target, status)
    try:
        await (await api.master()).credentials.audit(entry)
    except MeshError as error:
        # The log line above is what remains.
        log.warning("the audit log cannot be written: %s", error)


def _detail(api: Api, body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    if len(body) > _MOST:
        return {"body": f"more than {_MOST} bytes"}
    try:
        redactor = Redactor((*api.mesh.config.redact, *_SECRET))
        return {"body": msgspec.json.decode(redactor.json(body))}
    except msgspec.DecodeError:
        return {"body": "not JSON"}
