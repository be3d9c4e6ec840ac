"""JSON schemas of the types that handlers take and return."""

from __future__ import annotations

import json
from typing import Any

import msgspec

__all__ = ["json_schema"]


def json_schema(kind: Any) -> dict[str, Any] | None:
    """The JSON schema of a type's values as ``mesh.codec`` writes them; ``None`` if it cannot be
    derived. Never raises."""
    found: dict[str, Any] = {}

    def hook(custom: type[Any]) -> dict[str, Any]:
        # Pydantic's models, without importing pydantic; by the fields' own names, as they are
        # encoded.
        if not hasattr(custom, "model_json_schema"):
            raise NotImplementedError
        schema: dict[str, Any] = custom.model_json_schema(by_alias=False)
        _gather(found, schema.pop("$defs", {}))
        return schema

    try:
        schema = msgspec.json.schema(kind, schema_hook=hook)
        _gather(found, schema.pop("$defs", {}))
        schema = _unfold(schema, found)
        if found:
            schema["$defs"] = found
        json.dumps(schema)  # a default that is no JSON, say
    except Exception:  # types bring code of their own, and a schema is a help, no more
        return None
    return schema


def _gather(found: dict[str, Any], more: dict[str, Any]) -> None:
    """Put definitions where references look for them, at the root. Raises ``ValueError`` if two
    types have one name."""
    for name, schema in more.items():
        if found.setdefault(name, schema) != schema:
            raise ValueError(name)


def _unfold(schema: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """The schema itself where it is but a reference, unless others refer to the same."""
    reference = schema.get("$ref")
    if reference is None or len(schema) > 1:
        return schema
    name = reference.removeprefix("#/$defs/")
    if json.dumps(reference) in json.dumps(found):
        return schema
    unfolded: dict[str, Any] = found.pop(name)
    return unfolded
