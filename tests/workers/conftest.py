from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from worker_rig import Rig


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    rig = Rig()
    yield rig
    await rig.close()


@pytest.fixture(params=["memory", "sqlite"])
async def any_rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(f"sqlite:///{tmp_path}/agent.db" if request.param == "sqlite" else "")
    yield rig
    await rig.close()
