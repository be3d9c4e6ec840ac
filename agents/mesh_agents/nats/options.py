"""What the URL of a NATS agent says.

``nats://user:password@host:4222,host2:4222?replicas=3``, ``tls://`` for TLS, a token in the
user's place, and the options in ``_KNOWN``, which may also come from the configuration.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from mesh.errors import ConfigError, did_you_mean
from mesh.plugins import hide_password

__all__ = ["Options"]

_KNOWN = {
    "replicas": "copies of each stream in a NATS cluster: 1, 3 or 5",
    "max_bytes": "bytes of jobs from which on new ones are refused: 500MB, 20GB (default: the "
    "server's limits, which leave no room for outcomes either)",
    "monitor": "URLs of the servers' monitoring endpoints, such as http://host:8222",
    "creds": "path of a .creds file",
    "nkey": "path of an nkey seed file",
    "tls_ca": "path of the certificate authority's certificate",
    "tls_cert": "path of this client's certificate",
    "tls_key": "path of this client's key",
}


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect, and what to create."""

    shown: str
    """The URL with its password hidden."""
    servers: list[str]
    """One URL a server, without user and password."""
    user: str | None
    password: str | None
    token: str | None
    replicas: int | None
    """``None``: leave an existing stream as it is, 1 for a new one."""
    max_bytes: int | None
    """Of the stream of jobs; ``None``: whatever the server takes."""
    monitors: tuple[str, ...]
    """Where the servers tell of themselves by HTTP."""
    paths: Mapping[str, str]

    @classmethod
    def parse(cls, url: str, extra: Mapping[str, Any]) -> Options:
        """Raises ``ConfigError`` for an option that is unknown or wrong."""
        parts = urlsplit(url)
        values = dict(parse_qsl(parts.query, keep_blank_values=True))
        values |= {key: str(value) for key, value in extra.items()}
        shown = hide_password(url)
        for key in values:
            if key not in _KNOWN:
                raise ConfigError(
                    f"NATS agent URL '{shown}': unknown option '{key}'{did_you_mean(key, _KNOWN)}"
                )
        userinfo, _, hosts = parts.netloc.rpartition("@")
        names = [host for host in hosts.split(",") if host]
        if not names:
            raise ConfigError(f"NATS agent URL '{shown}' names no host; use nats://host:4222")
        user, colon, password = userinfo.partition(":")
        return cls(
            shown=shown,
            servers=[f"{parts.scheme}://{name}" for name in names],
            user=unquote(user) if colon else None,
            password=unquote(password) if colon else None,
            token=unquote(user) if user and not colon else None,
            replicas=_replicas(values.pop("replicas", None), shown),
            max_bytes=_max_bytes(values.pop("max_bytes", None), shown),
            monitors=_monitors(values.pop("monitor", ""), shown),
            paths=values,
        )

    @property
    def tls(self) -> bool:
        """Whether the connection must be encrypted."""
        return self.servers[0].startswith("tls:") or any(k.startswith("tls_") for k in self.paths)

    def credentials(self) -> dict[str, Any]:
        """Arguments for the driver's ``connect``. Raises ``ConfigError`` for unreadable files."""
        arguments: dict[str, Any] = {
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "user_credentials": self.paths.get("creds"),
            "nkeys_seed": self.paths.get("nkey"),
        }
        try:
            for key in ("creds", "nkey"):
                if key in self.paths:
                    with open(self.paths[key], "rb"):
                        pass
            arguments["tls"] = self._tls()
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"NATS agent URL '{self.shown}': {error}") from error
        return {key: value for key, value in arguments.items() if value is not None}

    def _tls(self) -> ssl.SSLContext | None:
        if not any(key.startswith("tls_") for key in self.paths):
            return None  # a tls:// URL alone makes the driver trust the system's authorities
        context = ssl.create_default_context(cafile=self.paths.get("tls_ca"))
        if "tls_cert" in self.paths:
            context.load_cert_chain(self.paths["tls_cert"], self.paths.get("tls_key"))
        return context


def _monitors(value: str, shown: str) -> tuple[str, ...]:
    urls = tuple(url for url in value.split(",") if url)
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ConfigError(
                f"NATS agent URL '{shown}': monitor={url!r} is not a URL such as http://host:8222"
            )
    return urls


def _replicas(value: str | None, shown: str) -> int | None:
    if value is None:
        return None
    if value not in ("1", "2", "3", "4", "5"):
        raise ConfigError(
            f"NATS agent URL '{shown}': replicas={value!r} is not a number from 1 to 5"
        )
    return int(value)


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def _max_bytes(value: str | None, shown: str) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"([1-9]\d*)([KMGT]?)B?", value.strip().upper())
    if found is None:
        raise ConfigError(
            f"NATS agent URL '{shown}': max_bytes={value!r} is no number of bytes, such as 20GB"
        )
    return int(found[1]) * _UNITS[found[2]]
