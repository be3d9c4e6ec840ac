"""examples/container: each attempt has a scope of the container, opened and closed."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from .cluster_rig import PATIENCE, Rig

EXAMPLE = Path(__file__).parents[2] / "examples/container/jobs.py"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MESH_URL", f"sqlite:///{tmp_path / 'mesh.db'}")
    spec = importlib.util.spec_from_file_location("container_jobs", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "container_jobs", module)
    spec.loader.exec_module(module)
    return module


async def test_each_attempt_has_a_scope_of_the_container(example: Any) -> None:
    async with Rig().running(example.app):
        for handler in (example.charge, example.charge_in_a_thread):
            job = await handler.enqueue(7)
            assert await job.result(timeout=PATIENCE) == f"receipt 7 of job {job.id}"
    audit = await example.container.get(example.Audit)
    assert audit.lines == ["order 7 charged", "session closed"] * 2
    await example.container.close()
