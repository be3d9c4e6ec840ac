"""What runs in a process, and how it is."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import msgspec

from mesh.monitor.families import Families, exposition
from mesh.place import Place
from mesh.ports import Check

__all__ = ["Health", "Monitor", "Monitored"]

_PATIENCE = 4.0
"""Seconds for what a part says of itself: probes wait little longer."""


class Monitored(Protocol):
    """A part of a process, such as a worker."""

    @property
    def name(self) -> str: ...

    async def health(self) -> Sequence[Check]:
        """Whether it can do its work now. Raises nothing."""
        ...

    async def metrics(self, families: Families) -> None:
        """Add what it has counted and measured. Raises nothing."""
        ...


class Health(msgspec.Struct, frozen=True):
    """How a process is. That it says so at all means that it is alive."""

    ready: bool
    checks: list[Check]


class Monitor:
    """Belongs to an app; ``mesh.Mesh.monitor``."""

    def __init__(self, place: Place | None = None, file: Path | None = None) -> None:
        self.place = place
        """Where to tell it by HTTP."""
        self.file = file
        """Where to write it."""
        self.counts = False
        """Whether somebody asks for metrics: only then is anything counted."""
        self._parts: list[Monitored] = []

    @contextmanager
    def watching(self, part: Monitored) -> Iterator[None]:
        """In the block, that is a part of the process."""
        self._parts.append(part)
        try:
            yield
        finally:
            self._parts.remove(part)

    @property
    def parts(self) -> Sequence[Monitored]:
        return tuple(self._parts)

    async def health(self) -> Health:
        """Whether all parts are ready, and what they said."""
        if not self._parts:
            return Health(False, [Check("process", False, "nothing of it runs (yet)")])
        told = await asyncio.gather(*map(_ask, self._parts))
        checks = [check for checks in told for check in checks]
        return Health(all(check.ok for check in checks), checks)

    async def metrics(self) -> tuple[bytes, str]:
        """All metrics of the process in Prometheus' text format, and its content type. Raises
        ``ConfigError`` if ``prometheus_client`` is not there."""
        families = Families()
        for part in self._parts:
            await part.metrics(families)
        return exposition(families)


async def _ask(part: Monitored) -> Sequence[Check]:
    try:
        async with asyncio.timeout(_PATIENCE):
            return await part.health()
    except TimeoutError:
        return [Check(part.name, False, f"did not say within {_PATIENCE:g} s how it is")]
