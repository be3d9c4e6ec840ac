"""Enqueuing by name: through the app's own handler if this process has its code, else by what a
worker told of it. Then the arguments are checked against its published JSON schema, and the job
goes by the master."""

from __future__ import annotations

from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from mesh.bound import make_envelope, make_held
from mesh.codec import ValueCodec, encode_payload
from mesh.errors import ConfigError, InvalidArguments, MeshError, UnknownHandler, did_you_mean
from mesh.job_handle import JobHandle
from mesh.options import Options
from mesh.ports import HandlerInfo
from mesh_master.api.context import Api

__all__ = ["enqueue_by_name"]

_DEFAULTS = ("priority", "expires", "deadline", "result_ttl")
"""Options of a definition that belong to the job. Time-outs and retry policies that a job does not
have itself are its worker's."""


async def enqueue_by_name(
    api: Api, name: str, payload: dict[str, Any], options: dict[str, Any]
) -> JobHandle[Any]:
    """Enqueue a job of the handler with that full name. Raises what ``enqueue`` raises."""
    own = api.mesh.handlers.get(name)
    if own is None:
        return await _enqueue_told(api, await _told(api, name), payload, options)
    try:
        values = own.decode(msgspec.json.encode(payload))
    except msgspec.MsgspecError as error:
        raise InvalidArguments(f"handler '{name}': {error}") from None
    handle: JobHandle[Any] = await own.options(**options).enqueue(**values)
    return handle


async def _told(api: Api, name: str) -> HandlerInfo:
    known = {handler.name: handler for handler in await (await api.master()).handlers()}
    found = known.get(name)
    if found is None:
        raise UnknownHandler(
            f"no worker has told of a handler '{name}'"
            f"{did_you_mean(name, {*known, *api.mesh.handlers})}; start one that has its code, or "
            "see GET /handlers"
        )
    return found


async def _enqueue_told(
    api: Api, told: HandlerInfo, payload: dict[str, Any], given: dict[str, Any]
) -> JobHandle[Any]:
    mesh, definition = api.mesh, told.definition
    if definition.concurrency is not None or definition.rate is not None:
        raise ConfigError(
            f"handler '{told.name}' has limits, whose keys its code makes of the arguments, and "
            "this server does not have it: run it with your app (mesh master APP)"
        )
    # Before it is looked at: what is too large is not worth the time that looking takes.
    data = encode_payload(told.name, payload, mesh.payload_limit)
    _check(told, payload)
    defaults = {key: v for key in _DEFAULTS if (v := getattr(definition, key)) is not None}
    options = Options.parse(defaults).merge(Options.parse(given).for_one_job())
    options = options.named_for(mesh.prefix)
    job = make_envelope(
        told.name, definition.lane, data, options, mesh.now(), rare=options.has_rare
    )
    rules = mesh.lane_limits(job.lane)
    held = make_held(job, options, [] if rules is None else [rules], payload)
    result = ValueCodec(Any, f"result of '{told.name}'")
    (outcome,) = await mesh.submit_held([held], None, [result])
    if isinstance(outcome, MeshError):
        raise outcome
    return outcome


def _check(told: HandlerInfo, payload: dict[str, Any]) -> None:
    schema = told.definition.arguments
    if schema is None:
        return
    # What is not among the arguments is a mistake, as it is where the code is.
    closed = {"additionalProperties": False, **schema} if "properties" in schema else schema
    # A registry of its own: what a worker published must not make this server fetch addresses.
    validator = Draft202012Validator(closed, registry=Registry())
    try:
        problems = sorted(validator.iter_errors(payload), key=lambda error: error.json_path)
    except Unresolvable as error:
        raise ConfigError(
            f"the schema of handler '{told.name}' refers to {error}, which is not a part of it: "
            "nothing is fetched; run the server with your app (mesh master APP)"
        ) from None
    if problems:
        shown = "; ".join(f"{error.json_path}: {error.message}" for error in problems[:5])
        raise InvalidArguments(f"handler '{told.name}': {shown}")
