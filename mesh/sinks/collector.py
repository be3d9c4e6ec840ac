"""Events to an HTTP collector, in batches.

One task sends; events wait in memory, within bounds. *Best effort*: what waits is lost if the
process dies, and the oldest are dropped, and counted, when more than ``buffer`` wait, or when the
collector has refused a batch or has not taken it in ``patience`` seconds.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.errors import ConfigError
from mesh.feed import JobEvent
from mesh.sinks.base import Sink, Wanted, as_json

if TYPE_CHECKING:
    import httpx

__all__ = ["Collector", "http_client"]

log = logging.getLogger("mesh")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
_LAST_MOMENT = 5.0
_TRY_AGAIN = frozenset({408, 425, 429})


def http_client(what: str, timeout: float) -> httpx.AsyncClient:
    """Raises ``ConfigError`` if httpx is not there."""
    try:
        import httpx
    except ImportError:
        raise ConfigError(f"{what} needs httpx: pip install 'jobmesh[http]'") from None
    return httpx.AsyncClient(timeout=timeout, follow_redirects=False)


class Collector(Sink):
    """POSTs ``{"events": [...]}``, JSON, to ``url``."""

    def __init__(
        self,
        url: str,
        wanted: Wanted | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        batch: int = 200,
        batch_bytes: int = 256 * 1024,
        interval: float = 2.0,
        buffer: int = 10_000,
        timeout: float = 10.0,
        patience: float = 300.0,
        error_detail: bool = False,
    ) -> None:
        """A batch leaves when it has ``batch`` events or ``batch_bytes``, or its first has waited
        for ``interval`` seconds. ``timeout`` is a request's, ``patience`` how long one batch is
        tried. ``error_detail``: send errors' messages, up to 500 characters, not their types
        alone."""
        super().__init__(wanted)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"Collector({url!r}): must be an http:// or https:// URL")
        self.dropped = 0
        self._url = url
        self._headers = {"content-type": "application/json", **(headers or {})}
        self._batch = batch
        self._batch_bytes = batch_bytes
        self._interval = interval
        self._buffer = buffer
        self._timeout = timeout
        self._patience = patience
        self._error_detail = error_detail
        self._waiting: deque[bytes] = deque()
        self._some = asyncio.Event()
        self._full = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        client = http_client("Collector(...)", self._timeout)
        self._some, self._full, self._closing = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._task = asyncio.create_task(self._run(client), name="mesh-collector")

    async def take(self, events: Sequence[JobEvent]) -> None:
        for told in events:
            if len(self._waiting) >= self._buffer:
                self._waiting.popleft()
                self._drop(1, f"more than {self._buffer} wait")
            event = as_json(told, self.shown(told.event), self._error_detail)
            self._waiting.append(msgspec.json.encode(event))
        self._some.set()
        if len(self._waiting) >= self._batch:
            self._full.set()

    async def close(self) -> None:
        """Sends what waits, if that takes no more than a few seconds."""
        if self._task is None:
            return
        self._closing.set()
        self._some.set()
        self._full.set()
        _, late = await asyncio.wait([self._task], timeout=_LAST_MOMENT)
        for task in late:
            task.cancel()
            await asyncio.wait([task])
        if self._waiting:
            self._drop(len(self._waiting), "the process ended")
            self._waiting.clear()
        self._task = None

    async def _run(self, client: httpx.AsyncClient) -> None:
        async with client:
            while self._waiting or not self._closing.is_set():
                await self._some.wait()
                self._some.clear()
                while self._waiting:
                    await _wait(self._full, self._interval)
                    self._full.clear()
                    await self._send(client, self._next())
                    if len(self._waiting) >= self._batch or self._closing.is_set():
                        self._full.set()

    def _next(self) -> list[bytes]:
        batch: list[bytes] = []
        size = 0
        while self._waiting and len(batch) < self._batch:
            size += len(self._waiting[0])
            if batch and size > self._batch_bytes:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send(self, client: httpx.AsyncClient, batch: list[bytes]) -> None:
        body = b'{"events":[%b]}' % b",".join(batch)
        loop, pause = asyncio.get_running_loop(), _FIRST_PAUSE
        until = loop.time() + self._patience
        while True:
            try:
                why, again, wait = await self._post(client, body)
            except asyncio.CancelledError:
                self._drop(len(batch), "the process ended")
                raise
            if not why:
                return
            wait = max(wait, pause * random.uniform(0.8, 1.2))
            if not again or loop.time() + wait > until:
                self._drop(len(batch), why)
                return
            log.debug("collector %s: %s; again in %.1f s", self._url, why, wait)
            await asyncio.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> tuple[str, bool, float]:
        """Why it was not taken, whether to try again, and after how many seconds at least."""
        import httpx

        try:
            answer = await client.post(self._url, content=body, headers=self._headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{type(error).__name__}: {error}", not isinstance(error, httpx.InvalidURL), 0.0
        if answer.is_success:
            return "", False, 0.0
        again = answer.status_code >= 500 or answer.status_code in _TRY_AGAIN
        return f"it answered {answer.status_code}", again, _retry_after(answer)

    def _drop(self, count: int, why: str) -> None:
        before, self.dropped = self.dropped, self.dropped + count
        # Now and then: when it begins, and when it has doubled.
        if self.dropped >= 2 * before or self.dropped.bit_length() > before.bit_length():
            log.warning("collector %s: %d events dropped so far: %s", self._url, self.dropped, why)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _retry_after(answer: Any) -> float:
    try:
        return min(float(answer.headers.get("retry-after", "0")), _LONGEST_PAUSE)
    except ValueError:
        return 0.0
