"""A short round on the deployment ``sql``. Longer ones: ``make chaos``."""

from __future__ import annotations

import pytest

from .rounds import short_round


@pytest.mark.timeout(300)
async def test_every_promise_is_kept() -> None:
    await short_round("sql")
