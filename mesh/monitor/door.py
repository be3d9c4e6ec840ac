"""The doors by which a process tells how it is: a tiny HTTP port and a file.

Both are served by the event loop that does the work, on purpose: while that stands still nothing
answers and the file grows old, which is what probes are to see.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path

import msgspec

from mesh.errors import ConfigError
from mesh.monitor.families import require_prometheus
from mesh.monitor.monitor import Health, Monitor
from mesh.place import Place
from mesh.service import Service

__all__ = ["FILE_EVERY", "Door", "HealthFile", "doors"]

log = logging.getLogger("mesh")

FILE_EVERY = 5.0
"""Seconds between two writes of the file."""

_SOON = 1.0
"""The same while the process is not ready."""

_PATIENCE = 5.0
"""Seconds for a request to come, and for its answer to leave."""


class Door(Service):
    """``GET /health/live``, ``/health/ready`` and ``/metrics``, by HTTP/1.1, a request for each
    connection."""

    def __init__(self, monitor: Monitor, place: Place) -> None:
        super().__init__(f"monitor on {place}")
        self._monitor = monitor
        self._place = place

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            server = await asyncio.start_server(
                self._serve, self._place.host, self._place.port, limit=16 * 1024
            )
        except OSError as error:
            raise ConfigError(
                f"monitor={self._place}: cannot listen there ({error.strerror or error}): give "
                "another port, or stop what has it"
            ) from error
        with suppress(ConfigError):
            require_prometheus()
            self._monitor.counts = True
        log.info("health and metrics at http://%s", self._place)
        try:
            ready()
            await self.stopping.wait()
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
            method, path, *_ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
            status, kind, body = await self._answer(method, path.partition("?")[0])
            lines = [
                f"HTTP/1.1 {status.value} {status.phrase}",
                f"Content-Type: {kind}",
                f"Content-Length: {len(body)}",
                "Cache-Control: no-store",
                "Connection: close",
                "\r\n",
            ]
            writer.write("\r\n".join(lines).encode() + (b"" if method == "HEAD" else body))
            async with asyncio.timeout(_PATIENCE):
                await writer.drain()
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            pass  # whoever asked has gone, or does not speak HTTP
        except asyncio.LimitOverrunError:
            pass
        finally:
            writer.close()

    async def _answer(self, method: str, path: str) -> tuple[HTTPStatus, str, bytes]:
        if method not in ("GET", "HEAD"):
            return HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n"
        if path == "/health/live":
            return HTTPStatus.OK, _JSON, b'{"live":true}'
        if path == "/health/ready":
            health = await self._monitor.health()
            status = HTTPStatus.OK if health.ready else HTTPStatus.SERVICE_UNAVAILABLE
            return status, _JSON, msgspec.json.encode(health)
        if path == "/metrics":
            try:
                body, kind = await self._monitor.metrics()
            except ConfigError as error:
                return HTTPStatus.NOT_IMPLEMENTED, _TEXT, f"{error}\n".encode()
            return HTTPStatus.OK, kind, body
        return HTTPStatus.NOT_FOUND, _TEXT, b"/health/live, /health/ready or /metrics\n"


_TEXT, _JSON = "text/plain; charset=utf-8", "application/json"


class HealthFile(Service):
    """Writes the same as ``/health/ready`` tells to a file every ``FILE_EVERY`` seconds, and
    removes it at the end."""

    def __init__(self, monitor: Monitor, path: Path, every: float = FILE_EVERY) -> None:
        super().__init__(f"health file {path}")
        self._monitor = monitor
        self._path = path
        self._every = every

    async def run(self, ready: Callable[[], None]) -> None:
        try:
            while not self.stopping.is_set():
                health = await self._monitor.health()
                self._write(health)
                ready()
                # Who waits for a process to be ready is told soon.
                pause = self._every if health.ready else min(_SOON, self._every)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.stopping.wait()
        finally:
            self._path.unlink(missing_ok=True)

    def _write(self, health: Health) -> None:
        """Whole, or not at all: who reads it must not see half."""
        body = msgspec.json.encode(health)
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        try:
            beside.write_bytes(body)
            beside.replace(self._path)
        except OSError as error:
            raise ConfigError(f"health_file={str(self._path)!r}: {error}") from error


def doors(monitor: Monitor) -> list[Service]:
    """Those that are asked for."""
    found: list[Service] = []
    if monitor.place is not None:
        found.append(Door(monitor, monitor.place))
    if monitor.file is not None:
        found.append(HealthFile(monitor, monitor.file))
    return found
