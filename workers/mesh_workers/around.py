"""What is done around one call of a handler: the execute hooks of middleware, then dependencies.

A handler on the event loop has all of it there. One in a thread (or, if it is a ``def``, in a
process) has its plain hooks and dependencies opened and closed where it runs itself, inside of
those that are ``async``, which stay on the event loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from typing import Any

from mesh.context import Context
from mesh.depends import Plan, Values
from mesh.handler import Handler
from mesh.job import State
from mesh.middleware import AttemptEnded
from mesh.outcome import Failure
from mesh.wire import Finished, Retrying
from mesh_workers.outcome import Outcome, Run, Succeeded

__all__ = ["Around", "surround", "tell"]


class Around:
    """Of one attempt."""

    def __init__(self, handler: Handler[..., Any, Any], context: Context[Any]) -> None:
        self.error: BaseException | None = None
        """What the handler raised, or what is around it."""
        self._handler = handler
        self._function = handler.function
        self._context = context
        self._hooks = handler.app.hooks.execute
        self._plan: Plan | None = None

    def prepare(self) -> None:
        """To be called first. Raises ``ConfigError`` if the dependencies, as they are overridden
        now, cannot be made."""
        self._plan = self._handler.plan

    @property
    def needs_loop(self) -> bool:
        """Some of it must run on an event loop, wherever the handler runs."""
        on_loop = self._plan is not None and bool(self._plan.on_loop)
        return on_loop or any(hook.is_async for hook in self._hooks)

    async def run(self, **arguments: Any) -> Any:
        """Call an ``async`` handler. Raises what it raises, or what is around it."""
        context, plan = self._context, self._plan
        try:
            async with AsyncExitStack() as stack:
                for hook in self._hooks:
                    await hook.enter(stack, context)
                if plan is not None:
                    values: Values = {}
                    for step in plan.steps:
                        await step.open(stack, values, context)
                    arguments |= plan.pick(values)
                return self._noted(await self._function(**arguments))
        except BaseException as error:
            self.error = error
            raise

    async def run_elsewhere(
        self, call: Callable[[Callable[[], Any]], Awaitable[Any]], **arguments: Any
    ) -> Any:
        """Call a ``def`` handler by ``call``, which runs a function where the handler is to run.
        Raises as ``run`` does."""
        context, plan = self._context, self._plan
        try:
            async with AsyncExitStack() as stack:
                for hook in self._hooks:
                    if hook.is_async:
                        await hook.enter(stack, context)
                values: Values = {}
                if plan is not None:
                    for step in plan.on_loop:
                        await step.open(stack, values, context)
                return await call(partial(self.run_here, values, **arguments))
        except BaseException as error:
            self.error = error
            raise

    def _noted(self, returned: Any) -> Any:
        """What the handler returned, for middleware to know if it says that it failed."""
        if isinstance(returned, Failure):
            self._context.failure = returned
        return returned

    def run_here(self, values: Values, /, **arguments: Any) -> Any:
        """Call a ``def`` handler here, where it is to run; ``values`` are those of providers on
        the event loop. Raises as ``run`` does."""
        context, plan = self._context, self._plan
        try:
            with ExitStack() as stack:
                for hook in self._hooks:
                    if not hook.is_async:
                        hook.enter_here(stack, context)
                if plan is not None:
                    for step in plan.in_place:
                        step.open_here(stack, values, context)
                    arguments |= plan.pick(values)
                return self._noted(self._function(**arguments))
        except BaseException as error:
            self.error = error
            raise


def surround(handler: Handler[..., Any, Any], context: Context[Any] | None) -> Around | None:
    """``None``, as nearly always, if there is nothing to do. The context is there if the handler
    ``needs_context``."""
    if not handler.is_surrounded:
        return None
    assert context is not None
    return Around(handler, context)


def tell(
    run: Run,
    record: Finished | Retrying,
    max_attempts: int,
    seconds: float,
    outcome: Outcome,
    raised: BaseException | None,
) -> AttemptEnded:
    """What middleware is told of an attempt that ended with ``outcome``."""
    job = run.job
    error = None if isinstance(outcome, Succeeded) else outcome.error
    # A time-out, say, is no longer what was raised in the handler.
    if error is None or error.type != type(raised).__qualname__:
        raised = None
    return AttemptEnded(
        job_id=job.id,
        name=job.name,
        lane=job.lane,
        attempt=run.attempt,
        max_attempts=max_attempts,
        state=record.state if isinstance(record, Finished) else State.RETRYING,
        seconds=seconds,
        error=error,
        exception=raised,
        meta=job.meta or {},
        headers=job.headers or {},
        waited=max(0.0, run.started_at - max(job.enqueued_at, job.due_at)),
    )
