"""Typed requests: classes that name a handler, its arguments and its result."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import (
    Any,
    ClassVar,
    Generic,
    TypeVar,
    Unpack,
    dataclass_transform,
    get_args,
    get_origin,
)

from mesh.codec import RequestCodec, ValueCodec
from mesh.definition import About, Kind
from mesh.errors import ConfigError
from mesh.limits import KeyFunction, LimitRules
from mesh.options import DEFINED, HandlerOptions, Options
from mesh.prefix import Prefix
from mesh.signature import type_hints

__all__ = [
    "DEFAULT_LANE",
    "Job",
    "Requested",
    "check_handler_name",
    "request_codecs",
    "requested",
    "result_type",
]

R = TypeVar("R")

DEFAULT_LANE = "default"

_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,200}\Z")


@dataclass_transform(frozen_default=True)
class Job(Generic[R]):
    """Base of typed requests: a frozen dataclass that names its handler and its result's type.

    ::

        class ExportUsers(Job[ExportResult], name="exports.users.v1", lane="exports"):
            tenant_id: UUID

    ``name`` is the handler's stable name (default: the class's own). All that ``@app.job`` takes
    is given here in the same words, but for ``process``, which is the handler's. A program that
    only enqueues needs the class and not the handler.
    """

    mesh_name: ClassVar[str]
    mesh_options: ClassVar[Options]
    mesh_limits: ClassVar[LimitRules | None]
    mesh_about: ClassVar[About]

    def __init_subclass__(
        cls,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        icon: str | None = None,
        kind: Kind | None = None,
        concurrency: int | None = None,
        concurrency_key: KeyFunction | None = None,
        limit: str | None = None,
        limit_key: KeyFunction | None = None,
        burst: float | None = None,
        **options: Unpack[HandlerOptions],
    ) -> None:
        super().__init_subclass__()
        where = f"class {cls.__name__}"
        if "process" in options:
            raise ConfigError(f"{where}: process is its handler's: @app.handler(process=True)")
        cls.mesh_name = check_handler_name(name or cls.__name__)
        cls.mesh_options = Options.parse(options, DEFINED, where).for_many_jobs(where)
        cls.mesh_limits = LimitRules.parse(
            *("job", cls.mesh_name, where),
            *(concurrency, concurrency_key, limit, limit_key, burst),
        )
        # Before it is a dataclass, which makes up a docstring where there is none.
        cls.mesh_about = About.parse(where, title, description, icon, kind).described_by(cls)
        dataclass(frozen=True)(cls)


def check_handler_name(name: str) -> str:
    if not _NAME.match(name):
        raise ConfigError(
            f"handler name '{name}' is not valid: use 1 to 200 of letters, digits and '_.:-'"
        )
    return name


def result_type(request: type[Job[Any]]) -> Any:
    """The ``R`` of a request class's ``Job[R]``. Raises ``ConfigError``."""
    for kind in request.__mro__:
        for base in vars(kind).get("__orig_bases__", ()):
            if get_origin(base) is Job:
                # It may be the name of a class that the module defines further down.
                found = {"__annotations__": {"R": get_args(base)[0]}, "__module__": kind.__module__}
                return type_hints(type("found", (), found), f"request '{request.mesh_name}'")["R"]
    return Any


@dataclass(frozen=True, slots=True)
class Requested:
    """What a job of a request class is told, by an app: in the cluster's names."""

    name: str
    options: Options
    limits: LimitRules | None


@cache
def requested(kind: type[Job[Any]], prefix: Prefix) -> Requested:
    """Raises ``ConfigError`` if a name is too long with the prefix."""
    name = check_handler_name(prefix.of(kind.mesh_name))
    limits = kind.mesh_limits and kind.mesh_limits.named(name)
    return Requested(name, kind.mesh_options.that_travel().named_for(prefix), limits)


@cache
def request_codecs(kind: type[Job[Any]]) -> tuple[RequestCodec, ValueCodec]:
    """For a request and its result, without its handler. Raises ``ConfigError``."""
    name = kind.mesh_name
    return RequestCodec(name, kind), ValueCodec(result_type(kind), f"result of '{name}'")
