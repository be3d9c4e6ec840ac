"""A short round on the deployment ``mariadb``. Longer ones: ``make chaos``."""

from __future__ import annotations

import pytest

from .rounds import short_round


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("mariadb_installed")
async def test_every_promise_is_kept() -> None:
    await short_round("mariadb")
