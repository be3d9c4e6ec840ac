"""Importing the modules in which an app's handlers are."""

from __future__ import annotations

import importlib
import os
import pkgutil
import traceback
from collections.abc import Iterable, Iterator
from types import ModuleType

from mesh.errors import ConfigError

__all__ = ["import_all"]


def import_all(names: Iterable[str], where: str) -> list[str]:
    """Import modules and, of packages, all modules within; returns their names. ``__main__``
    modules are programs and left out. Raises ``ConfigError``, which begins with ``where`` and
    names the module that cannot be imported, with the reason as its cause."""
    return [found for name in names for found in _walk(name, where)]


def _walk(name: str, where: str) -> Iterator[str]:
    # Not pkgutil.walk_packages: it imports packages by itself, and keeps ImportErrors back.
    module = _import(name, where)
    yield name
    for inner in pkgutil.iter_modules(getattr(module, "__path__", ()), f"{name}."):
        if not inner.name.endswith(".__main__"):
            yield from _walk(inner.name, where)


def _import(name: str, where: str) -> ModuleType:
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{where}: {name!r} must be the full name of a module, such as shop.jobs")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # whatever a module does when it is imported
        if isinstance(error, ModuleNotFoundError) and _is_within(name, error.name):
            raise ConfigError(
                f"{where}: there is no module '{error.name}' in {os.getcwd()} or on the Python "
                f"path; run where 'import {name}' works"
            ) from error
        raise ConfigError(
            f"{where}: module '{name}' cannot be imported: {type(error).__name__}: {error}"
            f"{_place(error)}"
        ) from error


def _is_within(name: str, missing: str | None) -> bool:
    """Whether the module itself is missing, or a package around it."""
    return missing is not None and f"{name}.".startswith(f"{missing}.")


def _place(error: BaseException) -> str:
    """The line of code that raised it: the command line shows no traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    if len(frames) < 2:  # nothing but this module's own
        return ""
    return f" ({frames[-1].filename}:{frames[-1].lineno})"
