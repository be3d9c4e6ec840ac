"""The page docs/jobs.md, where it says what handlers do."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from worker_rig import Rig

from mesh.options import DEFINED

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()


def section(title: str) -> str:
    """The text below a heading of the second level."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


async def test_what_handlers_say_of_their_attempts(any_rig: Rig) -> None:
    text = section("Retries, time-outs, outcomes")
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, space)
    table = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (\d+) \|$", text, re.MULTILINE)
    assert len(table) >= 6
    charge = any_rig.app.job(retry=space["charge"].defaults.retry)(space["charge"].function)
    jobs = await charge.enqueue_many([(order,) for order, _, _ in table])
    async with any_rig.worker():
        ends = await any_rig.ended(*(job.id for job in jobs))
    assert [(end.state, end.attempt) for end in ends] == [(s, int(n)) for _, s, n in table]


async def test_what_is_said_of_definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = section("Handlers")
    space: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        code = compile(block, "jobs.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        if (waits := eval(code, space)) is not None:
            await waits
    app = space["app"]
    assert sorted(app.handlers) == ["exports.v1", "mail.send"]
    assert space["send_mail"].definition.description == "Send a user a mail."
    (job,) = [job.seen async for job in app.jobs()]
    assert (job.name, job.lane, job.priority) == ("exports.v1", "exports", 4)
    await app.close()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(rows))) == sorted(DEFINED)
