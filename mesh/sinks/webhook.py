"""Events to a webhook, signed as the Standard Webhooks specification has it.

Each event becomes a job, ``mesh.webhook``, before the ledger goes on: so it is delivered *at
least once* by an ordinary worker of the app, however long the receiver is away, as the retry
policy says. The job's id follows from the event's, so that one that comes again makes no second
job. Receivers tell repeats by the header ``webhook-id``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from mesh.context import Context
from mesh.errors import ClusterArchived, ConfigError, InvalidJob
from mesh.feed import JobEvent
from mesh.handler import Handler
from mesh.job import check_name, made_job_id
from mesh.outcome import Fail
from mesh.retry import Retry
from mesh.sinks.base import Sink, Wanted, as_json
from mesh.sinks.collector import http_client

if TYPE_CHECKING:
    from mesh.app import Mesh

__all__ = ["NAME", "Webhook", "sign"]

log = logging.getLogger("mesh")

NAME = "mesh.webhook"

RETRY = Retry(12, delay=5.0, backoff="exponential", factor=3.0, max_delay=6 * 3600.0)
"""For about a day."""

_GONE = 410


def sign(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The header ``webhook-signature``."""
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


class Webhook(Sink):
    """POSTs ``{"type": "job.failed", "timestamp": …, "data": {…}}`` to ``url``, with the headers
    ``webhook-id``, ``webhook-timestamp`` and ``webhook-signature``. A type is ``job.`` and the
    moment of the job's life, or the event's kind."""

    def __init__(
        self,
        name: str,
        url: str,
        *,
        secret: str,
        wanted: Wanted | None = None,
        lane: str = "default",
        retry: Retry = RETRY,
        timeout: float = 15.0,
        error_detail: bool = False,
    ) -> None:
        """``name`` is in the jobs, by which workers know ``url`` and ``secret``: those are in no
        job. ``secret`` is ``whsec_`` and 24 to 64 bytes in base64. ``lane`` and ``retry`` are
        those of the deliveries, ``timeout`` a request's. ``error_detail``: send errors' messages,
        up to 500 characters, not their types alone."""
        super().__init__(wanted)
        check_name("webhook", name)
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"Webhook('{name}'): url must be an http:// or https:// URL")
        self.name = name
        self.url = url
        self.secret = _secret(name, secret)
        self.lane = lane
        self.retry = retry
        self.timeout = timeout
        self._error_detail = error_detail
        self._deliver: Handler[..., Any, Any] | None = None

    def attach(self, app: Mesh) -> None:
        super().attach(app)
        others = [sink for sink in app.sinks if isinstance(sink, Webhook) and sink is not self]
        if any(sink.name == self.name for sink in others):
            raise ConfigError(f"sinks: two webhooks have the name '{self.name}'")
        known = app.handlers.get(app.prefix.of(NAME))
        self._deliver = known or _define(app)

    async def take(self, events: Sequence[JobEvent]) -> None:
        assert self._deliver is not None
        for told in events:
            if told.job.name == self._deliver.name:
                continue  # it would never end
            event = as_json(told, self.shown(told.event), self._error_detail)
            life = event["data"] if told.event.kind == "lifecycle" else {}
            body = {
                "type": f"job.{life.get('event', told.event.kind)}",
                "timestamp": event["at"],
                "data": event,
            }
            digits = hashlib.sha256(f"{self.name}:{told.id}".encode()).hexdigest()
            options: dict[str, Any] = {
                "id": made_job_id(told.event.at, digits),
                "lane": self.lane,
                "retry": self.retry,
            }
            text = msgspec.json.encode(body).decode()
            try:
                await self._deliver.options(**options).enqueue(self.name, told.id, text)
            except (InvalidJob, ClusterArchived) as error:
                log.error("webhook '%s': event %s is not sent: %s", self.name, told.id, error)


def _define(app: Mesh) -> Handler[..., Any, Any]:
    @app.job(
        name=NAME,
        kind="system",
        title="Webhook",
        description="Delivers an event to a webhook of the configuration.",
    )
    async def deliver(webhook: str, message_id: str, body: str, ctx: Context[Any]) -> int:
        for sink in app.sinks:
            if isinstance(sink, Webhook) and sink.name == webhook:
                return await _post(sink, message_id, body.encode(), int(app.now()))
        raise Fail(f"this worker's app has no webhook '{webhook}' among its sinks")

    return deliver


async def _post(hook: Webhook, message_id: str, body: bytes, now: int) -> int:
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(now),
        "webhook-signature": sign(hook.secret, message_id, now, body),
    }
    async with http_client("Webhook(...)", hook.timeout) as client:
        answer = await client.post(hook.url, content=body, headers=headers)
    if answer.status_code == _GONE:
        raise Fail(f"webhook '{hook.name}' is gone: it answered 410; take it out of the sinks")
    if not answer.is_success:
        raise RuntimeError(f"webhook '{hook.name}' answered {answer.status_code}")
    return answer.status_code


def _secret(name: str, secret: str) -> bytes:
    try:
        found = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        found = b""
    if not 24 <= len(found) <= 64:
        # What is wrong is not shown: it is a secret.
        raise ConfigError(
            f"Webhook('{name}'): secret must be whsec_ and 24 to 64 bytes in base64: "
            'python -c "import base64, os; '
            "print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        )
    return found
