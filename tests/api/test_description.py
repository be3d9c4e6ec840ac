"""The API is as its OpenAPI document says: schemathesis tries what it allows, and other things."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from mesh import Mesh
from mesh_master.server import ApiServer

from .conftest import handlers

_CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


class Serving(threading.Thread):
    """A server with an event loop of its own."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self.address = ""

    def run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        app = Mesh(self._url)
        handlers(app)
        server = ApiServer(app, "127.0.0.1:0")
        async with app, server:
            await (await app.master()).credentials.require(False)
            self.address = server.url
            self._ready.set()
            await self._end.wait()

    def __enter__(self) -> Serving:
        self.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self.join(30)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("described")
    with Serving(f"sqlite:///{folder / 'mesh.db'}") as serving:
        yield serving.address


def _operations(address: str) -> list[Any]:
    schema = schemathesis.openapi.from_url(f"{address}/api/v1/openapi.json")
    found = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        # A stream without end, and what would lock us out.
        if operation.path not in ("/api/v1/events", "/api/v1/api-keys", "/api/v1/session"):
            found.append(operation)
    return found


def test_no_request_is_answered_otherwise_than_is_said(address: str) -> None:
    operations = _operations(address)
    assert len(operations) > 30
    failures: list[str] = []
    for operation in operations:
        _try(operation, failures)
    assert not failures, "\n\n".join(failures)


def _try(operation: Any, failures: list[str]) -> None:
    from hypothesis import given

    @settings(
        max_examples=12,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def attempt(case: Any) -> None:
        answer = case.call(timeout=20)
        case.validate_response(answer, checks=_CHECKS)

    try:
        attempt()
    except BaseException as error:
        failures.append(f"{operation.method.upper()} {operation.path}: {str(error)[:600]}")
