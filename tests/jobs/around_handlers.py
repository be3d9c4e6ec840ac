"""An app on the cluster that the environment names: handlers in processes import it anew."""

import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from mesh import AttemptEnded, Context, Depends, Injected, Mesh, Middleware, Retry
from mesh.codecs import Fernet
from mesh.middleware import Trace, current_trace

KEYS = os.environ["AROUND_KEYS"].split()


TOLD: list[AttemptEnded] = []


class Place(Middleware):
    """Says which process it runs in, and notes what it is told here."""

    def ended(self, attempt: AttemptEnded) -> None:
        TOLD.append(attempt)

    def execute(self, ctx: Context[Any]) -> Iterator[None]:
        ctx.chunk([f"hook in {os.getpid()}"])
        yield


app = Mesh.from_env(middleware=[Trace(), Place()], codec=Fernet(*KEYS), retry=Retry(1))


def plain(ctx: Context) -> Iterator[str]:
    ctx.chunk(["open plain"])
    yield "plain"
    ctx.chunk(["close plain"])


async def waiting(ctx: Context) -> AsyncIterator[str]:
    ctx.chunk(["open async"])
    yield "async"
    ctx.chunk(["close async"])


@app.job
async def child(text: str) -> str:
    return f"{text} in {current_trace()}"


@app.job(process=True)
def die(ctx: Context, one: Annotated[str, Depends(plain)] = Injected) -> None:
    os._exit(7)


@app.job(process=True)
def in_process(
    ctx: Context,
    text: str,
    one: Annotated[str, Depends(plain)] = Injected,
    two: Annotated[str, Depends(waiting)] = Injected,
) -> list[str]:
    job = ctx.sync(ctx.enqueue(child, f"{text} {one} {two}"))
    return [str(os.getpid()), job.id, current_trace() or ""]


@app.job(process=True)
async def in_process_async(
    ctx: Context,
    text: str,
    one: Annotated[str, Depends(plain)] = Injected,
    two: Annotated[str, Depends(waiting)] = Injected,
) -> list[str]:
    job = await ctx.enqueue(child, f"{text} {one} {two}")
    return [str(os.getpid()), job.id, current_trace() or ""]


@app.job
def in_thread(
    ctx: Context,
    text: str,
    one: Annotated[str, Depends(plain)] = Injected,
    two: Annotated[str, Depends(waiting)] = Injected,
) -> list[str]:
    job = ctx.sync(ctx.enqueue(child, f"{text} {one} {two}"))
    return [str(os.getpid()), job.id, current_trace() or ""]


@app.job
async def on_loop(
    ctx: Context,
    text: str,
    one: Annotated[str, Depends(plain)] = Injected,
    two: Annotated[str, Depends(waiting)] = Injected,
) -> list[str]:
    job = await ctx.enqueue(child, f"{text} {one} {two}")
    return [str(os.getpid()), job.id, current_trace() or ""]
