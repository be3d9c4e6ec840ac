"""Arguments and results as JSON, checked against a handler's types.

What is encoded is decoded once more in the caller, with the very decoder that the worker will
use: so whatever a worker could not read is refused where it was made.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from math import isfinite
from typing import Any

import msgspec

from mesh.errors import ConfigError, InvalidArguments, PayloadTooLarge, did_you_mean
from mesh.schema import json_schema

__all__ = ["ArgumentsCodec", "RequestCodec", "ValueCodec", "encode_json", "encode_payload"]

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")

_UNNAMED = {
    inspect.Parameter.POSITIONAL_ONLY: "arguments are stored by name, so remove the '/' after '{}'",
    inspect.Parameter.VAR_POSITIONAL: "*{} cannot be checked; take a list",
    inspect.Parameter.VAR_KEYWORD: "**{} cannot be checked; name each argument, or take a dict",
}


# Pydantic's models, without importing pydantic. By the fields' own names, whatever aliases they
# have, and without computed fields: what is written must be readable.


def _encode_hook(value: Any) -> Any:
    if hasattr(type(value), "__pydantic_validator__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json", by_alias=False, round_trip=True)
    raise TypeError(f"objects of type {type(value).__qualname__} cannot be encoded")


def _decode_hook(kind: type[Any], value: Any) -> Any:
    if hasattr(kind, "model_validate_json"):
        # Not model_validate: in strict mode it refuses what JSON has no type for, such as dates.
        return kind.model_validate_json(_encoder.encode(value), by_name=True)
    raise TypeError(f"type {kind.__qualname__} is not supported")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)


def encode_json(value: Any) -> bytes:
    """JSON of whatever msgspec or pydantic can encode. Raises ``TypeError`` or ``ValueError``."""
    try:
        return _encoder.encode(value)
    except (RecursionError, OverflowError) as error:
        raise TypeError(str(error)) from error


class ValueCodec:
    """JSON of one value of a given type, such as a handler's result."""

    def __init__(self, kind: Any, what: str) -> None:
        """Raises ``ConfigError``, which begins with ``what``, if the type cannot be handled."""
        try:
            decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(kind, dec_hook=_decode_hook)
        except (TypeError, NameError) as error:
            raise ConfigError(f"{what}: {error}") from error
        self._kind = kind
        self.decode: Callable[[bytes], Any] = decoder.decode
        """The value of its JSON. Raises ``msgspec.ValidationError``."""

    def encode(self, value: Any) -> bytes:
        """Raises ``TypeError`` or ``ValueError``."""
        return encode_json(value)

    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of the values; ``None`` if nothing is known of them."""
        return json_schema(self._kind) or None


class ArgumentsCodec:
    """A JSON object of a function's arguments by their names."""

    def __init__(
        self, name: str, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
    ) -> None:
        """``name`` is the handler's. Raises ``ConfigError`` for what cannot be stored."""
        self._name = name
        self._parameters, self._hints = parameters, hints
        self._names = self.names = list(parameters)
        self._positional = [p.name for p in parameters.values() if p.kind is not p.KEYWORD_ONLY]
        self._exact: dict[str, type] = {}
        fields: list[Any] = []
        for parameter in parameters.values():
            if parameter.kind in _UNNAMED:
                raise ConfigError(
                    f"handler '{name}': {_UNNAMED[parameter.kind].format(parameter.name)}"
                )
            kind = hints.get(parameter.name, Any)
            for plain in (str, bytes):
                if kind in (plain, plain | None):
                    self._exact[parameter.name] = plain
            if parameter.default is parameter.empty:
                fields.append((parameter.name, kind))
            else:
                fields.append((parameter.name, kind, _default(parameter.default)))
        # A struct binds arguments as a function does, if it takes them in the same order.
        self._binds = len(self._positional) == len(self._names)
        self._struct = msgspec.defstruct(
            name.replace(".", "_"), fields, kw_only=not self._binds, gc=False
        )
        # Values of exactly these types need no look before they are encoded.
        sure = (str, bytes, int, bool)
        self._sure = [(n, next((k for k in sure if hints.get(n) is k), None)) for n in self._names]
        self._values = ValueCodec(self._struct, f"handler '{name}'")

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> bytes:
        """The payload. Raises ``InvalidArguments`` or ``PayloadTooLarge``."""
        value = self._bind_at_once(args, kwargs)
        if value is not None:
            return _encode(self._name, value, limit)
        fields = self._bind(args, kwargs)
        try:
            value = self._struct(**fields)
        except TypeError as error:
            text = str(error).replace("Missing required", "missing")
            raise InvalidArguments(f"{self._name}(): {text}") from None
        self._check(fields)
        return _encode_checked(self._name, self._values, value, limit)

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The arguments by name. Raises ``msgspec.ValidationError``."""
        return _parts(self._values.decode(payload))

    fields = decode

    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of the payload, with the defaults; ``None`` if it cannot be derived."""
        schema = self._values.schema()
        for name, described in (schema or {}).get("properties", {}).items():
            default = self._parameters[name].default
            if default is not inspect.Parameter.empty:
                with suppress(TypeError, ValueError):
                    described["default"] = msgspec.json.decode(encode_json(default))
        return schema

    def without(self, names: Collection[str]) -> ArgumentsCodec:
        """For calls that leave these to be filled in later. Raises ``InvalidArguments`` if the
        handler has not all of them."""
        if not names:
            return self
        for name in names:
            if name not in self._names:
                hint = did_you_mean(name, self._names)
                raise InvalidArguments(f"{self._name}(): unknown argument '{name}'{hint}")
        rest = {name: p for name, p in self._parameters.items() if name not in names}
        return ArgumentsCodec(self._name, rest, self._hints)

    def _bind_at_once(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The arguments as a struct, if there is certainly nothing to say against them: what
        JSON makes of values of these types can be read again."""
        if not self._binds:
            return None
        try:
            value = self._struct(*args, **kwargs)
        except TypeError:
            return None
        for name, kind in self._sure:
            if type(getattr(value, name)) is not kind:
                return None
        return value

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._positional):
            raise InvalidArguments(
                f"{self._name}() takes {len(self._positional)} positional arguments, "
                f"{len(args)} were given"
            )
        fields = dict(zip(self._positional, args, strict=False))
        for key in kwargs:
            if key not in self._names:
                hint = did_you_mean(str(key), self._names)
                raise InvalidArguments(f"{self._name}(): unknown argument '{key}'{hint}")
        if twice := fields.keys() & kwargs.keys():
            raise InvalidArguments(f"{self._name}(): argument '{min(twice)}' is given twice")
        return {**fields, **kwargs}

    def _check(self, fields: Mapping[str, Any]) -> None:
        """Refuse what JSON would turn into something else of the right type."""
        for name, value in fields.items():
            wanted = self._exact.get(name)
            if wanted is not None and value is not None and not _is_plain(value, wanted):
                raise InvalidArguments(
                    f"{self._name}(): argument '{name}': Expected `{wanted.__name__}`, "
                    f"got `{type(value).__name__}`"
                )
            if isinstance(value, float) and not isfinite(value):
                raise InvalidArguments(
                    f"{self._name}(): argument '{name}': {value} cannot be stored as JSON"
                )


class RequestCodec:
    """A JSON object of a typed request's fields: the one argument of its handler."""

    def __init__(self, name: str, kind: type, parameter: str = "request") -> None:
        """``name`` is the handler's. Raises ``ConfigError`` for fields that cannot be stored."""
        self._name = name
        self._kind = kind
        self._parameter = parameter
        self.names: list[str] = []
        """None: a request is given whole."""
        self._values = ValueCodec(kind, f"request '{name}'")

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> bytes:
        """The payload. Raises ``InvalidArguments`` or ``PayloadTooLarge``."""
        given = [*args, *kwargs.values()]
        if len(given) != 1 or type(given[0]) is not self._kind or kwargs.keys() - {self._parameter}:
            raise InvalidArguments(f"{self._name}() takes one argument, a {self._kind.__name__}")
        return _encode_checked(self._name, self._values, given[0], limit)

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The request by its parameter's name. Raises ``msgspec.ValidationError``."""
        return {self._parameter: self._values.decode(payload)}

    def fields(self, payload: bytes) -> dict[str, Any]:
        """The request's fields. Raises ``msgspec.ValidationError``."""
        return _parts(self._values.decode(payload))

    def schema(self) -> dict[str, Any] | None:
        """The JSON schema of the payload; ``None`` if it cannot be derived."""
        return self._values.schema()

    def without(self, names: Collection[str]) -> RequestCodec:
        """Raises ``InvalidArguments``: a request is given whole."""
        if names:
            raise InvalidArguments(
                f"{self._name}(): a typed request is given whole; find what it runs after in "
                "ctx.parents"
            )
        return self


def _encode_checked(name: str, codec: ValueCodec, value: Any, limit: int) -> bytes:
    """JSON of ``value`` that ``codec`` can read again, of at most ``limit`` bytes."""
    payload = _encode(name, value, limit)
    try:
        codec.decode(payload)
    except (msgspec.ValidationError, RecursionError) as error:
        text = str(error)
        path = _PATH.search(text)
        where = f"argument '{path[1]}': " if path and path[1] else ""
        raise InvalidArguments(f"{name}(): {where}{_PATH.sub('', text)}") from None
    return payload


def _encode(name: str, value: Any, limit: int) -> bytes:
    try:
        payload = encode_json(value)
    except (TypeError, ValueError) as error:
        raise InvalidArguments(f"{name}(): {_blame(value, error)}") from error
    if len(payload) > limit:
        raise PayloadTooLarge(
            f"{name}(): the arguments take {len(payload)} bytes, the limit is {limit}; "
            f"{_largest(value)}: store it elsewhere and pass a reference, or raise payload_limit"
        )
    return payload


def encode_payload(name: str, arguments: Mapping[str, Any], limit: int) -> bytes:
    """JSON of arguments by name, which no handler has checked. Raises ``InvalidArguments`` or
    ``PayloadTooLarge``."""
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise InvalidArguments(
            f"{name}(): payload={arguments!r}: must map the arguments' names to their values"
        )
    return _encode(name, dict(arguments), limit)


def _default(value: Any) -> Any:
    # A factory, since msgspec refuses some mutable defaults. All calls share the one value, as
    # they do in Python.
    return msgspec.field(default_factory=lambda: value)


def _is_plain(value: Any, wanted: type) -> bool:
    return isinstance(value, str if wanted is str else bytes | bytearray | memoryview)


def _parts(value: Any) -> dict[str, Any]:
    """Arguments by their names, or a request's fields."""
    if isinstance(value, dict):
        return value
    return msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else vars(value)


def _blame(value: Any, error: Exception) -> str:
    for key, part in _parts(value).items():
        try:
            encode_json(part)
        except (TypeError, ValueError) as reason:
            return f"argument '{key}' cannot be encoded: {reason}"
    return str(error)


def _largest(value: Any) -> str:
    sizes = {key: len(encode_json(part)) for key, part in _parts(value).items()}
    key = max(sizes, key=sizes.__getitem__)
    return f"argument '{key}' takes {sizes[key]}"
