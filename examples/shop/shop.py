"""A small shop: mail sent in the background, and sales reports that take a while.

``mesh worker shop:app --lane mail`` and ``mesh worker shop:app --lane reports`` run these
handlers, ``mesh up shop:app`` runs everything in one process; ``producer.py`` enqueues jobs.
"""

from __future__ import annotations

import asyncio
import calendar
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Literal

from mesh import Context, Mesh, Retry

app = Mesh.from_env()

Template = Literal["welcome", "receipt", "shipped"]

SUBJECTS: dict[Template, str] = {
    "welcome": "Welcome to the shop",
    "receipt": "Your receipt",
    "shipped": "Your order is on its way",
}
PRICES = {
    "teapot": Decimal("34.50"),
    "kettle": Decimal("59.00"),
    "mug": Decimal("8.90"),
    "tea, 100 g": Decimal("6.25"),
}


class MailServerBusy(Exception):
    """The mail server says: try again later."""


@dataclass(frozen=True)
class Receipt:
    to: str
    subject: str
    attempts: int


@dataclass(frozen=True)
class Report:
    month: str
    orders: int
    revenue: Decimal
    best_seller: str


@app.job(lane="mail", retry=Retry(5, delay=2, jitter=0.2), timeout=30)
async def send_mail(ctx: Context[str], user_id: int, template: Template = "welcome") -> Receipt:
    """Send a customer a mail. One user in 25 has a mail server that is busy at first."""
    to = f"user-{user_id}@shop.example"
    await asyncio.sleep(0.02)  # what talking to a mail server takes
    if user_id % 25 == 0 and ctx.attempt == 1:
        raise MailServerBusy(f"{to}: 451 try again later")
    return Receipt(to, SUBJECTS[template], ctx.attempt)


@app.job(lane="reports", timeout=300)
def build_report(ctx: Context[int], year: int, month: int) -> Report:
    """Add up a month's orders, day by day. A ``def``: it runs in a thread."""
    days = calendar.monthrange(year, month)[1]
    sold: Counter[str] = Counter()
    orders = 0
    for day in range(1, days + 1):
        for product in read_orders(year, month, day):
            sold[product] += 1
            orders += 1
        ctx.progress(day, days, "days")
    revenue = sum((PRICES[product] * n for product, n in sold.items()), Decimal())
    return Report(f"{year}-{month:02}", orders, revenue, sold.most_common(1)[0][0])


def read_orders(year: int, month: int, day: int) -> list[str]:
    """The products sold on a day. A real shop would ask its database."""
    random = Random(f"{year}-{month}-{day}")
    return random.choices(list(PRICES), weights=[2, 1, 5, 8], k=random.randint(10_000, 30_000))
