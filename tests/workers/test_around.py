"""What is opened around a handler, and how it is closed, wherever that runs and however it ends."""

# Annotations here name things inside of functions, so they must not be strings.

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Annotated, Any

import pytest
from worker_rig import PATIENCE, Gate, Rig

from mesh import (
    AttemptEnded,
    Cancel,
    ConfigError,
    Context,
    Depends,
    Fail,
    Injected,
    Mesh,
    Middleware,
    Retry,
    State,
)
from mesh.wire import Finished

MOOD: ContextVar[str] = ContextVar("MOOD", default="none")


class Notes(list[str]):
    """What happened, in order, and in which thread."""

    def here(self, what: str) -> None:
        place = "loop" if threading.current_thread() is threading.main_thread() else "thread"
        self.append(f"{what} [{place}]")


class Noting(Middleware):
    def __init__(self, notes: Notes, name: str) -> None:
        self.notes, self.name = notes, name

    def execute(self, ctx: Context[Any]) -> Iterator[None]:
        self.notes.here(f"{self.name} before {ctx.name}")
        token = MOOD.set(self.name)
        try:
            yield
        except BaseException as error:
            self.notes.here(f"{self.name} saw {type(error).__name__}")
            raise
        finally:
            MOOD.reset(token)
            self.notes.here(f"{self.name} after")


class NotingAsync(Noting):
    async def execute(self, ctx: Context[Any]) -> AsyncIterator[None]:  # type: ignore[override]
        self.notes.here(f"{self.name} before {ctx.name}")
        MOOD.set(self.name)
        try:
            yield
        except BaseException as error:
            self.notes.here(f"{self.name} saw {type(error).__name__}")
            raise
        finally:
            await asyncio.sleep(0)
            self.notes.here(f"{self.name} after")


class Telling(Middleware):
    def __init__(self) -> None:
        self.told: list[AttemptEnded] = []

    def ended(self, attempt: AttemptEnded) -> None:
        self.told.append(attempt)


@pytest.fixture
def notes() -> Notes:
    return Notes()


def with_middleware(*middleware: Middleware, **settings: Any) -> Rig:
    return Rig(middleware=middleware, retry=Retry(1), **settings)


def opened(notes: Notes) -> tuple[Any, Any]:
    """A plain provider and one that is async."""

    def plain() -> Iterator[str]:
        notes.here("open plain")
        try:
            yield "plain"
        except BaseException as error:
            notes.here(f"plain saw {type(error).__name__}")
            raise
        finally:
            notes.here("close plain")

    async def waiting() -> AsyncIterator[str]:
        notes.here("open async")
        try:
            yield "async"
        finally:
            await asyncio.sleep(0)
            notes.here("close async")

    return plain, waiting


async def run(rig: Rig, handler: Any, *args: Any) -> Finished:
    async with rig.worker():
        job = await handler.enqueue(*args)
        (ended,) = await rig.ended(job.id)
    return ended


# where and when ----------------------------------------------------------------------------------


async def test_around_an_async_handler_all_is_on_the_event_loop(notes: Notes) -> None:
    rig = with_middleware(Noting(notes, "first"), NotingAsync(notes, "second"))
    plain, waiting = opened(notes)

    @rig.app.job
    async def work(
        n: int,
        one: Annotated[str, Depends(plain)] = Injected,
        two: Annotated[str, Depends(waiting)] = Injected,
    ) -> str:
        notes.here(f"work {n} {one} {two} {MOOD.get()}")
        return one + two

    ended = await run(rig, work, 7)
    await rig.close()
    assert ended.result == b'"plainasync"'
    assert notes == [
        "first before work [loop]",
        "second before work [loop]",
        "open plain [loop]",
        "open async [loop]",
        "work 7 plain async second [loop]",
        "close async [loop]",
        "close plain [loop]",
        "second after [loop]",
        "first after [loop]",
    ]


async def test_around_a_handler_in_a_thread_what_is_plain_is_in_the_thread(notes: Notes) -> None:
    rig = with_middleware(Noting(notes, "first"), NotingAsync(notes, "second"))
    plain, waiting = opened(notes)

    @rig.app.job
    def work(
        one: Annotated[str, Depends(plain)], two: Annotated[str, Depends(waiting)] = Injected
    ) -> str:
        notes.here(f"work {one} {two} {MOOD.get()}")
        return one + two

    ended = await run(rig, work)
    await rig.close()
    assert ended.result == b'"plainasync"'
    assert notes == [
        "second before work [loop]",
        "open async [loop]",
        "first before work [thread]",
        "open plain [thread]",
        "work plain async first [thread]",
        "close plain [thread]",
        "first after [thread]",
        "close async [loop]",
        "second after [loop]",
    ]


async def test_context_variables_of_async_hooks_reach_threads(notes: Notes) -> None:
    rig = with_middleware(NotingAsync(notes, "outer"))

    @rig.app.job
    def work() -> str:
        return MOOD.get()

    assert (await run(rig, work)).result == b'"outer"'
    await rig.close()


async def test_a_provider_is_called_once_an_attempt(rig: Rig) -> None:
    made: list[int] = []

    def counted(ctx: Context) -> int:
        made.append(ctx.attempt)
        return len(made)

    def other(one: Annotated[int, Depends(counted)]) -> int:
        return one

    @rig.app.job(retry=Retry(2, delay=0))
    def work(
        ctx: Context,
        one: Annotated[int, Depends(counted)] = Injected,
        two: Annotated[int, Depends(other)] = Injected,
    ) -> list[int]:
        if ctx.attempt == 1:
            raise ValueError
        return [one, two]

    assert (await run(rig, work)).result == b"[2,2]"
    assert made == [1, 2]


async def test_overrides_stand_in_while_they_are_there(rig: Rig) -> None:
    def real() -> str:
        return "real"

    @rig.app.job
    async def work(one: Annotated[str, Depends(real)] = Injected) -> str:
        return one

    async with rig.worker():
        rig.app.dependency_overrides[real] = lambda: "fake"
        job = await work.enqueue()
        (ended,) = await rig.ended(job.id)
        rig.app.dependency_overrides.clear()
        again = await work.enqueue()
        (as_it_was,) = await rig.ended(again.id)
    assert (ended.result, as_it_was.result) == (b'"fake"', b'"real"')


# how it ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [True, False])
async def test_failures_are_seen_by_all_that_was_opened_and_stay_failures(
    notes: Notes, is_async: bool
) -> None:
    class Swallowing(Middleware):
        def execute(self, ctx: Context[Any]) -> Iterator[None]:
            try:
                yield
            except ValueError:
                notes.append("swallowed")

    telling = Telling()
    rig = with_middleware(telling, NotingAsync(notes, "outer"), Swallowing())
    plain, _ = opened(notes)

    def fail() -> None:
        raise ValueError("the handler's own")

    if is_async:

        @rig.app.job(name="work")
        async def work(one: Annotated[str, Depends(plain)]) -> None:
            fail()
    else:

        @rig.app.job(name="work")
        def work(one: Annotated[str, Depends(plain)]) -> None:
            fail()

    ended = await run(rig, work)
    await rig.close()
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ("ValueError", "the handler's own")
    places = [note.partition(" [")[0] for note in notes]
    assert places == [
        "outer before work",
        "open plain",
        "plain saw ValueError",
        "close plain",
        "swallowed",
        "outer saw ValueError",
        "outer after",
    ]
    (told,) = telling.told
    assert isinstance(told.exception, ValueError)
    assert (told.state, told.error) == (State.FAILED, ended.error)
    # The frames of the worker are not the handler's business.
    assert "test_around.py" in ended.error.traceback.splitlines()[1]


@pytest.mark.parametrize("is_async", [True, False])
async def test_what_fails_at_the_end_fails_the_attempt(rig: Rig, is_async: bool) -> None:
    def session() -> Iterator[None]:
        yield
        raise ConnectionError("not committed")

    if is_async:

        @rig.app.job(name="work", retry=Retry(1))
        async def work(one: Annotated[None, Depends(session)]) -> int:
            return 1
    else:

        @rig.app.job(name="work", retry=Retry(1))
        def work(one: Annotated[None, Depends(session)]) -> int:
            return 1

    ended = await run(rig, work)
    assert ended.state is State.FAILED
    assert ended.error is not None
    assert (ended.error.type, ended.error.message) == ("ConnectionError", "not committed")


async def test_words_of_hooks_and_providers_count_as_the_handlers(notes: Notes) -> None:
    class Refusing(Middleware):
        def execute(self, ctx: Context[Any]) -> Iterator[None]:
            if ctx.meta.get("tenant") == "gone":
                raise Cancel("the tenant has gone")
            yield

    def provider(ctx: Context) -> None:
        if ctx.meta.get("tenant") == "broke":
            raise Fail("no licence")

    rig = with_middleware(Refusing())

    @rig.app.job
    def work(one: Annotated[None, Depends(provider)] = Injected) -> int:
        return 1

    async with rig.worker():
        jobs = [
            await work.options(meta={"tenant": tenant}).enqueue()
            for tenant in ("gone", "broke", "fine")
        ]
        ended = await rig.ended(*(job.id for job in jobs))
    await rig.close()
    assert [each.state for each in ended] == [State.CANCELLED, State.FAILED, State.SUCCEEDED]


@pytest.mark.parametrize("how", ["time-out", "cancel"])
async def test_what_an_async_handler_has_is_closed_when_it_is_stopped(
    notes: Notes, how: str
) -> None:
    telling = Telling()
    rig = with_middleware(telling, Noting(notes, "outer"))
    plain, _ = opened(notes)
    gate = Gate()

    @rig.app.job(timeout=0.01 if how == "time-out" else None)
    async def work(one: Annotated[str, Depends(plain)] = Injected) -> None:
        await gate.pass_through()

    async with rig.worker() as worker:
        job = await work.enqueue()
        if how == "cancel":
            await gate.until_entered(1)
            worker.lanes[0].cancel(job.id, "not wanted")
        (ended,) = await rig.ended(job.id)
    await rig.close()
    assert [note.partition(" [")[0] for note in notes] == [
        "outer before work",
        "open plain",
        "plain saw CancelledError",
        "close plain",
        "outer saw CancelledError",
        "outer after",
    ]
    assert ended.state is (State.FAILED if how == "time-out" else State.CANCELLED)
    (told,) = telling.told
    assert told.error is not None
    assert told.exception is None
    assert told.error.type == ("TimeoutError" if how == "time-out" else "Cancelled")


async def test_what_a_thread_uses_stays_open_until_the_thread_ends(notes: Notes) -> None:
    rig = Rig(middleware=[NotingAsync(notes, "outer")])
    plain, waiting = opened(notes)
    inside, go_on = threading.Event(), threading.Event()

    @rig.app.job(timeout=0.05, retry=Retry(1000, delay=0))
    def work(
        one: Annotated[str, Depends(plain)] = Injected,
        two: Annotated[str, Depends(waiting)] = Injected,
    ) -> None:
        if not inside.is_set():  # later attempts end at once
            inside.set()
            go_on.wait(PATIENCE)

    async with rig.worker() as worker:
        job = await work.enqueue()
        (ended,) = await rig.ended(job.id)
        assert ended.state is State.SUCCEEDED
        assert inside.is_set()
        assert worker.lanes[0].stragglers == 1
        assert still_open(notes) == {"plain": 1, "async": 1}
        go_on.set()
    await rig.close()
    assert still_open(notes) == {"plain": 0, "async": 0}
    assert notes[-3:] == ["close plain [thread]", "close async [loop]", "outer after [loop]"]


def still_open(notes: Notes) -> dict[str, int]:
    words = Counter(note.partition(" [")[0] for note in notes)
    return {kind: words[f"open {kind}"] - words[f"close {kind}"] for kind in ("plain", "async")}


async def test_a_provider_that_hangs_is_stopped_in_time(rig: Rig) -> None:
    closed = asyncio.Event()

    async def hangs() -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            closed.set()

    @rig.app.job(timeout=0.01, retry=Retry(1))
    def work(one: Annotated[None, Depends(hangs)] = Injected) -> None: ...

    async with rig.worker() as worker:
        job = await work.enqueue()
        (ended,) = await rig.ended(job.id)
        assert worker.lanes[0].stragglers == 0
    assert ended.error is not None
    assert ended.error.type == "TimeoutError"
    assert closed.is_set()


# being told --------------------------------------------------------------------------------------


async def test_every_end_of_an_attempt_is_told(rig: Rig) -> None:
    telling = Telling()
    rig = with_middleware(telling)

    @rig.app.job(retry=Retry(2, delay=0))
    async def work(ctx: Context) -> int:
        if ctx.attempt == 1:
            raise ValueError("once")
        return 1

    await run(rig, work)
    await rig.close()
    first, second = telling.told
    assert (first.state, first.attempt, first.max_attempts) == (State.RETRYING, 1, 2)
    assert first.error is not None
    assert (first.error.type, type(first.exception)) == ("ValueError", ValueError)
    assert (second.state, second.error, second.exception) == (State.SUCCEEDED, None, None)
    assert second.seconds >= 0


async def test_a_hook_that_fails_when_told_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Middleware):
        async def ended(self, attempt: AttemptEnded) -> None:
            raise SystemExit("reporter")

    telling = Telling()
    rig = with_middleware(Broken(), telling)

    @rig.app.job
    async def work() -> int:
        return 1

    ended = await run(rig, work)
    await rig.close()
    assert ended.state is State.SUCCEEDED
    assert len(telling.told) == 1
    assert f"job {ended.id} (work): middleware failed" in caplog.text


async def test_a_worker_refuses_dependencies_that_cannot_be_made() -> None:
    app = Mesh(agents={"m": "memory://unused"})

    def needs(url: str) -> str:
        return url

    @app.job
    def work(one: Annotated[str, Depends(needs)] = Injected) -> None: ...

    worker = Rig().worker(app=app)
    with pytest.raises(ConfigError, match="nobody gives its parameter 'url'"):
        await worker.start()
