"""``mesh jobs enqueue``: a job from the shell, told all that one can be told in code."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec
import typer

from mesh.codec import encode_json
from mesh.config import convert
from mesh.console import AppOption, JsonOption, load_app, print_json, run
from mesh.errors import ConfigError, InvalidArguments
from mesh.retry import Retry
from mesh_master.job_options import parse_tag

__all__ = ["enqueue_job"]


def enqueue_job(
    name: Annotated[str, typer.Argument(help="The handler's name.")],
    arguments: Annotated[
        str, typer.Argument(help="Its arguments by name, as a JSON object.")
    ] = "{}",
    app: AppOption = None,
    lane: Annotated[str | None, typer.Option(help="Another lane than the handler's.")] = None,
    priority: Annotated[
        str | None, typer.Option(help="lowest, low, normal, high, highest.")
    ] = None,
    delay: Annotated[float | None, typer.Option(help="Seconds until it may start.")] = None,
    at: Annotated[
        str | None, typer.Option(help="When it may start, such as 2030-01-31T09:00:00+01:00.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option(help="Seconds from then in which it must start, or a moment.")
    ] = None,
    deadline: Annotated[
        str | None, typer.Option(help="Seconds from then in which it must end, or a moment.")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds an attempt may take.")] = None,
    retry: Annotated[
        str | None, typer.Option(metavar="JSON", help='Its policy, such as {"max_attempts": 3}.')
    ] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="TAG=VALUE", help="A tag. Repeatable.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="An idempotency key.")] = None,
    key_scope: Annotated[
        str | None, typer.Option(help="unfinished, forever, or a number of seconds.")
    ] = None,
    on_conflict: Annotated[
        str | None, typer.Option(help="keep, replace, debounce or raise.")
    ] = None,
    max_wait: Annotated[
        float | None, typer.Option(help="Seconds to which debounce pushes the start back.")
    ] = None,
    after: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A job to run after. Repeatable.")
    ] = None,
    on: Annotated[
        str | None, typer.Option(help="How that must have ended: success, failure, finished.")
    ] = None,
    durability: Annotated[str | None, typer.Option(help="agent or master.")] = None,
    agent: Annotated[str | None, typer.Option(help="The agent to use.")] = None,
    result_ttl: Annotated[
        float | None, typer.Option(help="Seconds to keep it after its end.")
    ] = None,
    job_id: Annotated[
        str | None, typer.Option("--id", help="A UUID of your choice: stored once at most.")
    ] = None,
    wait: Annotated[
        float | None, typer.Option(help="Wait so many seconds for the result, and print it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Enqueue a job; prints its id."""
    if app is None:
        raise ConfigError("say which app has the handler: --app module:attribute, or MESH_APP")
    mesh = load_app(app)
    handler = mesh.get_handler(name)
    given: dict[str, Any] = {
        "lane": lane,
        "priority": priority,
        "delay": delay,
        "at": None if at is None else _moment("--at", at),
        "expires": None if expires is None else _until("--expires", expires),
        "deadline": None if deadline is None else _until("--deadline", deadline),
        "timeout": timeout,
        "retry": None if retry is None else _retry(retry),
        "meta": dict(map(parse_tag, meta)) if meta else None,
        "key": key,
        "key_scope": None if key_scope is None else _scope(key_scope),
        "on_conflict": on_conflict,
        "max_wait": max_wait,
        "after": after or None,
        "on": on,
        "durability": durability,
        "agent": agent,
        "result_ttl": result_ttl,
        "id": job_id,
    }
    options: Any = {option: value for option, value in given.items() if value is not None}
    try:
        values = handler.decode(arguments.encode())
    except msgspec.MsgspecError as error:
        raise InvalidArguments(f"handler '{name}', arguments {arguments}: {error}") from None

    async def enqueue() -> tuple[dict[str, Any], Any]:
        async with mesh:
            job = await handler.options(**options).enqueue(**values)
            facts = {"id": job.id} | ({"existing": True} if job.existing else {})
            return facts, None if wait is None else await job.result(timeout=wait)

    facts, result = run(enqueue())
    if as_json:
        print_json(facts | ({} if wait is None else {"result": encode_json(result)}))
        return
    typer.echo(f"{facts['id']} (existing)" if "existing" in facts else facts["id"])
    if wait is not None:
        typer.echo(encode_json(result).decode())


def _moment(option: str, text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} {text}: write a moment with a time zone, such as 2030-01-31T09:00:00+01:00"
        ) from None


def _until(option: str, text: str) -> float | datetime:
    try:
        return float(text)
    except ValueError:
        return _moment(option, text)


def _retry(text: str) -> Retry:
    try:
        policy = msgspec.json.decode(text)
    except msgspec.MsgspecError as error:
        raise ConfigError(f"--retry {text}: {error}") from None
    checked: Retry = convert("mesh jobs enqueue", "retry", policy)
    return checked


def _scope(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text  # which is checked with the other options
