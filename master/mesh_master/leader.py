"""Holding a duty: one process at a time does it, another takes over when that one fails.

States: *waiting* (another holder has the lease; ask every third of its time), *leading* (the
duty runs, the lease is renewed every third of its time), *over* (the duty must end).

A term may be trusted until two thirds of the lease have gone by on the holder's own monotonic
clock since the last renewal was **asked for**; then it is over, although the lease has a third
to run: that covers a slow answer and a clock that runs a little slow. Whoever is suspended for
longer than the lease may still believe in it for a moment. So writes carry the lease, and the
master refuses those of an old one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from mesh.clock import Clock
from mesh.errors import MasterError
from mesh.ports import Lease, Master
from mesh.service import Backoff, pass_on

__all__ = ["Term", "lead"]

log = logging.getLogger("mesh")

_TRUSTED = 2 / 3
_RENEW = 1 / 3
_LEAVING = 2.0
"""Seconds for a master to take a lease back. Others need only wait for it to expire."""


class Term:
    """The time in which a lease is held."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.over = asyncio.Event()
        """Set when the duty must end: the lease is lost or in doubt, or the process stops."""


async def lead(
    master: Master,
    name: str,
    holder: str,
    duty: Callable[[Term], Awaitable[None]],
    *,
    stopping: asyncio.Event,
    clock: Clock,
    ttl: float = 10.0,
) -> None:
    """Run ``duty`` whenever this holder has the lease ``name``, until ``stopping`` is set.

    ``duty`` returns soon after ``term.over`` is set; if it returns before, its lease is given
    up. What it raises ends ``lead``. The lease is released when the duty has returned.
    """
    backoff = Backoff(stopping, clock=clock)
    while not stopping.is_set():
        asked = clock.monotonic()
        lease = await backoff.retry(
            f"lease '{name}'", lambda: _ask(master, name, holder, ttl), MasterError
        )
        if lease is None:
            break
        if isinstance(lease, str):
            await clock.wait(stopping, ttl * _RENEW)
            continue
        if clock.monotonic() - asked > ttl * _RENEW:
            continue  # the answer took so long that little of the lease is left: ask again
        log.info("%s holds the lease '%s' (token %d)", holder, name, lease.token)
        await _serve(master, Term(lease), asked, duty, stopping, clock)


async def _ask(master: Master, name: str, holder: str, ttl: float) -> Lease | str:
    # Not None for "held by another": Backoff.retry returns None when it was stopped.
    return await master.acquire(name, holder, ttl) or "held"


async def _serve(
    master: Master,
    term: Term,
    asked: float,
    duty: Callable[[Term], Awaitable[None]],
    stopping: asyncio.Event,
    clock: Clock,
) -> None:
    async with asyncio.TaskGroup() as tasks:
        keepers = [
            tasks.create_task(_keep(master, term, asked, clock)),
            tasks.create_task(pass_on(stopping, term.over)),
        ]
        try:
            await duty(term)
        finally:
            for keeper in keepers:
                keeper.cancel()
    try:
        async with asyncio.timeout(_LEAVING):
            await master.release(term.lease)
    except (MasterError, TimeoutError) as error:
        log.info("lease '%s' was not released, it will expire: %s", term.lease.name, _why(error))


async def _keep(master: Master, term: Term, asked: float, clock: Clock) -> None:
    """Renew; end the term when that fails for too long."""
    lease = term.lease
    pause = lease.ttl * _RENEW
    while not await clock.wait(term.over, pause):
        asking = clock.monotonic()
        left = asked + lease.ttl * _TRUSTED - asking
        try:
            async with asyncio.timeout(max(left, 0.0)):
                renewed = await master.renew(lease)
        except (MasterError, TimeoutError) as error:
            # Near the end of the trust; often, so that a short outage costs no term.
            pause = lease.ttl * _RENEW / 4
            if clock.monotonic() + pause < asked + lease.ttl * _TRUSTED:
                continue
            why = _why(error)
            log.warning("lease '%s' could not be renewed: %s; stepping down", lease.name, why)
            break
        if not renewed:
            log.warning("lease '%s' went to another holder; stepping down", lease.name)
            break
        asked, pause = asking, lease.ttl * _RENEW
    term.over.set()


def _why(error: Exception) -> str:
    return str(error) or "no answer in time"
