"""The commands ``mesh api-keys …``, ``mesh users …`` and ``mesh sign-in …``. They need the master's
URL, which is the right to everything, and what they do is in the audit log as that of the user of
this machine."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar

import typer

from mesh.app import Mesh
from mesh.clock import parse_duration
from mesh.console import (
    AppOption,
    JsonOption,
    MasterOption,
    ask,
    find_app,
    moment,
    print_json,
    print_table,
    table,
)
from mesh.errors import ConfigError, did_you_mean
from mesh.job import check_name
from mesh.ports import ApiKey, AuditEntry, User
from mesh.secret import digest, new_key
from mesh.sign_in import Scope

__all__ = ["api_keys", "sign_in", "users"]

T = TypeVar("T")

api_keys = typer.Typer(
    help="Give programs access to the HTTP API, and take it back.", no_args_is_help=True
)
users = typer.Typer(
    help="Let people sign in to the dashboard with a password.", no_args_is_help=True
)
sign_in = typer.Typer(
    help="Whether the HTTP API lets in those alone who sign in.", no_args_is_help=True
)

ScopeOption = Annotated[Scope, typer.Option(help="What they may do: look, operate, or everything.")]
StdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]


# keys ----------------------------------------------------------------------------------------


@api_keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: ScopeOption = Scope.READ,
    expires: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Such as 90d. Default: never.")
    ] = None,
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and print it, this once: only its digest is kept."""
    mesh = find_app(app, master)
    now = mesh.now()
    key_id, key = new_key()
    made = ApiKey(key_id, _checked(name), scope, now, _me(), _expiry(expires, now))

    async def create(mesh: Mesh) -> None:
        await (await mesh.master()).credentials.add_key(made, digest(key))

    _do(mesh, "api-keys create", f"{key_id} ({name}, {scope})", create)
    if as_json:
        print_json({"id": key_id, "name": name, "scope": scope, "key": key})
        return
    typer.echo(key)
    typer.echo(
        f"\nIt is not shown again. Send it as 'Authorization: Bearer {key[:18]}…'. "
        f"To take it back: mesh api-keys revoke {key_id}",
        err=True,
    )


@api_keys.command("ls")
def list_keys(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List the keys, the newest first."""
    mesh = find_app(app, master)

    async def look(mesh: Mesh) -> list[ApiKey]:
        return await (await mesh.master()).credentials.keys()

    found = ask(mesh, look)
    if as_json:
        print_json(found)
        return
    rows = table("id", "name", "scope", "created", "by", "used", "expires", "standing")
    for key in found:
        standing = "in force"
        if key.revoked_at is not None:
            standing = f"revoked {moment(key.revoked_at)}"
        elif key.expires_at is not None and key.expires_at <= mesh.now():
            standing = "expired"
        rows.add_row(
            key.id,
            key.name,
            key.scope,
            moment(key.created_at),
            key.created_by,
            moment(key.used_at) or "never",
            moment(key.expires_at) or "never",
            standing,
        )
    print_table(rows)


@api_keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID")],
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Take a key back: it lets nobody in any more, at once."""

    async def revoke(mesh: Mesh) -> None:
        credentials = (await mesh.master()).credentials
        if not await credentials.revoke_key(key_id):
            known = [key.id for key in await credentials.keys() if key.revoked_at is None]
            raise ConfigError(f"no key in force has the id '{key_id}'{did_you_mean(key_id, known)}")

    _do(find_app(app, master), "api-keys revoke", key_id, revoke)
    typer.echo(f"{key_id} is revoked")


# users ---------------------------------------------------------------------------------------


@users.command("add")
def add_user(
    name: Annotated[str, typer.Argument(help="The name to sign in with.")],
    scope: ScopeOption = Scope.READ,
    password_stdin: StdinOption = False,
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Add a user; asks for the password. From the first one on nobody gets in without sign-in."""
    check_name("user", name)
    mesh = find_app(app, master)
    hashed = _hash(_read_password(password_stdin))

    async def add(mesh: Mesh) -> None:
        credentials = (await mesh.master()).credentials
        if await credentials.find_user(name) is not None:
            raise ConfigError(f"there is a user '{name}' already: mesh users change {name}")
        await credentials.put_user(name, scope, hashed)

    _do(mesh, "users add", f"{name} ({scope})", add)
    typer.echo(f"{name} may sign in, with the scope {scope}")


@users.command("change")
def change_user(
    name: Annotated[str, typer.Argument()],
    scope: Annotated[Scope | None, typer.Option(help="The new scope.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new password.")] = False,
    password_stdin: StdinOption = False,
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Give a user another scope or password. Signs the user out everywhere."""
    if scope is None and not password and not password_stdin:
        raise ConfigError("mesh users change: give --scope, --password, or both")
    mesh = find_app(app, master)
    hashed = _hash(_read_password(password_stdin)) if password or password_stdin else None

    async def change(mesh: Mesh) -> None:
        credentials = (await mesh.master()).credentials
        found = await credentials.find_user(name)
        if found is None:
            raise await _no_user(mesh, name)
        user, stored = found
        await credentials.put_user(name, scope or user.scope, hashed or stored)

    _do(mesh, "users change", name, change)
    typer.echo(f"{name} is changed, and signed out everywhere")


@users.command("ls")
def list_users(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List the users."""

    async def look(mesh: Mesh) -> list[User]:
        return await (await mesh.master()).credentials.users()

    found = ask(find_app(app, master), look)
    if as_json:
        print_json(found)
        return
    rows = table("name", "scope", "created", "changed")
    for user in found:
        rows.add_row(user.name, user.scope, moment(user.created_at), moment(user.changed_at))
    print_table(rows)


@users.command("rm")
def remove_user(
    name: Annotated[str, typer.Argument()], app: AppOption = None, master: MasterOption = None
) -> None:
    """Remove a user, who is signed out everywhere at once."""

    async def remove(mesh: Mesh) -> None:
        if not await (await mesh.master()).credentials.remove_user(name):
            raise await _no_user(mesh, name)

    _do(find_app(app, master), "users rm", name, remove)
    typer.echo(f"{name} is removed")


async def _no_user(mesh: Mesh, name: str) -> ConfigError:
    known = [user.name for user in await (await mesh.master()).credentials.users()]
    return ConfigError(f"there is no user '{name}'{did_you_mean(name, known)}")


# whether -------------------------------------------------------------------------------------


@sign_in.command("status")
def status(app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False) -> None:
    """Say whether sign-in is required."""
    mesh = find_app(app, master)

    async def look(mesh: Mesh) -> bool:
        return await (await mesh.master()).credentials.required()

    required = ask(mesh, look)
    if as_json:
        print_json({"required": required})
    elif required:
        typer.echo("sign-in is required")
    else:
        typer.echo(
            "sign-in is off, so the HTTP API serves this machine alone: 'mesh users add NAME "
            "--scope admin' or 'mesh api-keys create NAME' requires it"
        )


@sign_in.command("require")
def require(app: AppOption = None, master: MasterOption = None) -> None:
    """Let in those alone who sign in. The first user or key does so by itself."""
    _require(find_app(app, master), True)
    typer.echo("sign-in is required")


@sign_in.command("off")
def turn_off(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    app: AppOption = None,
    master: MasterOption = None,
) -> None:
    """Let in everybody who reaches the API; servers then refuse all that is not on this machine."""
    if not yes:
        typer.confirm("Let everybody on the master's machine do everything?", abort=True)
    _require(find_app(app, master), False)
    typer.echo("sign-in is off")


def _require(mesh: Mesh, required: bool) -> None:
    async def put(mesh: Mesh) -> None:
        await (await mesh.master()).credentials.require(required)

    _do(mesh, "sign-in", "required" if required else "off", put)


# common --------------------------------------------------------------------------------------


def _do(mesh: Mesh, action: str, target: str, work: Callable[[Mesh], Awaitable[T]]) -> T:
    """Do it, and say so in the audit log."""

    async def doing(mesh: Mesh) -> T:
        done = await work(mesh)
        entry = AuditEntry(mesh.now(), f"cli:{_me()}", action, target, 200)
        await (await mesh.master()).credentials.audit(entry)
        return done

    return ask(mesh, doing)


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user without a name
        return "unknown"


def _checked(name: str) -> str:
    if not 0 < len(name) <= 100 or not name.isprintable():
        raise ConfigError(f"name={name!r}: must be a printable text of 1 to 100 characters")
    return name


def _expiry(duration: str | None, now: float) -> float | None:
    if duration is None:
        return None
    try:
        return now + parse_duration(duration)
    except ValueError as error:
        raise ConfigError(f"--expires {duration}: {error}") from None


def _read_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
    return password


def _hash(password: str) -> str:
    try:
        from mesh_master.access.passwords import hash_password
    except ImportError:
        raise ConfigError("passwords need argon2: pip install 'jobmesh[api]'") from None
    return hash_password(password)
