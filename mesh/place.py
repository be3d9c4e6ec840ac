"""Where a process listens."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import ConfigError

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a door listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Place:
        """``9100``, which is 127.0.0.1:9100, or ``0.0.0.0:9100``, or ``[::]:9100``. Raises
        ``ConfigError``."""
        host, _, port = text.strip().rpartition(":")
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ConfigError(f"monitor={text!r}: must be a port, or HOST:PORT: 127.0.0.1:9100")
        return cls(host.strip("[]") or "127.0.0.1", int(port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def next(self, number: int) -> Place:
        """That of the process with this number, from 0, of several on a machine. Raises
        ``ConfigError``."""
        return Place.parse(f"{Place(self.host, self.port + number)}")
