"""What ``mesh api-keys``, ``mesh users`` and ``mesh sign-in`` do and say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest
import typer
from typer.testing import CliRunner

from mesh import Mesh
from mesh.errors import ConfigError
from mesh.ports import Credentials
from mesh.redact import HIDDEN
from mesh.roles import RoleOptions, make_role
from mesh.secret import digest, parse_key
from mesh.sign_in import Scope
from mesh_master.access.passwords import Passwords
from mesh_master.commands import register

T = TypeVar("T")


class Shell:
    def __init__(self, folder: Path) -> None:
        self.url = f"sqlite:///{folder / 'mesh.db'}"
        self.cli = typer.Typer()
        register(self.cli)

    def mesh(self, *arguments: str, given: str = "") -> str:
        result = CliRunner().invoke(self.cli, [*arguments, "--master", self.url], input=given)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    def ask(self, question: Callable[[Credentials], Awaitable[T]]) -> T:
        async def asking() -> T:
            async with Mesh(self.url) as app:
                return await question((await app.master()).credentials)

        return asyncio.run(asking())


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def test_a_key_is_shown_once_and_kept_as_a_digest(shell: Shell) -> None:
    assert "is off" in shell.mesh("sign-in", "status")
    made = json.loads(shell.mesh("api-keys", "create", "deploys", "--scope", "operate", "--json"))
    assert parse_key(made["key"]) == made["id"]
    assert "is required" in shell.mesh("sign-in", "status")
    (listed,) = json.loads(shell.mesh("api-keys", "ls", "--json"))
    assert (listed["name"], listed["scope"], listed["revoked_at"]) == ("deploys", "operate", None)
    assert made["key"] not in json.dumps(listed)
    found = shell.ask(lambda c: c.find_key(made["id"]))
    assert found is not None
    assert found[1] == digest(made["key"])
    assert made["id"] in shell.mesh("api-keys", "ls")
    shell.mesh("api-keys", "revoke", made["id"])
    with pytest.raises(ConfigError, match="no key in force"):
        shell.mesh("api-keys", "revoke", made["id"])
    assert "revoked" in shell.mesh("api-keys", "ls")
    log = shell.ask(lambda c: c.audit_log())
    assert [entry.action for entry in log] == ["api-keys revoke", "api-keys create"]
    assert all(entry.who.startswith("cli:") for entry in log)


def test_a_key_with_an_end(shell: Shell) -> None:
    shell.mesh("api-keys", "create", "for a day", "--expires", "1d")
    (key,) = shell.ask(lambda c: c.keys())
    assert key.expires_at is not None
    assert key.expires_at - key.created_at == pytest.approx(86_400)
    with pytest.raises(ConfigError, match="--expires soon"):
        shell.mesh("api-keys", "create", "x", "--expires", "soon")


def test_users(shell: Shell) -> None:
    password, other = "correct horse battery", "another horse battery"
    shell.mesh("users", "add", "ann", "--scope", "admin", given=f"{password}\n{password}\n")
    with pytest.raises(ConfigError, match="mesh users change ann"):
        shell.mesh("users", "add", "ann", "--password-stdin", given=f"{password}\n")
    with pytest.raises(ConfigError, match="12 to 256"):
        shell.mesh("users", "add", "bob", "--password-stdin", given="short\n")
    shell.mesh("users", "change", "ann", "--scope", "read")
    shell.mesh("users", "change", "ann", "--password-stdin", given=f"{other}\n")
    found = shell.ask(lambda c: c.find_user("ann"))
    assert found is not None
    assert found[0].scope is Scope.READ
    assert asyncio.run(Passwords().check(other, found[1]))
    assert json.loads(shell.mesh("users", "ls", "--json"))[0]["name"] == "ann"
    with pytest.raises(ConfigError, match="did you mean 'ann'"):
        shell.mesh("users", "rm", "anna")
    shell.mesh("users", "rm", "ann")
    assert "is required" in shell.mesh("sign-in", "status")
    shell.mesh("sign-in", "off", "--yes")
    assert "is off" in shell.mesh("sign-in", "status")


SHOP = """
from mesh import Mesh
app = Mesh({url!r}, redact=["password"])

@app.job
async def sign_up(name: str, password: str) -> dict[str, str]:
    return {{"password": password, "name": name}}

app.schedule(sign_up, "0 2 * * *", "ann", "s3cret", name="nightly")
"""


def test_what_is_to_be_hidden_is_in_no_commands_output(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop_of_secrets.py").write_text(SHOP.format(url=shell.url), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    async def run() -> str:
        from shop_of_secrets import app, sign_up  # type: ignore[import-not-found]

        async with app:
            coordinator = make_role("coordinator", app, RoleOptions())
            worker = make_role("worker", app, RoleOptions())
            await worker.start()
            await coordinator.start()
            job = await sign_up.options(meta={"password": "s3cret"}).enqueue("ann", "s3cret")
            assert (await job.result(30))["password"] == "s3cret"  # workers and callers see it
            async with asyncio.timeout(30):
                while not await app.schedules.list():  # noqa: ASYNC110 - another service declares
                    await asyncio.sleep(0.02)
            await worker.stop()
            await coordinator.stop()
            return str(job.id)

    job_id = asyncio.run(run())
    for command in (
        ["jobs", "show", job_id],
        ["jobs", "show", job_id, "--json"],
        ["jobs", "ls", "--json"],
        ["jobs", "tail", job_id, "--json"],
        ["schedules", "show", "nightly"],
        ["schedules", "show", "nightly", "--json"],
        ["schedules", "ls", "--json"],
    ):
        result = CliRunner().invoke(shell.cli, [*command, "--app", "shop_of_secrets:app"])
        assert result.exception is None, command
        assert "s3cret" not in result.stdout, command
    assert (
        HIDDEN
        in CliRunner()
        .invoke(shell.cli, ["jobs", "show", job_id, "--app", "shop_of_secrets:app"])
        .stdout
    )
