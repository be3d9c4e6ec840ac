"""Handlers whose dependencies come from a container that the application has already: dishka's.

One provider opens the container's request scope for each attempt, and closes it after; ``get``
makes a dependency of whatever the container knows. Other containers are used in the same way.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from dishka import AsyncContainer, Provider, Scope, from_context, make_async_container, provide

from mesh import Context, Depends, Injected, Mesh


class Audit:
    """One for the process."""

    def __init__(self) -> None:
        self.lines: list[str] = []


@dataclass
class Session:
    """One for each attempt."""

    audit: Audit
    job_id: str

    def charge(self, order: int) -> str:
        self.audit.lines.append(f"order {order} charged")
        return f"receipt {order} of job {self.job_id}"


class Shop(Provider):
    context = from_context(provides=Context, scope=Scope.REQUEST)
    audit = provide(Audit, scope=Scope.APP)

    @provide(scope=Scope.REQUEST)
    async def session(self, audit: Audit, ctx: Context) -> AsyncIterator[Session]:
        yield Session(audit, ctx.job_id)
        audit.lines.append("session closed")


container = make_async_container(Shop())


async def open_scope(ctx: Context) -> AsyncIterator[AsyncContainer]:
    async with container(context={Context: ctx}) as scope:
        yield scope


@cache
def get(kind: type) -> Callable[..., Awaitable[Any]]:
    """A provider of what the container has of that type; always the same for the same type."""

    async def provider(scope: Annotated[AsyncContainer, Depends(open_scope)]) -> Any:
        return await scope.get(kind)

    return provider


app = Mesh.from_env()


@app.job
async def charge(order: int, session: Annotated[Session, Depends(get(Session))] = Injected) -> str:
    return session.charge(order)


@app.job
def charge_in_a_thread(
    order: int, session: Annotated[Session, Depends(get(Session))] = Injected
) -> str:
    return session.charge(order)
