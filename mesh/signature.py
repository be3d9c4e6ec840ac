"""What the annotations of a function say."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from mesh.context import Context
from mesh.errors import ConfigError

__all__ = ["is_context", "type_hints"]


def type_hints(annotated: Any, what: str) -> dict[str, Any]:
    """The types of its annotations. Raises ``ConfigError``, which begins with ``what``."""
    try:
        return get_type_hints(annotated, include_extras=True)
    except Exception as error:  # whatever evaluating an annotation raises
        raise ConfigError(
            f"{what}: an annotation cannot be resolved: {error}; "
            "its types must be importable from the module"
        ) from error


def is_context(hint: Any) -> bool:
    """Whether a parameter of that type is given the ``Context``."""
    if get_origin(hint) in (Union, UnionType, Annotated):
        return any(is_context(part) for part in get_args(hint))
    return hint is Context or get_origin(hint) is Context
