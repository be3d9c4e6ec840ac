"""Arguments and results as JSON, checked against a handler's types.

What is encoded is decoded once more in the caller, with the very decoder that the worker will
use: so whatever a worker could not read is refused where it was made.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mesh.errors import ConfigError, InvalidArguments, PayloadTooLarge

__all__ = ["ArgumentsCodec", "ValueCodec", "encode_json"]

_PATH = re.compile(r" - at `\$\.?([^`]*)`$")
_UNENCODABLE = (
    TypeError, ValueError, OverflowError, RecursionError, NotImplementedError
)  # fmt: skip


def _encode_hook(value: Any) -> Any:
    # Pydantic models, without importing pydantic (docs.pydantic.dev: "mode='json'").
    if hasattr(type(value), "__pydantic_validator__") and hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise NotImplementedError(f"objects of type {type(value).__qualname__} cannot be encoded")


def _decode_hook(kind: type[Any], value: Any) -> Any:
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    raise NotImplementedError(f"type {kind.__qualname__} cannot be decoded")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)


def encode_json(value: Any) -> bytes:
    """JSON of whatever msgspec or pydantic can encode. Raises ``TypeError`` or ``ValueError``."""
    try:
        return _encoder.encode(value)
    except (NotImplementedError, RecursionError, OverflowError) as error:
        raise TypeError(str(error)) from error


class ValueCodec:
    """JSON of one value of a given type, such as a handler's result."""

    def __init__(self, kind: Any, what: str) -> None:
        self.kind = kind
        try:
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
                kind, dec_hook=_decode_hook
            )
        except TypeError as error:
            raise ConfigError(f"{what}: the type {kind!r} is not supported: {error}") from error

    def encode(self, value: Any) -> bytes:
        """Raises ``TypeError`` or ``ValueError``."""
        return encode_json(value)

    def decode(self, data: bytes) -> Any:
        """Raises ``msgspec.ValidationError``."""
        return self._decoder.decode(data)


class ArgumentsCodec:
    """A JSON object of a function's arguments by their names, or of a typed request's fields."""

    def __init__(
        self, name: str, parameters: Mapping[str, inspect.Parameter], hints: Mapping[str, Any]
    ) -> None:
        self._name = name
        fields: list[Any] = []
        self._positional: list[str] = []
        for parameter in parameters.values():
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise ConfigError(
                    f"handler '{name}': *{parameter.name} cannot be checked; "
                    "name each argument, or take a list or dict"
                )
            if parameter.kind is not parameter.KEYWORD_ONLY:
                self._positional.append(parameter.name)
            kind = hints.get(parameter.name, Any)
            if parameter.default is parameter.empty:
                fields.append((parameter.name, kind))
            else:
                fields.append((parameter.name, kind, _default(parameter.default)))
        self._struct = msgspec.defstruct(name.replace(".", "_"), fields, kw_only=True)
        self._values = ValueCodec(self._struct, f"handler '{name}'")

    def encode(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], limit: int) -> bytes:
        """The payload. Raises ``InvalidArguments`` or ``PayloadTooLarge``."""
        fields = self._bind(args, kwargs)
        try:
            value = self._struct(**fields)
        except TypeError as error:
            raise InvalidArguments(f"{self._name}(): {_plain(error)}") from None
        return encode_checked(self._name, self._values, value, fields, limit)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        if len(args) > len(self._positional):
            raise InvalidArguments(
                f"{self._name}() takes {len(self._positional)} positional arguments, "
                f"{len(args)} were given"
            )
        fields = dict(zip(self._positional, args, strict=False))
        if twice := fields.keys() & kwargs.keys():
            raise InvalidArguments(f"{self._name}(): argument '{min(twice)}' is given twice")
        return fields | kwargs

    def decode(self, payload: bytes) -> dict[str, Any]:
        """The arguments by name. Raises ``msgspec.ValidationError``."""
        value = self._values.decode(payload)
        return {name: getattr(value, name) for name in self._struct.__struct_fields__}


def encode_checked(
    name: str, codec: ValueCodec, value: Any, fields: Mapping[str, Any], limit: int
) -> bytes:
    """JSON of ``value`` that ``codec`` can read again, of at most ``limit`` bytes.

    ``fields`` are its parts by name, to say which one is wrong.
    """
    try:
        payload = codec.encode(value)
    except _UNENCODABLE as error:
        raise InvalidArguments(f"{name}(): {_blame(fields, error)}") from error
    if len(payload) > limit:
        raise PayloadTooLarge(
            f"{name}(): the arguments take {len(payload)} bytes, the limit is {limit}; "
            f"{_largest(fields)}: store it elsewhere and pass a reference, or raise payload_limit"
        )
    try:
        codec.decode(payload)
    except msgspec.ValidationError as error:
        text = str(error)
        path = _PATH.search(text)
        where = f"argument '{path[1]}': " if path and path[1] else ""
        raise InvalidArguments(f"{name}(): {where}{_PATH.sub('', text)}") from None
    return payload


def _default(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return msgspec.field(default_factory=lambda: value)
    return value


def _plain(error: TypeError) -> str:
    """msgspec's words on binding, in those of a function call."""
    text = str(error)
    text = re.sub(r"^Missing required argument '(.*)'", r"missing argument '\1'", text)
    return re.sub(r"^Unexpected keyword argument '(.*)'", r"unknown argument '\1'", text)


def _blame(fields: Mapping[str, Any], error: BaseException) -> str:
    for key, value in fields.items():
        try:
            encode_json(value)
        except _UNENCODABLE as reason:
            return f"argument '{key}' cannot be encoded: {reason}"
    return str(error)


def _largest(fields: Mapping[str, Any]) -> str:
    sizes = {key: len(encode_json(value)) for key, value in fields.items()}
    key = max(sizes, key=sizes.__getitem__)
    return f"argument '{key}' takes {sizes[key]}"
