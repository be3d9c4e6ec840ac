"""The page docs/jobs.md, where it says what handlers do."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
from worker_rig import Rig

from mesh import Job, Mesh
from mesh.errors import ConfigError
from mesh.options import DEFINED, JobOptions
from mesh_master.enqueue_command import enqueue_job

PAGE = (Path(__file__).parents[2] / "docs" / "jobs.md").read_text()


def section(title: str) -> str:
    """The text below a heading of the second level."""
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_an_option_has_one_spelling_wherever_it_is_given() -> None:
    of_jobs, of_handlers = set(JobOptions.__annotations__), set(DEFINED)
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \|", section("When and where it runs"), re.MULTILINE
    )
    assert set(re.findall(r"\w+", " ".join(rows))) == of_jobs
    # A transaction of the caller's cannot be named in a shell.
    shell = {name.replace("job_id", "id") for name in inspect.signature(enqueue_job).parameters}
    assert of_jobs - shell == {"session"}
    assert shell - of_jobs == {"name", "arguments", "app", "wait", "as_json"}
    with pytest.raises(ConfigError, match=re.escape(f"(known: {', '.join(sorted(of_handlers))})")):
        type("Wrong", (Job,), {}, zzzzzz=1)
    known = ", ".join(sorted({*of_handlers, "process"}))
    with pytest.raises(ConfigError, match=re.escape(f"(known: {known})")):
        Mesh("sqlite:///never.db").job(zzzzzz=1)  # type: ignore[call-overload]


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
