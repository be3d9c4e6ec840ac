"""The role ``api``: serves the HTTP API and the dashboard, with uvicorn.

States: *binding* (an address that was asked for is in use: that is an error at once; the default
one: it is another process's, and is taken when that ends, so any number of coordinators on a
machine have one dashboard), *serving*, *stopping* (streams are told to end; other answers have a
moment to be finished).

It needs no master to start: without one it answers 503, and recovers when there is one. While
sign-in is off it binds to addresses of this machine alone, whatever it was told.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mesh.app import Mesh
from mesh.errors import ConfigError, MasterError
from mesh.roles import RoleOptions
from mesh.service import Backoff, Service
from mesh_master.api import create_app

if TYPE_CHECKING:
    import uvicorn

__all__ = ["ApiServer", "api_role"]

log = logging.getLogger("mesh")

_GRACE = 2
"""Seconds that answers have when it stops."""
_LOOK = 5.0
"""Seconds between two looks whether an address is free."""
_PATIENCE = 2.0
"""Seconds to wait for the master's word on whether sign-in is required."""


class ApiServer(Service):
    """Serves one app's cluster on one address."""

    def __init__(self, app: Mesh, address: str, *, insists: bool = True) -> None:
        """``address`` is ``host:port``; who ``insists`` has an error if it is in use. Raises
        ``ConfigError`` for one that is none, and if the extra ``api`` is not installed."""
        super().__init__("http")
        self._app = app
        self._host, self._port = parse_address(address)
        self._asgi = create_app(app)
        self._insists = insists
        self.url = ""
        """Where it is, once it is ready."""

    async def run(self, ready: Callable[[], None]) -> None:
        import uvicorn

        await self._check_host()
        listening = self._bind() if self._insists else await self._wait_for_address(ready)
        if listening is None:
            return
        with listening:
            host, port = listening.getsockname()[:2]
            self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            config = uvicorn.Config(
                self._asgi,
                log_config=None,
                access_log=False,
                lifespan="on",
                server_header=False,
                timeout_graceful_shutdown=_GRACE,
                # Who is behind a proxy is the proxy's word, which anybody could give.
                proxy_headers=False,
            )
            await self._serve(_server(config), listening, ready)

    async def _serve(
        self, server: uvicorn.Server, listening: socket.socket, ready: Callable[[], None]
    ) -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="uvicorn")
        stop = asyncio.create_task(self.stopping.wait())
        try:
            log.info("the dashboard and the HTTP API are at %s", self.url)
            ready()
            await asyncio.wait([serving, stop], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._asgi.state.api.stopping.set()
            server.should_exit = True
            stop.cancel()
            await asyncio.wait([serving])
            self._asgi.state.api.stopping.clear()
        serving.result()

    async def _check_host(self) -> None:
        """Raises ``ConfigError`` if it would serve other machines with the door open."""
        from mesh_master.access.door import is_loopback

        if is_loopback(self._host):
            return
        try:
            async with asyncio.timeout(_PATIENCE):
                is_required = await self._asgi.state.api.door.is_required()
        except (MasterError, TimeoutError):
            is_required = False
        if not is_required:
            raise ConfigError(
                f"http='{self._host}:{self._port}' serves other machines, and sign-in is off: "
                "make a user (mesh users add NAME --scope admin) or a key (mesh api-keys create "
                "NAME), or set sign_in='required' to be closed until there is one"
            )

    async def _wait_for_address(self, ready: Callable[[], None]) -> socket.socket | None:
        async def bind() -> socket.socket:
            return self._bind()

        try:
            return self._bind()
        except ConfigError as error:
            log.warning("no dashboard of this process yet: %s", error)
            ready()  # nothing else of this process need wait for it
        backoff = Backoff(self.stopping, _LOOK, _LOOK, self._app.clock)
        return await backoff.retry("the HTTP API", bind, ConfigError)

    def _bind(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((self._host, self._port))
        except OSError as error:
            listening.close()
            raise ConfigError(
                f"http='{self._host}:{self._port}' cannot be used: {error.strerror}; another "
                "process may have it: choose another port (--http HOST:PORT), or none (--no-http)"
            ) from None
        return listening


def _server(config: uvicorn.Config) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Signals are the whole process's matter."""

        def capture_signals(self) -> Any:
            from contextlib import nullcontext

            return nullcontext()

    return Server(config)


def parse_address(address: str) -> tuple[str, int]:
    """Raises ``ConfigError``."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(f"http='{address}': must be HOST:PORT, such as 127.0.0.1:8642")
    return host.strip("[]") or "0.0.0.0", int(port)


def api_role(app: Mesh, options: RoleOptions) -> Service:
    """The role ``api``. Raises ``ConfigError``."""
    if app.config.master is None:
        raise ConfigError(
            "the HTTP API shows the master's history: give master=..., or MESH_MASTER"
        )
    if options.http is not None:
        return ApiServer(app, options.http)
    return ApiServer(app, app.config.http, insists="http" in app.config.given)
