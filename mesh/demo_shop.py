"""A shop's jobs, for the dashboard of ``mesh demo`` to have something to show: with progress,
logs, streams, failures, a workflow and a schedule."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from mesh.app import Mesh
from mesh.context import Context
from mesh.outcome import Fail
from mesh.retry import Retry
from mesh.workflow import chain

__all__ = ["LANES", "open_shop"]

LANES = {"mail": 4, "exports": 2, "answers": 3}
"""The shop's lanes, and how many of each may run at once."""

_ANSWER = (
    "Your parcel left our warehouse this morning and is on its way to you. It should arrive within "
    "two days; you can follow it with the link in the mail. If it is not there by Friday, write to "
    "us and we shall send another one at once."
)


class MailRefused(OSError):
    """The mail server does not take a mail just now."""


def open_shop(app: Mesh) -> Callable[[], Coroutine[Any, Any, None]]:
    """Register the handlers; returns a coroutine function that keeps the shop busy for ever."""

    @app.job(lane="mail", title="Send a mail", icon="✉", retry=Retry(3, delay=2.0))
    async def send_mail(user_id: int, template: str = "receipt") -> str:
        await asyncio.sleep(random.uniform(0.05, 0.4))
        if user_id % 37 == 0:
            raise Fail(f"user {user_id} has no address")
        if random.random() < 0.08:
            raise MailRefused(f"421 smtp-{random.randint(1, 3)}: too many mails, try again later")
        return f"sent {template} to user {user_id}"

    @app.job(lane="exports", title="Export orders", icon="⇩")
    async def export_orders(ctx: Context[Any], shop: str, rows: int = 400) -> dict[str, Any]:
        for done in range(0, rows + 1, 10):
            await ctx.progress(done, rows, "rows")
            if done % 100 == 0:
                await ctx.log.info("wrote a page", shop=shop, rows=done)
            await asyncio.sleep(random.uniform(0.1, 0.4))
        return {"shop": shop, "rows": rows, "file": f"exports/{shop}.csv"}

    @app.job(lane="answers", title="Answer a question", icon="✎")
    async def answer(ctx: Context[Any], question: str) -> str:
        words = _ANSWER.split()
        for word in words:
            await ctx.chunk(f"{word} ")
            await asyncio.sleep(random.uniform(0.03, 0.15))
        await ctx.metric("words", len(words))
        return f"{len(words)} words"

    @app.job(lane="mail", title="Sum up", kind="system")
    async def sum_up(export: dict[str, Any]) -> str:
        return f"{export['rows']} orders of {export['shop']}"

    async def keep_busy() -> None:
        everything = {"shop": "all shops", "rows": 0}
        schedules = app.schedules
        await schedules.create(sum_up, "every 15 seconds", everything, name="heartbeat")
        await schedules.create(send_mail, "0 7 * * mon-fri", 1, "newsletter", name="newsletter")
        number = 0
        while True:
            number += 1
            await send_mail.options(meta={"tenant": f"t{number % 5}"}).enqueue(number)
            if number % 12 == 1:
                shop = random.choice(["amsterdam", "lyon", "porto"])
                orders = export_orders.draft(shop, random.randint(100, 600))
                await chain(orders, sum_up.draft()).enqueue()
            if number % 7 == 1:
                await answer.enqueue(f"Where is my parcel {number}?")
            await asyncio.sleep(random.uniform(0.2, 0.9))

    return keep_busy
