"""Transactions that a server gives up for another's sake, and that are done again.

MariaDB's do so now and then, and SQL Server's, in whatever order rows are taken: a claim goes from
an index to the rows, and a change from the rows to the index.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from mesh.errors import MeshError
from mesh.sql.faults import was_undone

__all__ = ["repeated"]

_TURNS = 10

P = ParamSpec("P")
R = TypeVar("R")


def repeated(
    transaction: Callable[P, Coroutine[Any, Any, R]],
) -> Callable[P, Coroutine[Any, Any, R]]:
    """A coroutine function that is one transaction of ``Database.write``, or several that may
    each be repeated: done again, up to 10 times, when the server ends it to break a deadlock."""

    @wraps(transaction)
    async def run(*args: P.args, **kwargs: P.kwargs) -> R:
        for turn in range(_TURNS):
            try:
                return await transaction(*args, **kwargs)
            except MeshError as error:
                if error.__cause__ is None or not was_undone(error.__cause__):
                    raise
            await asyncio.sleep(random.uniform(0, min(0.002 * 2**turn, 0.2)))
        return await transaction(*args, **kwargs)

    return run
