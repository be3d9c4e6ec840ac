"""The options of ``mesh jobs …`` that say which jobs, alike for all commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from mesh.app import Mesh
from mesh.clock import parse_duration
from mesh.errors import ConfigError
from mesh.filter import JobFilter
from mesh.history import parse_where

__all__ = ["Chosen", "parse_moment", "parse_tag", "takes_where"]


def _options(
    state: Annotated[list[str] | None, typer.Option(help="In this state. Repeatable.")] = None,
    name: Annotated[
        str | None, typer.Option(help="Of this handler; 'reports.*': of all that begin so.")
    ] = None,
    lane: Annotated[str | None, typer.Option(help="Of this lane.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Of this schedule.")] = None,
    meta: Annotated[
        list[str] | None, typer.Option(metavar="TAG=VALUE", help="With this tag. Repeatable.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="With this idempotency key.")] = None,
    workflow: Annotated[str | None, typer.Option(help="Of this workflow.")] = None,
    parent: Annotated[str | None, typer.Option(help="Enqueued by this job's handler.")] = None,
    error: Annotated[str | None, typer.Option(help="Failed with this type of error.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="Failed alike, as 'mesh jobs failures' shows.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="Enqueued (of ended jobs: ended) so long ago at most, as 90s, 1h, 7d; or from "
            "that moment on, as 2026-01-31T09:00:00+01:00."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Longer ago, or before that moment.")] = None,
    order: Annotated[
        str | None,
        typer.Option(
            help="'enqueued' (the newest first) or 'finished' (what ended last first). Default: "
            "finished, if only states are asked for in which jobs have ended."
        ),
    ] = None,
    retried: Annotated[
        bool | None,
        typer.Option("--retried/--not-retried", help="Done again already, or not."),
    ] = None,
) -> None:
    """Never called: its parameters are what ``takes_where`` adds."""


class Chosen:
    """Which jobs a command was told to take."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = {key: value for key, value in given.items() if value not in (None, [])}

    def __bool__(self) -> bool:
        """Whether it was told at all."""
        return bool(self._given)

    def filter(self, mesh: Mesh) -> JobFilter:
        """Those of an app with a prefix are its own. Raises ``ConfigError``, naming the option."""
        given = dict(self._given)
        if "meta" in given:
            given["meta"] = dict(parse_tag(text) for text in given["meta"])
        for key in ("since", "until"):
            if key in given:
                given[key] = parse_moment(f"--{key}", given[key])
        return parse_where(given, mesh.now(), "mesh jobs", mesh.prefix)


def takes_where(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which jobs; it gets them as ``chosen``."""
    mine = inspect.signature(command).parameters
    added = inspect.signature(_options).parameters

    @wraps(command)
    def call(**values: Any) -> None:
        chosen = Chosen({key: values.pop(key) for key in added})
        command(chosen=chosen, **values)

    hints = get_type_hints(_options, include_extras=True)
    hints |= get_type_hints(command, include_extras=True)
    own = [parameter for key, parameter in mine.items() if key != "chosen"]
    parameters = [p.replace(annotation=hints[p.name]) for p in (*own, *added.values())]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    call.__annotations__ = {p.name: p.annotation for p in parameters}
    return call


def parse_tag(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--meta '{text}': write TAG=VALUE, such as tenant=42")
    return name, value


def parse_moment(option: str, text: str) -> datetime | timedelta:
    try:
        return timedelta(seconds=parse_duration(text))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            f"{option} '{text}': write how long ago, such as 90s, 1h 30m or 7d, or a moment with "
            "its offset from UTC, such as 2026-01-31T09:00:00+01:00"
        ) from None
    if moment.tzinfo is None:
        raise ConfigError(f"{option} '{text}' has no offset from UTC: add Z, or one such as +01:00")
    return moment
