"""What both type checkers say of handlers. Never run: checked by ``test_typing.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import Annotated, Any, assert_type

from mesh import (
    AttemptEnded,
    Context,
    Depends,
    Failure,
    Handler,
    Injected,
    Job,
    JobHandle,
    Mesh,
    Middleware,
    NewJob,
    ParentJob,
    Retry,
    State,
)

app = Mesh("sqlite:///mesh.db")


class Receipt: ...


class Progress: ...


@app.job
async def send_mail(user_id: int, template: str = "hello", *, urgent: bool = False) -> Receipt:
    return Receipt()


@app.job
def count(words: list[str]) -> int:
    return len(words)


@app.job(lane="mail", retry=Retry(3), timeout=5, priority="high", name="with.options")
async def with_options(user_id: int) -> Receipt:
    return Receipt()


@app.job
async def with_context(ctx: Context[Progress], user_id: int) -> str:
    await ctx.progress(Progress())
    await ctx.log.info("half-way", user=user_id)
    return ""


@app.job(lane="mail")
def with_context_in_a_thread(ctx: Context, user_id: int) -> str:
    ctx.progress(1, 10, "pages")
    return ""


@app.job
async def may_fail(user_id: int) -> Receipt | Failure:
    return Failure("no such user", retry=False) if user_id < 0 else Receipt()


@app.job(process=True, expires=60, deadline=600)
def may_fail_in_a_process(ctx: Context, user_id: int) -> Receipt | Failure:
    return Failure("no such user")


class Export(Job[Receipt], name="exports.v1"):
    tenant: int
    columns: tuple[str, ...] = ()


@app.handler
async def export(request: Export, ctx: Context[Progress]) -> Receipt:
    return Receipt()


class ExportInAProcess(Export, name="exports.v2"): ...


@app.handler(process=True)
def export_in_a_process(request: ExportInAProcess) -> Receipt | Failure:
    return Failure("too large")


async def handles() -> None:
    assert_type(await send_mail.enqueue(1), JobHandle[Receipt])
    assert_type(await send_mail.enqueue(1, "x", urgent=True), JobHandle[Receipt])
    assert_type(await send_mail.enqueue(user_id=1), JobHandle[Receipt])
    assert_type(await count.enqueue(["a"]), JobHandle[int])
    assert_type(await with_options.enqueue(1), JobHandle[Receipt])
    assert_type(await with_context.enqueue(1), JobHandle[str])
    assert_type(await with_context_in_a_thread.enqueue(user_id=1), JobHandle[str])
    assert_type(await may_fail.enqueue(1), JobHandle[Receipt])
    assert_type(await may_fail_in_a_process.enqueue(1), JobHandle[Receipt])
    assert_type(await app.enqueue(Export(tenant=1)), JobHandle[Receipt])
    assert_type(await app.enqueue(ExportInAProcess(1)), JobHandle[Receipt])
    assert_type(await app.enqueue(Export(1, ("id",)), delay=5), JobHandle[Receipt])
    assert_type(await app.get_job("id"), JobHandle[Any])
    assert_type(await send_mail.options(delay=5, priority="low").enqueue(1), JobHandle[Receipt])
    assert_type(await send_mail.enqueue_many([(1,), {"user_id": 2}]), list[JobHandle[Receipt]])


def get_receipt() -> Receipt:
    return Receipt()


@app.job
async def with_dependency(
    ctx: Context, user_id: int, receipt: Annotated[Receipt, Depends(get_receipt)] = Injected
) -> Receipt:
    return receipt


class Counting(Middleware):
    def enqueue(self, jobs: Sequence[NewJob]) -> Iterator[None]:
        yield

    async def execute(self, ctx: Context[Any]) -> AsyncIterator[None]:
        assert_type(ctx.parents, list[ParentJob])
        yield

    async def ended(self, attempt: AttemptEnded) -> None: ...


async def contexts(ctx: Context) -> None:
    assert_type(await with_dependency.enqueue(1), JobHandle[Receipt])
    assert_type(await ctx.enqueue(with_dependency, 1), JobHandle[Receipt])
    assert_type(await ctx.enqueue(send_mail.options(delay=5), 1), JobHandle[Receipt])
    assert_type(await ctx.enqueue(Export(1), delay=5), JobHandle[Receipt])
    assert_type(ctx.sync(ctx.enqueue(count, ["a"])), JobHandle[int])
    assert_type(ctx.parent_result(Receipt), Receipt)
    assert_type(ctx.parents[0].result_as(int), int)
    await ctx.enqueue(send_mail, "1")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    await ctx.enqueue(Export(1), dely=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


async def results(job: JobHandle[Receipt]) -> None:
    assert_type(await job.result(), Receipt)
    assert_type(await job.result(timeout=5), Receipt)
    assert_type(await job.status(), State)
    assert_type(app.sync(job.result()), Receipt)
    assert_type(app.sync(send_mail.enqueue(1)), JobHandle[Receipt])
    async for event in job.events():
        assert_type(event.data, bytes)


def calling_them() -> None:
    assert_type(count(["a"]), int)
    assert_type(send_mail(1), Awaitable[Receipt])
    handler: Handler[[list[str]], int, int] = count
    assert_type(handler.function(["a"]), int)


async def wrong_arguments() -> None:
    await send_mail.enqueue()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await send_mail.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await send_mail.enqueue(1, tempalte="x")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await send_mail.enqueue(1, "x", True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await count.enqueue([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]
    await with_options.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await with_context.enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await send_mail.options().enqueue("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.enqueue(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Export()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Export("1")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Export(1).tenant = 2  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    await send_mail.enqueue_many([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def wrong_options() -> None:
    send_mail.options(dely=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_mail.options(delay="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_mail.options(priority="urgent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await app.enqueue(Export(1), dely=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_mail.options(expires="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_mail.options(process=True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    Retry(on=(ValueError, "shop.errors.CardDeclined"), give_up_on=(KeyError,), when=bool)
    Retry(on=(1,))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Retry(backoff="quadratic")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    app.job(delay=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    app.job("mail")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue, reportArgumentType]
    send_mail.options(delay=5).options()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
