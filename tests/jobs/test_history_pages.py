"""The pages about history tell the truth: ``docs/coming-from.md`` cell by cell, and the code of
"History" in ``docs/jobs.md``."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import mesh

from .cluster_rig import PATIENCE, Rig
from .pages import check_command, run

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "coming-from.md").read_text()
TABLES = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
ROW = re.compile(r"^\| (.+?) \| `(.+?)` \| (.*?) ?\|$", re.MULTILINE)
HISTORY = (DOCS / "jobs.md").read_text().partition("\n## History\n")[2]


def code_of(table: str) -> list[str]:
    return [match[2] for match in ROW.finditer(TABLES[table])]


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(url=f"sqlite:///{tmp_path / 'mesh.db'}")


@asynccontextmanager
async def shop(rig: Rig) -> AsyncIterator[dict[str, Any]]:
    """The names that the pages use, on a cluster that runs."""
    app = rig.app()

    @app.job
    async def add(x: int, y: int = 1) -> int:
        return x + y

    @app.job(lane="mail")
    def send_mail(user_id: int, template: str = "hello") -> str:
        if template == "none":
            raise mesh.Fail("no such template")
        return f"sent {template} to {user_id}"

    @app.job
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.job
    async def nightly() -> None: ...

    async with rig.running(app):
        job = await send_mail.enqueue(42)
        await job.result(PATIENCE)
        names = {name: getattr(mesh, name) for name in mesh.__all__}
        names |= {"app": app, "add": add, "send_mail": send_mail, "total": total, "job": job}
        yield names | {
            "nightly": nightly,
            "datetime": datetime,
            "timedelta": timedelta,
            "UTC": UTC,
            "print": lambda *_: None,
        }


async def failed(names: dict[str, Any]) -> Any:
    job = await names["send_mail"].enqueue(42, template="none")
    with pytest.raises(mesh.JobFailed):
        await job.result(PATIENCE)
    return job


@pytest.mark.parametrize("table", sorted(TABLES))
def test_the_cells_are_found(table: str) -> None:
    rows = [line for line in TABLES[table].splitlines() if line.startswith("| ")]
    assert len(code_of(table)) == len(rows) - 1 >= 15  # all but the head


@pytest.mark.parametrize("table", sorted(TABLES))
async def test_the_cells_do_what_they_say(table: str, rig: Rig) -> None:
    async with shop(rig) as names:
        names["failed"] = await failed(names)
        for number, code in enumerate(code_of(table)):
            try:
                if code.startswith("mesh "):
                    check_command(code)
                elif code.startswith("raise "):
                    with pytest.raises(Exception, match=r".") as caught:
                        await run(code, names)
                    assert type(caught.value).__module__ == "mesh.outcome"
                elif code.startswith("@"):
                    body = f"async def handler_{number}(x: int) -> int: return x"
                    await run(f"{code}\n{body}", names)
                    assert names[f"handler_{number}"].name in names["app"].handlers
                else:
                    await run(code, names)
            except Exception as error:
                raise AssertionError(f"{code}: {type(error).__name__}: {error}") from error


async def test_the_section_on_history_does_what_it_says(rig: Rig) -> None:
    blocks = re.findall(r"```python\n(.*?)```", HISTORY, re.DOTALL)
    assert len(blocks) == 3
    async with shop(rig) as names:
        for code in blocks:
            names |= {"job": await failed(names), "again_failed": await failed(names)}
            await run(code, names)
        assert names["counts"] == {}
        assert {job.name for job in names["handles"]} == {"send_mail"}
