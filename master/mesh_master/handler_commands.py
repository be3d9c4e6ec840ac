"""The commands ``mesh handlers …``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
import typer

from mesh.app import Mesh
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
from mesh.errors import UnknownHandler, did_you_mean
from mesh.ports import HandlerInfo

__all__ = ["handlers"]

handlers = typer.Typer(help="Look at the handlers that workers have told of.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


@handlers.command("ls")
def list_handlers(
    app: AppOption = None, master: MasterOption = None, as_json: JsonOption = False
) -> None:
    """List the cluster's handlers: those that any worker had when it started."""
    found = ask(find_app(app, master), _handlers)
    if as_json:
        print_json([_facts(handler) for handler in found])
        return
    rows = table("name", "lane", "kind", "title", "seen")
    for handler in found:
        definition = handler.definition
        title = " ".join(filter(None, (definition.icon, definition.title)))
        rows.add_row(handler.name, definition.lane, definition.kind, title, moment(handler.seen_at))
    print_table(rows)


@handlers.command("show")
def show_handler(
    name: NameArgument,
    app: AppOption = None,
    master: MasterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a handler: what it is for, its options, and the schemas of its arguments and result."""
    mesh = find_app(app, master)
    handler = _find(mesh.prefix.of(name), ask(mesh, _handlers))
    facts = _facts(handler)
    if as_json:
        print_json(facts)
        return
    for fact in ("first_seen", "changed_at", "seen_at"):
        facts[fact] = moment(facts[fact])
    for fact, value in facts.items():
        if value not in (None, ""):
            shown = value if isinstance(value, str) else msgspec.json.encode(value).decode()
            typer.echo(f"{fact.replace('_', ' '):<12} {shown}")


@handlers.command("rm")
def remove_handler(name: NameArgument, app: AppOption = None, master: MasterOption = None) -> None:
    """Forget a handler that no code has any more. Its jobs stay."""

    mesh = find_app(app, master)
    full = mesh.prefix.of(name)

    async def remove(mesh: Mesh) -> bool:
        return await (await mesh.master()).remove_handler(full)

    if not ask(mesh, remove):
        _find(full, ask(mesh, _handlers))
    typer.echo(f"{full} is forgotten; a worker that starts with it brings it back")


async def _handlers(mesh: Mesh) -> list[HandlerInfo]:
    return await (await mesh.master()).handlers()


def _find(name: str, known: Sequence[HandlerInfo]) -> HandlerInfo:
    found = next((handler for handler in known if handler.name == name), None)
    if found is None:
        hint = did_you_mean(name, [handler.name for handler in known])
        raise UnknownHandler(
            f"no worker has told of a handler '{name}'{hint}; mesh handlers ls lists those known"
        )
    return found


def _facts(handler: HandlerInfo) -> dict[str, Any]:
    """All that is known, as one object."""
    return {
        "name": handler.name,
        "app": handler.app,
        **msgspec.structs.asdict(handler.definition),
        "first_seen": handler.first_seen,
        "changed_at": handler.changed_at,
        "seen_at": handler.seen_at,
    }
