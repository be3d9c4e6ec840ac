"""``mesh jobs failures``: what fails, and how often."""

from __future__ import annotations

from typing import Annotated

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
from mesh.history import parse_where
from mesh.ports import FailureGroup
from mesh_master.job_options import parse_moment

__all__ = ["show_failures"]

_MOST_MESSAGE = 80


def show_failures(
    app: AppOption = None,
    master: MasterOption = None,
    since: Annotated[
        str | None,
        typer.Option(help="Ended so long ago at most, as 90s, 1h, 7d; or from that moment on."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many groups.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Show failed jobs in groups of those that look alike, the largest first: of the same handler
    and type of error, with messages that differ in numbers, ids and quoted texts alone."""
    mesh = find_app(app, master)
    given = {} if since is None else {"since": parse_moment("--since", since)}
    where = parse_where(given, mesh.now(), "mesh jobs failures", mesh.prefix)

    async def look(mesh: Mesh) -> list[FailureGroup]:
        return await (await mesh.master()).failures(where.since or 0.0, limit, app=where.app)

    found = ask(mesh, look)
    if as_json:
        print_json(found)
        return
    rows = table("jobs", "again", "name", "error", "first", "last", "newest", "fingerprint")
    for group in found:
        message = " ".join((group.message or "").split())
        if len(message) > _MOST_MESSAGE:
            message = f"{message[:_MOST_MESSAGE]}…"
        rows.add_row(
            str(group.count),
            str(group.retried or ""),
            group.name,
            f"{group.error_type or 'no error'}: {message}".removesuffix(": "),
            moment(group.first_at),
            moment(group.last_at),
            group.job_ids[0],
            group.fingerprint,
        )
    print_table(rows)
    if found:
        typer.echo(
            f"see them: mesh jobs ls --fingerprint {found[0].fingerprint}; mesh jobs show ID\n"
            f"do them again: mesh jobs retry --fingerprint {found[0].fingerprint}"
        )
