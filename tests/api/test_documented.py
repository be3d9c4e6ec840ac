"""What docs/api.md tells to type works, typed as it is there."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path

import msgspec
import pytest

from mesh import Mesh, Retry
from mesh_master.server import ApiServer

from .conftest import PATIENCE, Served, serving

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text("utf-8")
_HERE = "http://127.0.0.1:8642"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def commands(containing: str) -> list[str]:
    """The lines with curl of the one block in which that is."""
    (block,) = [block for block in blocks("sh") if containing in block]
    return [line for line in block.splitlines() if line.startswith("curl ")]


async def run(command: str, **variables: str) -> str:
    """What a command answers; an answer that is a problem is an error."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", command.replace("curl ", "curl -sS --fail-with-body ", 1)),
        env=os.environ | variables | {"NO_PROXY": "127.0.0.1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(PATIENCE):
        output, _ = await process.communicate()
    assert process.returncode == 0, f"{command}\n{output.decode()}"
    return output.decode()


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl here")
async def test_the_commands(tmp_path: Path) -> None:
    app = Mesh(f"sqlite:///{tmp_path / 'mesh.db'}")

    @app.job(lane="mail", retry=Retry(1))
    async def send_mail(user_id: int) -> None:
        raise ConnectionError(f"no way to the mail server for {user_id}")

    server = ApiServer(app, "127.0.0.1:0")
    async with serving(app) as served, server:
        enqueue, *others = commands("API=")
        url = f"{server.url}/api/v1"
        answer = await run(enqueue, API=url)
        assert " 202 " in answer.splitlines()[0]
        location = re.search(r"(?im)^location: (.*?)\r?$", answer)
        assert location is not None
        job_id = location[1].rpartition("/")[2]
        await served.ended(job_id)
        *looks, stream, cancel, again, many = others
        for command in looks:
            assert msgspec.json.decode(await run(command, API=url, ID=job_id))
        told = await run(stream, API=url, ID=job_id)
        assert told.rstrip().endswith("event: end\ndata: {}")
        ended = msgspec.json.decode(await run(cancel, API=url, ID=job_id))
        assert ended["state"] == "failed"
        made = msgspec.json.decode(await run(again, API=url, ID=job_id))
        await served.ended(made["id"])
        # The first was done again already.
        found = msgspec.json.decode(await run(many, API=url))
        assert found == {"matched": 1, "done": 0}
        await see_with_a_key(served, server.url)


async def see_with_a_key(served: Served, url: str) -> None:
    key = (await served.post("api-keys", {"name": "deploys", "scope": "operate"}, 201))["key"]
    (command,) = commands("Bearer $KEY")
    assert _HERE in command
    page = msgspec.json.decode(await run(command.replace(_HERE, url), KEY=key))
    assert page["jobs"]


async def test_the_problem(served: Served) -> None:
    (shown,) = map(msgspec.json.decode, blocks("json"))
    body = {"name": "send_mial"}
    problem = await served.post("jobs", body, shown["status"])
    assert {name: problem[name] for name in ("type", "title", "status")} == {
        name: shown[name] for name in ("type", "title", "status")
    }
    assert problem["detail"].partition(" 'send_mial'")[0] == shown["detail"].partition(" '")[0]
