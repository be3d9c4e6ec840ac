"""The page docs/jobs.md, where it says what handlers do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from worker_rig import Rig

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
