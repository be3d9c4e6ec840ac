"""Events reach those who are to be told: real servers, real clusters."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mesh import ConfigError, Fail, JobEvent, MasterUnavailable, Mesh, Retry
from mesh.events import Lifecycle
from mesh.job import State
from mesh.sinks import Collector, LogEvents, Sink, Wanted, Webhook

from .cluster_rig import PATIENCE, Rig

SECRET = base64.b64encode(b"s" * 32).decode()


class Receiver:
    """An HTTP server that keeps what it gets. ``answers`` are its next statuses, then 200."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[int, dict[str, str], bytes]] = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with receiver._changed:
                    status = receiver.answers.pop(0) if receiver.answers else 200
                    headers = {key.lower(): value for key, value in self.headers.items()}
                    receiver.got.append((status, headers, body))
                    receiver._changed.notify_all()
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/in"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    async def until(self, enough: Callable[[], bool]) -> None:
        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(enough, PATIENCE)

        assert await asyncio.to_thread(wait), self.got

    @property
    def taken(self) -> list[tuple[dict[str, str], Any]]:
        return [(headers, json.loads(body)) for status, headers, body in self.got if status == 200]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def define(app: Mesh) -> Any:
    @app.job(retry=Retry(2, delay=0.01, jitter=0))
    async def work(how: str) -> str:
        if how == "fail":
            raise ValueError("secret words")
        if how == "give up":
            raise Fail("secret words")
        return how

    return work


async def feed_ids(app: Mesh, job_id: str, kind: str = "lifecycle") -> list[str]:
    job = await app.get_job(job_id)
    return [f"{job_id}:{e.seq}" async for e in job.events() if e.kind == kind]


async def test_functions_are_called(rig: Rig) -> None:
    app = rig.app()
    work = define(app)
    told: list[JobEvent] = []
    failures: list[JobEvent] = []
    ended = asyncio.Event()

    @app.on_event()
    async def note(event: JobEvent) -> None:
        told.append(event)
        raise LookupError("it is logged")

    @app.on_event("failed", "result", name="wo*", lane="default")
    def fail(event: JobEvent) -> None:
        failures.append(event)
        if len(failures) == 2:
            ended.set()

    @app.on_event(name="another")
    async def never(event: JobEvent) -> None:
        raise AssertionError

    async with rig.running(app):
        good, bad = await work.enqueue("well"), await work.enqueue("fail")
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
            for job in (good, bad):
                ids = [event.id for event in told if event.job.id == job.id]
                assert list(dict.fromkeys(ids)) == await feed_ids(app, job.id)
    (of_good,) = [event for event in failures if event.job.id == good.id]
    (of_bad,) = [event for event in failures if event.job.id == bad.id]
    assert of_good.event.data == b'"well"'
    assert of_bad.job.state is State.FAILED
    assert Lifecycle.decode(of_bad.event.data).attempt == 2


async def test_what_ends_on_the_master_is_told_too(rig: Rig) -> None:
    app = rig.app()
    work = define(app)
    told: list[JobEvent] = []
    ended = asyncio.Event()

    @app.on_event("cancelled")
    async def note(event: JobEvent) -> None:
        told.append(event)
        ended.set()

    async with rig.running(app):
        job = await work.options(delay=3600).enqueue("well")
        assert await job.cancel("no more") is State.CANCELLED
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
        last = (await feed_ids(app, job.id))[-1]
    assert {event.id for event in told} == {last}
    error = Lifecycle.decode(told[0].event.data).error
    assert error is not None
    assert error.message == "no more"


class Stubborn(Sink):
    """Does not take an event before it was given three times."""

    def __init__(self) -> None:
        super().__init__(Wanted(["succeeded"]))
        self.given: list[str] = []
        self.done = asyncio.Event()

    async def take(self, events: Any) -> None:
        self.given += [told.id for told in events]
        if len(self.given) < 3:
            raise MasterUnavailable("not yet")
        self.done.set()


async def test_what_a_sink_cannot_take_comes_again(rig: Rig) -> None:
    sink = Stubborn()
    app = rig.app(sinks=[sink])
    work = define(app)
    async with rig.running(app):
        job = await work.enqueue("well")
        async with asyncio.timeout(PATIENCE):
            await sink.done.wait()
        assert sink.given == [(await feed_ids(app, job.id))[-1]] * 3


async def test_a_collector_gets_batches(rig: Rig, receiver: Receiver) -> None:
    receiver.answers = [503]
    collector = Collector(receiver.url, batch=7, interval=0.1, headers={"x-token": "t"})
    app = rig.app(sinks=[collector])
    work = define(app)

    def ids() -> list[str]:
        return [event["id"] for _, body in receiver.taken for event in body["events"]]

    async with rig.running(app):
        jobs = [await work.enqueue(how) for how in ["well"] * 5 + ["fail"]]
        for job in jobs:
            await app._client().wait(job.id, PATIENCE)
        wanted = {one for job in jobs for one in await feed_ids(app, job.id)}
        await receiver.until(lambda: set(ids()) >= wanted)
    assert sorted(ids()) == sorted(wanted)
    assert receiver.got[0][2] == receiver.got[1][2], "what was refused comes again"
    assert all(len(body["events"]) <= 7 for _, body in receiver.taken)
    assert {headers["x-token"] for headers, _ in receiver.taken} == {"t"}
    assert b"secret words" not in b"".join(body for _, _, body in receiver.got)
    errors = [e["data"].get("error") for _, body in receiver.taken for e in body["events"]]
    assert errors.count({"type": "ValueError"}) == 2
    assert collector.dropped == 0


async def test_what_is_hidden_is_hidden_from_others(rig: Rig, receiver: Receiver) -> None:
    results = Wanted(["result"])
    app = rig.app(sinks=[Collector(receiver.url, results, interval=0)], redact=["password"])
    seen: list[bytes] = []
    app.on_event("result")(lambda told: seen.append(told.event.data))

    @app.job
    async def work() -> dict[str, Any]:
        return {"user": "me", "password": "1234"}

    async with rig.running(app):
        await work.enqueue()
        await receiver.until(lambda: bool(receiver.taken))
    ((_, body),) = receiver.taken
    assert body["events"][0]["data"]["user"] == "me"
    assert b"1234" not in receiver.got[0][2]
    assert b"1234" in seen[0]


async def test_a_collector_that_refuses_or_is_away_stops_nothing(
    rig: Rig, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers = [400]
    refused = Collector(receiver.url, Wanted(["succeeded"]), interval=0)
    away = Collector("http://127.0.0.1:1/", Wanted(["succeeded"]), interval=0, patience=0.1)
    app = rig.app(sinks=[refused, away])
    work = define(app)
    async with rig.running(app):
        first = await work.enqueue("well")
        await first.result(PATIENCE)
        await receiver.until(lambda: bool(receiver.got))
        second = await work.enqueue("well")
        await second.result(PATIENCE)
        await receiver.until(lambda: bool(receiver.taken))
    assert (refused.dropped, away.dropped) == (1, 2)
    assert "it answered 400" in caplog.text
    assert "ConnectError" in caplog.text


async def test_a_webhook_is_delivered_by_a_job(rig: Rig, receiver: Receiver) -> None:
    receiver.answers = [500]
    hook = Webhook(
        "ops",
        receiver.url,
        secret=f"whsec_{SECRET}",
        wanted=Wanted(["failed", "succeeded"]),
        retry=Retry(3, delay=0.05),
        error_detail=True,
    )
    app = rig.app(sinks=[hook])
    work = define(app)
    async with rig.running(app):
        delivered = asyncio.Event()
        app.on_event("succeeded", name="mesh.webhook")(lambda told: delivered.set())
        job = await work.enqueue("give up")
        async with asyncio.timeout(PATIENCE):
            await delivered.wait()
        (delivery,) = [one async for one in app.jobs(name="mesh.webhook")]
        assert await delivery.result(PATIENCE) == 200
        (message_id,) = (await feed_ids(app, job.id))[-1:]
        # Its own end is told of to nobody.
        assert [one.id async for one in app.jobs(name="mesh.webhook")] == [delivery.id]
        assert receiver.url not in str((await delivery.info()).payload)
        assert app.handlers["mesh.webhook"].definition.kind == "system"
    assert [status for status, _, _ in receiver.got] == [500, 200]
    for _, headers, body in receiver.got:
        assert headers["webhook-id"] == message_id
        signed = f"{message_id}.{headers['webhook-timestamp']}.".encode() + body
        digest = hmac.new(b"s" * 32, signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    ((_, sent),) = receiver.taken
    assert sent["type"] == "job.failed"
    assert sent["data"]["job"] == {
        "id": job.id,
        "name": "work",
        "lane": "default",
        "state": "failed",
    }
    assert sent["data"]["data"]["error"] == {"type": "Fail", "message": "secret words"}


async def test_what_no_job_can_carry_is_not_sent_and_stops_nothing(
    rig: Rig, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    hook = Webhook("ops", receiver.url, secret=SECRET, wanted=Wanted(["result"]))
    app = rig.app(sinks=[hook], payload_limit=1000)

    @app.job
    async def work(size: int) -> str:
        return "x" * size

    async with rig.running(app):
        long, short = await work.enqueue(950), await work.enqueue(3)
        await long.result(PATIENCE)
        await short.result(PATIENCE)
        await receiver.until(lambda: bool(receiver.taken))
    ((headers, _),) = receiver.taken
    assert headers["webhook-id"].startswith(short.id)
    assert f"event {long.id}:" in caplog.text


async def test_events_are_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    app = rig.app(sinks=[LogEvents(Wanted(["started", "failed"]))])
    work = define(app)
    caplog.set_level(logging.INFO, "mesh.events")
    done = asyncio.Event()
    app.on_event("failed")(lambda told: done.set())
    async with rig.running(app):
        job = await work.enqueue("give up")
        async with asyncio.timeout(PATIENCE):
            await done.wait()
    records = [vars(r) for r in caplog.records if r.name == "mesh.events"]
    assert [(r["event"], r["levelname"], r["job_id"], r["attempt"]) for r in records] == [
        ("started", "INFO", job.id, 1),
        ("failed", "ERROR", job.id, 1),
    ]
    assert records[1]["error_type"] == "Fail"
    assert "secret words" not in records[1]["message"]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Wanted(["fialed"]), "did you mean 'failed'"),
        (lambda: Collector("ftp://x"), "must be an http:// or https:// URL"),
        (lambda: Webhook("a b", "https://x", secret=SECRET), "not a valid name"),
        (lambda: Webhook("a", "https://x", secret="whsec_c2hvcnQ="), "24 to 64 bytes"),
        (lambda: Mesh("sqlite:///x.db", sinks=[object()]), "a subclass of Sink"),  # type: ignore[list-item]
        (
            lambda: Mesh(
                "sqlite:///x.db",
                sinks=[Webhook("a", "https://x", secret=SECRET) for _ in range(2)],
            ),
            "two webhooks have the name 'a'",
        ),
    ],
)
def test_what_is_no_sink_is_refused(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()
